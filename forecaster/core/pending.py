"""Forecasts that wait for their truth: a triangular ring in the row of the series.

Scoring is diagonal: the reading of tick t matures the forecast made h ticks ago of each horizon h, where that tick had
one. For each horizon the ring has h slots, and slot t mod h holds what was made at t until t + h comes. Values are
(forecast - last) / scale in 16 bits, so the last value and the scale of then are kept beside them by tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.core.arrays import shift
from forecaster.records import Booleans, Floats, Integers

Halves = NDArray[np.float16]
Singles = NDArray[np.float32]
HALF_LIMIT = 65_000.0


@dataclass
class PendingState:
    """One row a series; K = 1 + Q: the point, then the quantiles.

    Attributes:
        values: (forecast - last) / scale; (N, K, slots), slots = the sum of the horizons.
        last: last value when the forecast of that tick was made, minus the origin, newest first, NaN where none was
            made; column 0 is the current tick; (N, longest horizon + 1).
        scale: the scale of then; the same shape.
        drift: root mean square of the last-value forecast's errors by horizon; NaN = none matured yet; (N, J).
    """

    values: Halves
    last: Singles
    scale: Singles
    drift: Singles

    @classmethod
    def empty(cls, n: int, horizons: Sequence[int], levels: int) -> PendingState:
        """Returns n series without a forecast, for these horizons and so many quantile levels."""
        ticks = max(horizons) + 1
        return cls(
            values=np.zeros((n, 1 + levels, sum(horizons)), np.float16),
            last=np.full((n, ticks), np.nan, np.float32),
            scale=np.zeros((n, ticks), np.float32),
            drift=np.full((n, len(horizons)), np.nan, np.float32),
        )


@dataclass(frozen=True, slots=True)
class Matured:
    """What was forecast for now, minus the origin; NaN where there was none.

    `values` (B, K, J): the point, then the quantiles; `last` (B, J): the last-value forecast of then.
    """

    values: Floats
    last: Floats


class Ring:
    """Where the forecasts of each horizon lie in the ring: plain numbers, made once."""

    def __init__(self, horizons: Sequence[int], levels: int) -> None:
        self._horizons = np.array(horizons, np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._horizons)[:-1]])
        self._kinds = 1 + levels
        self._slots = int(self._horizons.sum())

    def _places(self, tick: Integers) -> Integers:
        """Returns the flat positions of the slots of each tick; (B, K, J)."""
        slots = self._offsets + tick[:, None] % self._horizons
        rows = np.arange(len(tick) * self._kinds).reshape(-1, self._kinds, 1)
        return np.asarray(rows * self._slots + slots[:, None, :])

    def clear(self, state: PendingState, rows: Booleans) -> None:
        """Nothing is pending in these rows any more; what was learned of their drift stays."""
        state.last[rows] = np.nan

    def mature(self, state: PendingState, tick: Integers, gap: Integers) -> Matured:
        """Returns what was forecast for `tick`, and column 0 of the ring is that tick's, still empty.

        Args:
            state: changed in place; B rows.
            tick: the current tick of each series; (B,).
            gap: ticks since the reading before; (B,).
        """
        shift(state.last, gap)
        shift(state.scale, gap)
        last = state.last[:, self._horizons].astype(np.float64)
        scale = state.scale[:, self._horizons].astype(np.float64)
        values = state.values.reshape(-1).take(self._places(tick)).astype(np.float64)
        values *= scale[:, None, :]
        values += last[:, None, :]
        return Matured(values, last)

    def store(self, state: PendingState, tick: Integers, last: Singles, scale: Singles, values: Floats) -> None:
        """The forecasts made at `tick` wait for their truth.

        Args:
            state: changed in place; B rows.
            tick: the current tick; (B,).
            last: last valid value, minus the origin; (B,).
            scale: the scale; (B,).
            values: (forecast - last) / scale; (B, K, J).
        """
        state.last[:, 0] = last
        state.scale[:, 0] = scale
        clipped = np.clip(values, -HALF_LIMIT, HALF_LIMIT).astype(np.float16)
        state.values.reshape(-1)[self._places(tick)] = clipped

    def learn_drift(self, state: PendingState, truth: Floats, matured: Matured, count: Integers) -> None:
        """The drift of each horizon includes the error of the last-value forecast that matured now.

        Args:
            state: changed in place; B rows.
            truth: raw value minus the origin; NaN where there is none; (B,).
            matured: what was forecast for now.
            count: valid readings of the series so far; (B,).
        """
        error = truth[:, None] - matured.last
        seen = np.maximum(count[:, None] - self._horizons, 1)
        rate = np.maximum(DRIFT_RATE, 1.0 / seen)
        before = state.drift.astype(np.float64)
        square = np.where(np.isnan(before), error * error, before * before * (1.0 - rate) + rate * error * error)
        np.copyto(state.drift, np.sqrt(square).astype(np.float32), where=~np.isnan(error))

    def drift(self, state: PendingState, scale: Singles) -> Floats:
        """Returns a deviation of the last value's error for every horizon; (B, J).

        A horizon that has not matured yet grows with the root of time from the longest one that has (a random walk);
        where none has, from `scale` (B,).
        """
        root = np.sqrt(self._horizons)
        ratio = state.drift / root
        known = ~np.isnan(ratio)
        if known.all():
            return state.drift.astype(np.float64)
        newest = np.maximum.accumulate(np.where(known, np.arange(len(root)), -1), axis=1)
        filled = np.take_along_axis(ratio, np.maximum(newest, 0), axis=1)
        return np.where(known, state.drift, np.where(newest >= 0, filled, scale[:, None]) * root)


DRIFT_RATE = 0.01
