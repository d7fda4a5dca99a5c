"""Local readouts, one for each series, fitted in one pass over the sequences; the newest targets choose the ridges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from forecaster.core.network.features import MEMBER_FEATURES
from forecaster.core.network.local_readouts import MAX_BYTES, LocalNormalEquations, LocalReadouts
from forecaster.core.network.network import Network
from forecaster.learning.data.batches import PaddedBatch
from forecaster.learning.data.groups import SeriesGroups
from forecaster.learning.fitting.readout_fit import CHUNK_STEPS, flat_steps

POOLED_RIDGES, CROSS_RIDGES = (5.0, 20.0, 80.0, 320.0), (20.0, 80.0, 320.0, 1_280.0)
BODY_RIDGE = 4.0
"""Factor of the ridge on the body's features, which were trained on the same steps."""


def solve_local_readouts(
    network: Network,
    batches: Sequence[PaddedBatch],
    groups: SeriesGroups | None,
    ridge_ms: int,
    chunk_steps: int = CHUNK_STEPS,
) -> LocalReadouts | None:
    """Return the readouts of all series; None without groups, or if the equations would take too much memory.

    Args:
        network: body.
        batches: all sequences.
        groups: groups of the series.
        ridge_ms: targets from here on choose the ridges; all targets fit the readouts.
        chunk_steps: steps that are assembled at a time.
    """
    if groups is None:
        return None
    shared, width = network.config.readout_size, _cross_width(groups)
    size = len(groups.series_ids), shared + width, network.config.horizons
    if 2 * LocalNormalEquations.bytes_needed(*size) > MAX_BYTES:
        return None
    early, late = LocalNormalEquations(*size), LocalNormalEquations(*size)
    _add_steps(network, batches, early, late, ridge_ms, chunk_steps)
    total, body = early.plus(late), network.config.hidden_size
    pooled_scale = torch.cat([torch.ones(shared - body), torch.full((body,), BODY_RIDGE)])
    cross_scale = torch.cat([pooled_scale, torch.ones(width)])
    pooled = _solve_best(early.pooled, late, total.pooled, [ridge * pooled_scale for ridge in POOLED_RIDGES])
    cross = _solve_best(early.cross, late, total.cross, [ridge * cross_scale for ridge in CROSS_RIDGES])
    both = torch.cat([functional.pad(pooled, (0, 0, 0, width)), cross], dim=2)
    weights = both.transpose(1, 2).float().contiguous()
    return LocalReadouts(groups.series_ids, groups.member, groups.size, weights)


@torch.no_grad()
def _add_steps(
    network: Network,
    batches: Sequence[PaddedBatch],
    early: LocalNormalEquations,
    late: LocalNormalEquations,
    ridge_ms: int,
    chunk_steps: int,
) -> None:
    """Add all steps to the equations: targets before `ridge_ms` to `early`, the others to `late`."""
    for steps in flat_steps(network, batches, chunk_steps):
        x = torch.cat([steps.q, steps.z, steps.cross], dim=-1)
        residual = steps.residual(network)
        is_late = steps.target_ms >= ridge_ms
        for equations, belongs in ((early, ~is_late), (late, is_late)):
            if belongs.any():
                equations.add(steps.series, x, torch.where(belongs, residual, torch.nan), steps.weight)


def _solve_best(
    solve_early: Callable[[Tensor], Tensor],
    late: LocalNormalEquations,
    solve_total: Callable[[Tensor], Tensor],
    ridges: Sequence[Tensor],
) -> Tensor:
    """Return the readouts fitted to all targets, with the ridge whose early readouts do best on the late targets."""
    return solve_total(min(ridges, key=lambda ridge: late.error(solve_early(ridge))))


def _cross_width(groups: SeriesGroups) -> int:
    """Return the number of inputs from the other series of a group, X."""
    return groups.size * MEMBER_FEATURES if groups.size > 1 else 0
