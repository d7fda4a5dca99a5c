"""The readouts of single series, solved from one pass over the sequences; ridges are chosen on what came last."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from forecaster.core.network.features import MEMBER
from forecaster.core.network.local_readouts import MOST_BYTES, LocalNormalEquations, LocalReadouts
from forecaster.core.network.network import Network
from forecaster.core.network.tbptt import TARGET_CLIP
from forecaster.learning.data.batches import PaddedBatch
from forecaster.learning.data.groups import SeriesGroups
from forecaster.learning.fitting.readout_fit import CHUNK, rows

POOLED_RIDGES, CROSS_RIDGES = (5.0, 20.0, 80.0, 320.0), (20.0, 80.0, 320.0, 1_280.0)
BODY_RIDGE = 4.0
"""The body's features are held so much tighter: they were trained on the same rows."""


@torch.no_grad()
def solve_local_readouts(
    network: Network, batches: Sequence[PaddedBatch], members: SeriesGroups | None, chosen_ms: int, steps: int = CHUNK
) -> LocalReadouts | None:
    """Returns the readouts of all series; None where there are none, or too many.

    Args:
        network: the body.
        batches: all the sequences.
        members: whose they are.
        chosen_ms: targets from here on choose the ridges; the readouts are solved from all.
        steps: of a chunk.
    """
    if members is None:
        return None
    shared, horizons = network.config.readout_size, network.config.horizons
    size = len(members.series_ids), shared + _width(members), horizons
    if 2 * LocalNormalEquations.bytes_needed(*size) > MOST_BYTES:
        return None
    early, late = LocalNormalEquations(*size), LocalNormalEquations(*size)
    for some in rows(network, batches, steps):
        x = torch.cat([some.q, some.z, some.cross], dim=-1)
        target = some.target.clamp(-TARGET_CLIP, TARGET_CLIP) - network.base(some.z)
        is_late = some.target_ms >= chosen_ms
        for part, mine in ((early, ~is_late), (late, is_late)):
            if mine.any():
                part.add(some.series, x, torch.where(mine, target, torch.nan), some.weight)
    whole, body = early.plus(late), network.config.hidden_size
    plain = torch.cat([torch.ones(shared - body), torch.full((body,), BODY_RIDGE)])
    wide = torch.cat([plain, torch.ones(_width(members))])
    pooled = _best(early.pooled, late, whole.pooled, [ridge * plain for ridge in POOLED_RIDGES])
    cross = _best(early.cross, late, whole.cross, [ridge * wide for ridge in CROSS_RIDGES])
    both = torch.cat([functional.pad(pooled, (0, 0, 0, _width(members))), cross], dim=2)
    weights = both.transpose(1, 2).float().contiguous()
    return LocalReadouts(members.series_ids, members.member, members.size, weights)


def _best(
    early: Callable[[Tensor], Tensor],
    late: LocalNormalEquations,
    whole: Callable[[Tensor], Tensor],
    ridges: Sequence[Tensor],
) -> Tensor:
    """Returns the readouts of all rows with the ridge whose readouts of the early ones do best on the late ones."""
    return whole(min(ridges, key=lambda ridge: late.error(early(ridge))))


def _width(members: SeriesGroups) -> int:
    return members.size * MEMBER if members.size > 1 else 0
