"""A causal, robust scale and slow levels (means) of each series.

The scale is the winsorised, exponentially weighted deviation from a moving mean. Mean and deviation have half-lives of
their own, so that a single spike moves neither much. Until a half-life has passed, plain means replace weighted ones.

    (1) d = x - m_1, before (2)   (2) m_i <- m_i + a_i (x - m_i)   (3) v <- v + b (min(d², WINSOR_VARIANCE v) - v)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import F64, I64, Bools

LEVEL_HALF_LIVES = (24.0, 72.0, 336.0)
"""Half-lives of the levels, in readings; the first level is also the mean that deviations are taken from."""
LEVELS = len(LEVEL_HALF_LIVES)
MIDDLE_LEVEL = 1
"""Index of the level that is neither fast nor slow, for uses that need a single one."""
SCALE_HALF_LIFE = 336.0
"""Half-life of the variance, in readings."""
WINSOR_VARIANCE = 9.0
"""A squared deviation counts as at most this many variances."""
UNWINSORISED = 8
"""This many first readings count in full, because there is no variance yet to compare with."""
FLOOR_SHARE = 0.01
"""Share of the deviation over the first FLOOR_READINGS readings that is added to every scale, so that none is zero."""
FLOOR_READINGS = 168
"""Number of first readings whose deviation FLOOR_SHARE applies to."""
TINY = 1e-30
"""Deviations up to this count as zero: smaller ones are close to the limit of 32-bit numbers."""

_LEVEL_RATES = 1.0 - 0.5 ** (1.0 / np.array(LEVEL_HALF_LIVES))
_SCALE_RATE = 1.0 - 0.5 ** (1.0 / SCALE_HALF_LIFE)


@dataclass
class ScalerState:
    """Scale and levels of N series, one row a series.

    Attributes:
        count: number of valid readings so far; (N,).
        levels: exponentially weighted means m_i, in units of the series; (N, LEVELS).
        variance: winsorised variance v around the first level; (N,).
        floor: variance over the first FLOOR_READINGS readings; (N,).
    """

    count: I64
    levels: F64
    variance: F64
    floor: F64

    @classmethod
    def empty(cls, n: int) -> ScalerState:
        """Return n series without a valid reading."""
        return cls(np.zeros(n, np.int64), np.zeros((n, LEVELS)), np.zeros(n), np.zeros(n))

    def scale(self) -> F64:
        """Return one deviation in units of the series; 0 if the series has not varied yet; (N,)."""
        return np.asarray(np.sqrt(self.variance) + FLOOR_SHARE * np.sqrt(self.floor))

    def first_deviation(self) -> F64:
        """Return the deviation over the first readings, fixed from then on; 1 if there is none; (N,).

        It is in units of the series, in 64 bits, and never too small for 32 bits.
        """
        deviation = np.sqrt(self.floor)
        return np.where(deviation > TINY, deviation, 1.0)


def update(state: ScalerState, values: F64) -> None:
    """Update levels and variances by (1) to (3), in place; a NaN changes nothing.

    Args:
        state: B rows, changed in place.
        values: denoised inputs in units of the series; (B,).
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
    squared = np.where(unclipped, squared, np.minimum(squared, WINSOR_VARIANCE * state.variance))
    state.variance += np.maximum(_SCALE_RATE, 1.0 / np.maximum(count, 1)) * (squared - state.variance)
    rates = np.maximum(_LEVEL_RATES, 1.0 / (count + 1.0)[:, None])
    state.levels += rates * (values[:, None] - state.levels)
    count += 1
    np.copyto(state.floor, state.variance, where=count <= FLOOR_READINGS)
