"""The readout and the quantile calibration of a body, each fitted in one pass over the sequences without gradients."""

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
"""Ridges of the linear features to choose from; of several that do equally well, the first one is taken."""
RIDGES_BODY = (20.0, 200.0, 2_000.0, 20_000.0, 1e6)
"""Ridges of the body's features to choose from; of several that do equally well, the first one is taken."""
CHUNK_STEPS = 48
"""Steps that are assembled at a time; the same as in training by default, so that cached chunks serve both."""


@dataclass(frozen=True, slots=True)
class FlatSteps:
    """N steps of a chunk without padding.

    Attributes:
        z: features of the body; (N, Z).
        q: linear features; (N, P).
        target: difference to the last value, in scales; NaN where it is unknown; (N, J).
        target_ms: event time of each target; (N, J).
        time_ms: event time of each step; (N,).
        weight: weight of each step's squared error; (N,).
        series: number of each step's series; (N,).
        cross: inputs from the other series of the group; (N, X).
    """

    z: Tensor
    q: Tensor
    target: Tensor
    target_ms: Tensor
    time_ms: Tensor
    weight: Tensor
    series: Tensor
    cross: Tensor

    def residual(self, network: Network) -> Tensor:
        """Return the clipped target minus the network's base, which the readout explains; (N, J)."""
        return self.target.clamp(-TARGET_CLIP, TARGET_CLIP) - network.base(self.z)


def flat_steps(network: Network, batches: Sequence[PaddedBatch], chunk_steps: int = CHUNK_STEPS) -> Iterator[FlatSteps]:
    """Yield the steps of chunk after chunk; hidden states are carried from one to the next."""
    for batch in batches:
        state = torch.zeros(len(batch), network.state_size)
        for begin, end, chunk in batch.chunks(chunk_steps):
            with torch.no_grad():
                z, state = network.unroll(chunk.u, state, lengths=chunk.lengths)
            is_step = torch.arange(len(chunk.u)).unsqueeze(-1) < chunk.lengths
            yield FlatSteps(
                z=z[is_step],
                q=chunk.q[is_step],
                target=chunk.target[is_step],
                target_ms=batch.target_ms(begin, end)[is_step],
                time_ms=batch.time_ms[begin:end][is_step],
                weight=batch.weight(begin, end)[is_step],
                series=batch.series.expand(len(chunk.u), -1)[is_step],
                cross=batch.cross[begin:end][is_step],
            )


@torch.no_grad()
def build_normal_equations(
    network: Network, batches: Sequence[PaddedBatch], cuts_ms: Sequence[int], chunk_steps: int = CHUNK_STEPS
) -> list[NormalEquations]:
    """Return the normal equations of the readout for each time span between the cuts: one more than there are cuts.

    Args:
        network: body.
        batches: all sequences.
        cuts_ms: times between the spans, ascending, epoch ms; a target belongs to the span of its event time.
        chunk_steps: number of steps in a chunk.
    """
    size = network.config.readout_size, len(network.config.horizons)
    parts = [NormalEquations.empty(*size) for _ in range(len(cuts_ms) + 1)]
    cuts = torch.tensor(cuts_ms, dtype=torch.int64)
    for steps in flat_steps(network, batches, chunk_steps):
        features = torch.cat([steps.q, steps.z], dim=-1)
        residual = steps.residual(network)
        span = torch.bucketize(steps.target_ms, cuts, right=True)
        for number, part in enumerate(parts):
            belongs = span == number
            if belongs.any():
                part.add(features, torch.where(belongs, residual, torch.nan), steps.weight)
    return parts


def choose_ridge(config: NetworkConfig, fitting: NormalEquations, held_out: NormalEquations) -> Tensor:
    """Return the ridge whose readout, fitted on the fitting span, has the least error on the held-out one; (P + Z,).

    Features of the body get ridges of their own: the body was trained on the fitting span, so that they look better
    there than they are.
    """

    def ridge(linear: float, body: float) -> Tensor:
        return torch.cat([torch.full((config.features.readout_size,), linear), torch.full((config.hidden_size,), body)])

    candidates = [ridge(*pair) for pair in itertools.product(RIDGES_LINEAR, RIDGES_BODY)]
    return min(candidates, key=lambda candidate: held_out.relative_error(fitting.solve(candidate)))


@torch.no_grad()
def calibrate_quantiles(
    network: Network, batches: Sequence[PaddedBatch], readout: Tensor, begin_ms: int, chunk_steps: int = CHUNK_STEPS
) -> None:
    """Shift each quantile so that its share of the truths from `begin_ms` on lies below it.

    Args:
        network: body whose quantile head changes in place, unless some quantile has no truth from `begin_ms` on.
        batches: all sequences.
        readout: readout fitted to the targets before `begin_ms`; (P + Z, J).
        begin_ms: time of the first step that calibrates, epoch ms.
        chunk_steps: number of steps in a chunk.
    """
    calibration = network.quantiles.calibration
    before = calibration.clone()
    calibration.zero_()
    residuals: list[Tensor] = []
    for steps in flat_steps(network, batches, chunk_steps):
        late = steps.time_ms >= begin_ms
        if late.any():
            z, q = steps.z[late], steps.q[late]
            point = centre(network.base(z), readout, q, z)
            residuals.append((steps.target[late] - point).unsqueeze(-2) - network.offsets(z))
    residual = torch.cat(residuals) if residuals else torch.full((1, *calibration.shape), torch.nan)
    if torch.isnan(residual).all(dim=0).any():
        calibration.copy_(before)
        return
    for number, level in enumerate(network.config.quantile_levels):
        calibration[number] = torch.nanquantile(residual[:, number], level, dim=0)
