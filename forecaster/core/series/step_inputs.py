"""StepInputs, all that the network sees of a series at one step, and the function that builds them.

Only operations that IEEE 754 defines exactly are used here, so that a row's inputs are the same, bit by bit, in any
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.core.series.scaling import LEVELS
from forecaster.core.series.state import InputState
from forecaster.records import F32, I64

GROUP_LAGS = 3
"""Recent moves that another series of the group contributes."""
GROUP_FEATURES = GROUP_LAGS + 2
GROUP_CLIP = 4.0
"""Moves of other series count as at most this many of their scales."""
CALENDAR_FEATURES = 8
"""Number of calendar values: sine and cosine of two harmonics of the day and of the week."""

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
"""A table, because the last bit of a vectorised sine may depend on the place of its argument in the array."""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Inputs of one step of each of B series, or of T steps of each.

    Fields are numpy arrays, or tensors of the same shapes. Values are minus the reference of their series. Leading
    dimensions are (B,) or (T, B).

    Attributes:
        context: denoised inputs by tick, newest first; NaN where there was none; (..., W).
        last: last valid value; (...).
        scale: one deviation; 0 = the series has not varied yet; (...).
        levels: slow means; (..., 3).
        calendar: harmonics of day and week; (..., 8).
        masked: 1 where the value of this tick is missing or masked, else 0; (...).
        gap: 1 - 1/ticks since the previous step: 0 = no tick is missing; (...).
        group: means over the other series of the record; (..., 5).
    """

    context: Any
    last: Any
    scale: Any
    levels: Any
    calendar: Any
    masked: Any
    gap: Any
    group: Any


def build_step_inputs(series: InputState, context: F32, last: F32, time_ms: I64, gap: I64) -> StepInputs:
    """Return the inputs of steps, with `group` zero: as if each series were alone in its record.

    Args:
        series: B rows, whose scale and levels count at every step.
        context: inputs by tick up to each step, newest first, minus the reference; (B, W) or (T, B, W).
        last: last valid value at each step, minus the reference; (B,) or (T, B).
        time_ms: event time of each step's tick; (B,) or (T, B).
        gap: ticks since the previous step; (B,) or (T, B).
    """
    scale = series.scaler.scale().astype(np.float32)
    levels = (series.scaler.levels - series.reference[:, None]).astype(np.float32)
    return StepInputs(
        context=context,
        last=last,
        scale=np.broadcast_to(scale, last.shape).copy(),
        levels=np.broadcast_to(levels, (*last.shape, LEVELS)).copy(),
        calendar=calendar(time_ms),
        masked=np.isnan(context[..., 0]).astype(np.float32),
        gap=(1.0 - 1.0 / gap).astype(np.float32),
        group=np.zeros((*last.shape, GROUP_FEATURES), np.float32),
    )


def calendar(time_ms: I64) -> F32:
    """Return sines and cosines of the time of day and of week, each with its first two harmonics; (..., 8)."""
    return _CALENDAR[(time_ms // _MINUTE_MS - _MONDAY_MINUTES) % _WEEK_MINUTES]


def group_inputs(inputs: StepInputs, record: I64) -> F32:
    """Return the mean over the other series of the same record of their last moves and levels; 0 = none; (B, 5).

    Args:
        inputs: numpy arrays of B rows; `group` is not read.
        record: index of each row's record in the batch, ascending; series of one record belong to one group; (B,).
    """
    size = len(record)
    if size < 2 or bool((record[1:] != record[:-1]).all()):
        return np.zeros((size, GROUP_FEATURES), np.float32)
    own = relative_moves(inputs, [0, LEVELS - 1]).astype(np.float64)
    group = np.concatenate([[0], np.cumsum(record[1:] != record[:-1])])
    others = np.bincount(group)[group] - 1
    total = np.column_stack([np.bincount(group, weights=column)[group] for column in own.T])
    mean: F32 = ((total - own) / np.maximum(others, 1)[:, None]).astype(np.float32)
    return mean


def relative_moves(inputs: StepInputs, levels: Sequence[int]) -> F32:
    """Return recent values and the given levels of each series, in scales from its last value, clipped.

    Args:
        inputs: numpy arrays of B rows.
        levels: indices among the levels.

    Returns:
        0 where a value is unknown; (B, GROUP_LAGS + number of levels).
    """
    lags = inputs.context[:, 1 : 1 + GROUP_LAGS]
    missing = np.full((len(lags), GROUP_LAGS - lags.shape[1]), np.nan, np.float32)
    moves = np.concatenate([lags, missing, inputs.levels[:, levels]], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = (moves - inputs.last[:, None]) / inputs.scale[:, None]
    return np.asarray(np.clip(np.nan_to_num(moves, nan=0.0), -GROUP_CLIP, GROUP_CLIP), np.float32)
