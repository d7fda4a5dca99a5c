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
    """One row a series; K kinds of forecasts.

    Attributes:
        values: (forecast - last) / scale; (N, K, slots), slots = the sum of the horizons.
        last: last value when the forecast of that tick was made, minus the origin, newest first, NaN where none was
            made; column 0 is the current tick; (N, longest horizon + 1).
        scale: the scale of then; the same shape.
        level: a slow mean of the series as it was then, minus the origin; the same shape.
        drift: root mean square of the last-value forecast's errors by horizon; NaN = none matured yet; (N, J).
    """

    values: Halves
    last: Singles
    scale: Singles
    level: Singles
    drift: Singles

    @classmethod
    def empty(cls, n: int, horizons: Sequence[int], kinds: int) -> PendingState:
        """Returns n series without a forecast, for these horizons and so many kinds of forecasts."""
        ticks = max(horizons) + 1
        return cls(
            values=np.zeros((n, kinds, sum(horizons)), np.float16),
            last=np.full((n, ticks), np.nan, np.float32),
            scale=np.zeros((n, ticks), np.float32),
            level=np.full((n, ticks), np.nan, np.float32),
            drift=np.full((n, len(horizons)), np.nan, np.float32),
        )


@dataclass(frozen=True, slots=True)
class Matured:
    """What was forecast for now; NaN where there was nothing.

    Attributes:
        values: (forecast - last) / scale of then; (B, K, J).
        last: the last value of then, minus the origin; (B, J).
        scale: of then; (B, J).
        level: of then, minus the origin; (B, J).
    """

    values: Singles
    last: Singles
    scale: Singles
    level: Singles

    def absolute(self, kinds: slice) -> Floats:
        """Returns some kinds of forecasts in the units of the series, minus the origin; (B, kinds, J)."""
        return self.values[:, kinds] * self.scale.astype(np.float64)[:, None] + self.last[:, None]

    def relative(self, values: Floats) -> Singles:
        """Returns (values - last) / scale, as the forecasts are; 0 where nothing had varied yet; (B, J).

        Args:
            values: minus the origin; (B,).
        """
        unit = np.where(self.scale > 0, self.scale, np.inf)
        return ((values[:, None] - self.last) / unit).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Made:
    """What forecasts rest on: last valid value and level, minus the origin, and the scale; (B,)."""

    last: Singles
    scale: Singles
    level: Singles


class Ring:
    """Where the forecasts of each horizon lie in the ring: plain numbers, made once."""

    def __init__(self, horizons: Sequence[int], kinds: int) -> None:
        self._horizons = np.array(horizons, np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._horizons)[:-1]])
        self._kinds = kinds
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
        shift(state.level, gap)
        last = state.last[:, self._horizons]
        values = state.values.reshape(-1).take(self._places(tick)).astype(np.float32)
        np.copyto(values, np.float32(np.nan), where=np.isnan(last)[:, None])
        return Matured(values, last, state.scale[:, self._horizons], state.level[:, self._horizons])

    def store(self, state: PendingState, tick: Integers, made: Made, values: Singles) -> None:
        """The forecasts made at `tick` wait for their truth.

        Args:
            state: changed in place; B rows.
            tick: the current tick; (B,).
            made: what they rest on.
            values: (forecast - last) / scale; (B, K, J).
        """
        state.last[:, 0] = made.last
        state.scale[:, 0] = made.scale
        state.level[:, 0] = made.level
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
        seen = self.seen(count)
        rate = np.maximum(DRIFT_RATE, 1.0 / seen)
        before = state.drift.astype(np.float64)
        square = np.where(np.isnan(before), error * error, before * before * (1.0 - rate) + rate * error * error)
        np.copyto(state.drift, np.sqrt(square).astype(np.float32), where=~np.isnan(error))

    def seen(self, count: Integers) -> Integers:
        """Returns how many truths the forecasts of each horizon may have met, at least 1; (B, J)."""
        return np.asarray(np.maximum(count[:, None] - self._horizons, 1))

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
