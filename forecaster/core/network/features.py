"""The network's features: differences to the last value in scales, levels, calendar, gap and the group.

Only operations that IEEE 754 defines exactly are used here, so that a row's features are the same, bit by bit, in any
batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from forecaster.core.series.scaling import LEVELS, MIDDLE_LEVEL
from forecaster.core.series.step_inputs import (
    CALENDAR_FEATURES,
    GROUP_FEATURES,
    GROUP_LAGS,
    StepInputs,
    relative_moves,
)
from forecaster.records import F32, I64

STEP_LAGS = 23
"""Number of latest differences from the last value among the inputs of a step."""
STEP_LAG_CLIP, STEP_LEVEL_CLIP = 4.0, 3.0
"""Limits of the differences and of the levels among the inputs of a step, in scales."""
READOUT_LAG_CLIP, READOUT_LEVEL_CLIP = 6.0, 4.0
"""Limits of the differences and of the levels among the inputs of the readout, in scales."""
MEMBER_FEATURES = GROUP_LAGS + 1
"""Features of each other series of a group, for readouts that see them one by one."""


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """The number of features.

    Attributes:
        context: ticks of denoised inputs that are kept, W.
    """

    context: int = 96

    @property
    def step_size(self) -> int:
        """F, the inputs of the recurrent body at a step."""
        return STEP_LAGS + LEVELS + CALENDAR_FEATURES + 2 + GROUP_FEATURES

    @property
    def readout_size(self) -> int:
        """P, the inputs of the linear readout besides the body's features."""
        return self.context - 1 + 1 + LEVELS + CALENDAR_FEATURES + 2 * CALENDAR_FEATURES + GROUP_FEATURES


def to_tensors(inputs: StepInputs) -> StepInputs:
    """Return the same inputs as tensors that share the memory of the arrays."""
    return StepInputs(*(torch.from_numpy(getattr(inputs, field.name)) for field in fields(inputs)))


def cross_inputs(inputs: StepInputs, record: I64, member: I64, size: int) -> F32:
    """Return the last moves and one level of every other series of the same record, each in its own columns.

    Args:
        inputs: numpy arrays of B rows.
        record: index of each row's record in the batch, ascending; series of one record belong to one group; (B,).
        member: place of each series in its group; -1 = unknown; (B,).
        size: series of the largest group; 1 = no series sees another.

    Returns:
        0 where a series is absent; (B, size x MEMBER_FEATURES), or (B, 0) where no series sees another.
    """
    rows, columns = len(record), size * MEMBER_FEATURES if size > 1 else 0
    if rows * columns == 0:
        return np.zeros((rows, columns), np.float32)
    own = relative_moves(inputs, [MIDDLE_LEVEL])
    group = np.concatenate([[0], np.cumsum(record[1:] != record[:-1])])
    known = member >= 0
    table = np.zeros((group[-1] + 1, size, MEMBER_FEATURES), np.float32)
    table[group[known], member[known]] = own[known]
    seen = table[group]
    seen[known, member[known]] = 0.0
    return np.asarray(seen.reshape(rows, columns), np.float32)


def assemble(config: FeatureConfig, inputs: StepInputs) -> tuple[Tensor, Tensor]:
    """Return the body's inputs (..., F) and the readout's (..., P), dimensionless and finite.

    Args:
        config: the number of features.
        inputs: tensors.
    """
    lags, levels = _relative(inputs, inputs.context[..., 1:])
    wide_levels = levels.clamp(-READOUT_LEVEL_CLIP, READOUT_LEVEL_CLIP)
    readout = [
        lags.clamp(-READOUT_LAG_CLIP, READOUT_LAG_CLIP),
        torch.ones_like(levels[..., :1]),
        wide_levels,
        inputs.calendar,
        inputs.calendar * wide_levels[..., -2:-1],
        inputs.calendar * wide_levels[..., -1:],
        inputs.group,
    ]
    return _step(config, inputs, lags, levels), torch.cat(readout, dim=-1)


def assemble_step(config: FeatureConfig, inputs: StepInputs) -> Tensor:
    """Return only the body's inputs, (..., F); of `inputs.context` they need the first 1 + STEP_LAGS columns."""
    return _step(config, inputs, *_relative(inputs, inputs.context[..., 1 : min(1 + STEP_LAGS, config.context)]))


def _relative(inputs: StepInputs, past: Tensor) -> tuple[Tensor, Tensor]:
    """Return past values and levels as differences to the last value, in scales; 0 where unknown."""
    last = inputs.last.unsqueeze(-1)
    scale = inputs.scale.unsqueeze(-1)
    unit = torch.where(scale > 0, scale, torch.inf)
    return _finite((past - last) / unit), _finite((inputs.levels - last) / unit)


def _step(config: FeatureConfig, inputs: StepInputs, lags: Tensor, levels: Tensor) -> Tensor:
    if config.context - 1 < STEP_LAGS:
        padding = lags.new_zeros((*lags.shape[:-1], STEP_LAGS - (config.context - 1)))
        step_lags = torch.cat([lags, padding], dim=-1)
    else:
        step_lags = lags[..., :STEP_LAGS]
    step = [
        step_lags.clamp(-STEP_LAG_CLIP, STEP_LAG_CLIP),
        levels.clamp(-STEP_LEVEL_CLIP, STEP_LEVEL_CLIP),
        inputs.calendar,
        inputs.masked.unsqueeze(-1),
        inputs.gap.unsqueeze(-1),
        inputs.group,
    ]
    return torch.cat(step, dim=-1)


def _finite(values: Tensor) -> Tensor:
    """Return the values with 0 for NaN and finite numbers for overflows of 32 bits, which the callers clip."""
    return values.nan_to_num(nan=0.0, posinf=torch.finfo(torch.float32).max, neginf=torch.finfo(torch.float32).min)
