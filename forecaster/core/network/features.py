"""What the network sees at a step: differences to the last value in units of the scale, levels, calendar, gap, group.

Only operations that IEEE 754 defines exactly are used here, so that a row's features are the same, bit by bit, in any
batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecaster.core.series.scaling import LEVEL_HALF_LIVES
from forecaster.records import F32, I64

STEP_LAGS = 23
STEP_LAG_CLIP, STEP_LEVEL_CLIP = 4.0, 3.0
READOUT_LAG_CLIP, READOUT_LEVEL_CLIP = 6.0, 4.0
GROUP_LAGS = 3
LEVELS = len(LEVEL_HALF_LIVES)
LEVEL = 1
"""Which of the levels is the one, where one is wanted: neither fast nor slow."""
GROUP = GROUP_LAGS + 2
MEMBER = GROUP_LAGS + 1
"""So many features each other member of a group gives to those that see it one by one."""
CALENDAR = 8

_MINUTE_MS, _DAY_MINUTES = 60_000, 1_440
_WEEK_MINUTES = 7 * _DAY_MINUTES
_MONDAY_MINUTES = 4 * _DAY_MINUTES
"""The epoch began on a Thursday."""


def _calendar_table() -> F32:
    minute = np.arange(_WEEK_MINUTES)[:, None] * 2.0 * np.pi
    day = minute / _DAY_MINUTES * np.array([1.0, 2.0])
    week = minute / _WEEK_MINUTES * np.array([1.0, 2.0])
    return np.concatenate([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], axis=1).astype(np.float32)


_CALENDAR = _calendar_table()
"""A table, since the last bit of a vectorised sine may depend on where in the array its argument stands."""


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """How many features there are.

    Attributes:
        context: ticks of denoised inputs that are kept, W.
    """

    context: int = 96

    @property
    def step_size(self) -> int:
        """F, the inputs of the recurrent body at a step."""
        return STEP_LAGS + LEVELS + CALENDAR + 2 + GROUP

    @property
    def readout_size(self) -> int:
        """P, the inputs of the linear readout beside the body's features."""
        return self.context - 1 + 1 + LEVELS + CALENDAR + 2 * CALENDAR + GROUP


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a step is made of; values are minus the origin of their series. Leading dimensions are (B,) or (T, B).

    Attributes:
        context: denoised inputs by tick, newest first; NaN where there was none; (..., W).
        last: last valid value; (...).
        scale: one deviation; 0 = nothing has varied yet; (...).
        levels: slow means; (..., 3).
        calendar: harmonics of day and week; (..., 8).
        masked: 1 where this tick's value is missing or masked; (...).
        gap: 1 - 1/ticks since the step before: 0 = none missing; (...).
        group: what the other series of the record did; (..., 5).
    """

    context: Any
    last: Any
    scale: Any
    levels: Any
    calendar: Any
    masked: Any
    gap: Any
    group: Any

    def to_tensors(self) -> StepInputs:
        """Returns the same as tensors that share the memory."""
        return StepInputs(*(torch.from_numpy(getattr(self, field.name)) for field in fields(self)))


def calendar(time_ms: I64) -> F32:
    """Returns sines and cosines of the time of day and of week, each with its first two harmonics; (..., 8)."""
    return _CALENDAR[(time_ms // _MINUTE_MS - _MONDAY_MINUTES) % _WEEK_MINUTES]


def group_inputs(inputs: StepInputs, record: I64) -> F32:
    """Returns the mean over the other series of the same record of their last moves and levels; (B, 5).

    Args:
        inputs: B rows; what they say of `group` is not read.
        record: ascending; series of one record are of one group; (B,).
    """
    size = len(record)
    if size < 2 or bool((record[1:] != record[:-1]).all()):
        return np.zeros((size, GROUP), np.float32)
    lags = inputs.context[:, 1 : 1 + GROUP_LAGS]
    missing = np.full((size, GROUP_LAGS - lags.shape[1]), np.nan, np.float32)
    own = np.concatenate([lags, missing, inputs.levels[:, [0, -1]]], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = (own - inputs.last[:, None]) / inputs.scale[:, None]
    own = np.clip(np.nan_to_num(own, nan=0.0), -STEP_LAG_CLIP, STEP_LAG_CLIP).astype(np.float64)
    group = np.concatenate([[0], np.cumsum(record[1:] != record[:-1])])
    others = np.bincount(group)[group] - 1
    total = np.column_stack([np.bincount(group, weights=column)[group] for column in own.T])
    mean: F32 = ((total - own) / np.maximum(others, 1)[:, None]).astype(np.float32)
    return mean


def cross_inputs(inputs: StepInputs, record: I64, member: I64, size: int) -> F32:
    """Returns the last moves and the level of every other series of the same record; (B, size x MEMBER), or (B, 0).

    Args:
        inputs: B rows.
        record: ascending; series of one record are of one group; (B,).
        member: place of each series in its group, -1 = not known; (B,).
        size: of the largest group; 1 = no series sees another.
    """
    rows = len(record)
    if size == 1 or rows == 0:
        return np.zeros((rows, 0), np.float32)
    lags = inputs.context[:, 1 : 1 + GROUP_LAGS]
    missing = np.full((rows, GROUP_LAGS - lags.shape[1]), np.nan, np.float32)
    own = np.concatenate([lags, missing, inputs.levels[:, LEVEL : LEVEL + 1]], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = (own - inputs.last[:, None]) / inputs.scale[:, None]
    own = np.clip(np.nan_to_num(own, nan=0.0), -STEP_LAG_CLIP, STEP_LAG_CLIP)
    group = np.concatenate([[0], np.cumsum(record[1:] != record[:-1])])
    known = member >= 0
    table = np.zeros((group[-1] + 1, size, MEMBER), np.float32)
    table[group[known], member[known]] = own[known]
    seen = table[group]
    seen[known, member[known]] = 0.0
    return np.asarray(seen.reshape(rows, size * MEMBER), np.float32)


def assemble(config: FeatureConfig, inputs: StepInputs) -> tuple[Tensor, Tensor]:
    """Returns the body's inputs (..., F) and the readout's (..., P), dimensionless, finite.

    Args:
        config: how many there are.
        inputs: as tensors.
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
    """Returns the body's inputs alone; `inputs.context` may end after the lags that they need; (..., F)."""
    return _step(config, inputs, *_relative(inputs, inputs.context[..., 1 : min(1 + STEP_LAGS, config.context)]))


def _relative(inputs: StepInputs, past: Tensor) -> tuple[Tensor, Tensor]:
    """Returns past values and levels as differences to the last value in units of the scale."""
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
    """Returns 0 where there is no value; infinities come from 32-bit overflow and are clipped by the caller."""
    return values.nan_to_num(nan=0.0, posinf=torch.finfo(torch.float32).max, neginf=torch.finfo(torch.float32).min)
