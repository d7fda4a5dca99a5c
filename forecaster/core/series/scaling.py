"""A causal, robust scale and slow levels of each series.

The scale is the winsorised, exponentially weighted deviation from a moving mean: two half-lives, so that one spike
moves neither much. Until a half-life has passed, plain means stand in for weighted ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import F64, I64, Bools

LEVEL_HALF_LIVES = (24.0, 72.0, 336.0)
"""In readings; the first is also the mean that deviations are taken from."""
LEVELS = len(LEVEL_HALF_LIVES)
MIDDLE_LEVEL = 1
"""Position of the level that is neither fast nor slow, for uses that need a single one."""
SCALE_HALF_LIFE = 336.0
WINSOR = 9.0
"""A squared deviation counts for at most this many times the variance so far."""
UNWINSORISED = 8
"""So many first readings count in full: before them there is no variance to compare with."""
FLOOR_SHARE = 0.01
FLOOR_READINGS = 168
TINY = 1e-30
"""The floor under the scale is a share of the deviation over this many first readings."""

_LEVEL_RATES = 1.0 - 0.5 ** (1.0 / np.array(LEVEL_HALF_LIVES))
_SCALE_RATE = 1.0 - 0.5 ** (1.0 / SCALE_HALF_LIFE)


@dataclass
class ScalerState:
    """One row a series.

    Attributes:
        count: valid readings so far.
        levels: exponentially weighted means, in the units of the series; (N, 3).
        variance: winsorised variance around the first level.
        floor: the variance over the first FLOOR_READINGS readings.
    """

    count: I64
    levels: F64
    variance: F64
    floor: F64

    @classmethod
    def empty(cls, n: int) -> ScalerState:
        """Returns n series that had no valid reading yet."""
        return cls(np.zeros(n, np.int64), np.zeros((n, LEVELS)), np.zeros(n), np.zeros(n))

    def scale(self) -> F64:
        """Returns one deviation in the units of the series; 0 where nothing has varied yet; (N,)."""
        return np.asarray(np.sqrt(self.variance) + FLOOR_SHARE * np.sqrt(self.floor))

    def first_deviation(self) -> F64:
        """Returns the deviation over the first readings, which does not change any more; 1 where there was none; (N,).

        It is in the units of the series; of 64 bits, and never so small that it is nothing in 32.
        """
        deviation = np.sqrt(self.floor)
        return np.where(deviation > TINY, deviation, 1.0)


def update(state: ScalerState, values: F64) -> None:
    """The valid values are part of levels and variance; rows whose value is NaN stay as they are. In place.

    Equations (ACCURACY recipe): m += a(x-m); d = x-m before the update; v += b(min(d², 9v) - v).

    Args:
        state: B rows.
        values: denoised inputs in the units of the series; (B,).
    """
    valid = ~np.isnan(values)
    if not valid.all():
        rows = np.flatnonzero(valid)
        part = ScalerState(state.count[rows], state.levels[rows], state.variance[rows], state.floor[rows])
        _update_valid(part, values[rows])
        state.count[rows], state.levels[rows] = part.count, part.levels
        state.variance[rows], state.floor[rows] = part.variance, part.floor
        return
    _update_valid(state, values)


def _update_valid(state: ScalerState, values: F64) -> None:
    count = state.count
    deviation = values - state.levels[:, 0]
    squared = np.where(count == 0, 0.0, deviation * deviation)
    unclipped: Bools = (count < UNWINSORISED) | (state.variance == 0)
    squared = np.where(unclipped, squared, np.minimum(squared, WINSOR * state.variance))
    state.variance += np.maximum(_SCALE_RATE, 1.0 / np.maximum(count, 1)) * (squared - state.variance)
    rates = np.maximum(_LEVEL_RATES, 1.0 / (count + 1.0)[:, None])
    state.levels += rates * (values[:, None] - state.levels)
    count += 1
    np.copyto(state.floor, state.variance, where=count <= FLOOR_READINGS)
