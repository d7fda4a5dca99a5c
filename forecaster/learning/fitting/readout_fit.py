"""The readout and the intervals of a body, solved from one pass over the sequences without gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forecaster.core.network.network import Network, NetworkConfig, centre
from forecaster.core.network.normal_equations import NormalEquations
from forecaster.core.network.tbptt import TARGET_CLIP
from forecaster.learning.data.batches import PaddedBatch

RIDGES_LINEAR = (5.0, 50.0, 500.0, 5_000.0)
RIDGES_BODY = (20.0, 200.0, 2_000.0, 20_000.0, 1e6)
"""Where several do equally well, the first ones are taken."""
CHUNK = 48
"""Steps that are assembled at a time; those of training, by default, so that kept chunks serve both."""


@dataclass(frozen=True, slots=True)
class Rows:
    """N steps: features, targets and their times (N, J), event times, weights and series (N,).

    `cross`: features of the other series of the group; (N, X).
    """

    z: Tensor
    q: Tensor
    target: Tensor
    target_ms: Tensor
    time_ms: Tensor
    weight: Tensor
    series: Tensor
    cross: Tensor


def rows(network: Network, batches: Sequence[PaddedBatch], steps: int = CHUNK) -> Iterator[Rows]:
    """Yields the real steps of every chunk, flat, hidden states carried from chunk to chunk."""
    for batch in batches:
        state = torch.zeros(len(batch), network.state_size)
        for begin, end, chunk in batch.chunks(steps):
            with torch.no_grad():
                z, state = network.unroll(chunk.u, state, lengths=chunk.lengths)
            real = torch.arange(len(chunk.u)).unsqueeze(-1) < chunk.lengths
            yield Rows(
                z[real],
                chunk.q[real],
                chunk.target[real],
                batch.target_ms(begin, end)[real],
                batch.time_ms[begin:end][real],
                batch.weight(begin, end)[real],
                batch.series.expand(len(chunk.u), -1)[real],
                batch.cross[begin:end][real],
            )


@torch.no_grad()
def normal_equations(
    network: Network, batches: Sequence[PaddedBatch], cuts_ms: Sequence[int], steps: int = CHUNK
) -> list[NormalEquations]:
    """Returns the readout's normal equations of the stretches between the cuts; one more than there are cuts.

    Args:
        network: the body.
        batches: all the sequences.
        cuts_ms: ascending; a target belongs to the stretch in which it came true.
        steps: of a chunk.
    """
    size = network.config.readout_size, len(network.config.horizons)
    parts = [NormalEquations.empty(*size) for _ in range(len(cuts_ms) + 1)]
    cuts = torch.tensor(cuts_ms, dtype=torch.int64)
    for some in rows(network, batches, steps):
        features = torch.cat([some.q, some.z], dim=-1)
        target = some.target.clamp(-TARGET_CLIP, TARGET_CLIP) - network.base(some.z)
        stretch = torch.bucketize(some.target_ms, cuts, right=True)
        for number, part in enumerate(parts):
            mine = stretch == number
            if mine.any():
                part.add(features, torch.where(mine, target, torch.nan), some.weight)
    return parts


def best_ridge(config: NetworkConfig, fitting: NormalEquations, held_out: NormalEquations) -> Tensor:
    """Returns the ridge whose readout of the fitting stretch does best on the held-out one; (P + Z,).

    A body was trained on the fitting stretch, so that its features look better there than they are.
    """

    def ridge(linear: float, body: float) -> Tensor:
        return torch.cat([torch.full((config.features.readout_size,), linear), torch.full((config.hidden_size,), body)])

    candidates = [ridge(*pair) for pair in itertools.product(RIDGES_LINEAR, RIDGES_BODY)]
    return min(candidates, key=lambda candidate: held_out.relative_error(fitting.solve(candidate)))


@torch.no_grad()
def calibrate(
    network: Network, batches: Sequence[PaddedBatch], readout: Tensor, begin_ms: int, steps: int = CHUNK
) -> None:
    """Each quantile of the steps from `begin_ms` on lies so high that its share of truths is below it.

    Args:
        network: whose quantile head it is; in place.
        batches: all the sequences.
        readout: solved from what came before `begin_ms`.
        begin_ms: where the judged stretch begins; a stretch without truths leaves the head as it is.
        steps: of a chunk.
    """
    calibration = network.quantiles.calibration
    before = calibration.clone()
    calibration.zero_()
    residuals: list[Tensor] = []
    for some in rows(network, batches, steps):
        late = some.time_ms >= begin_ms
        if late.any():
            z, q = some.z[late], some.q[late]
            middle = centre(network.base(z), readout, q, z)
            residuals.append((some.target[late] - middle).unsqueeze(-2) - network.offsets(z))
    below = torch.cat(residuals) if residuals else torch.full((1, *calibration.shape), torch.nan)
    if torch.isnan(below).all(dim=0).any():
        calibration.copy_(before)
        return
    for number, level in enumerate(network.config.quantile_levels):
        calibration[number] = torch.nanquantile(below[:, number], level, dim=0)
