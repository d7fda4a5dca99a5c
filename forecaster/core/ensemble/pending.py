"""Forecasts that wait for their truth: a triangular ring in the row of the series.

Scoring is diagonal: the reading of tick t matures the forecast made h ticks ago of each horizon h, where that tick had
one. For each horizon the ring has h slots, and slot t mod h holds what was made at t until t + h comes. Values are
(forecast - last) / scale in 16 bits, so what they rest on, the anchors of then, is kept beside them by tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.core.arrays import shift
from forecaster.records import F16, F32, F64, I64, Bools

HALF_LIMIT = 65_000.0
LAST, SCALE, LEVEL, USUAL = range(4)
"""Which anchor is what; from the last one on there is one for each season."""


@dataclass
class PendingState:
    """One row a series; K kinds of forecasts.

    Attributes:
        values: (forecast - last) / scale; (N, K, slots), slots = the sum of the horizons.
        anchors: of the forecasts made at each tick, newest first, NaN where none was made; column 0 is the current
            tick: last value, scale, level, and the usual value of each season's phase; minus the origin, but for the
            scale; (N, 3 + seasons, longest horizon + 1).
        drift: root mean square of the last-value forecast's errors by horizon; NaN = none matured yet; (N, J).
    """

    values: F16
    anchors: F32
    drift: F32

    @classmethod
    def empty(cls, n: int, horizons: Sequence[int], kinds: int, seasons: int) -> PendingState:
        """Returns n series without a forecast, for these horizons, so many kinds of forecasts and so many seasons."""
        return cls(
            values=np.zeros((n, kinds, sum(horizons)), np.float16),
            anchors=np.full((n, USUAL + seasons, max(horizons) + 1), np.nan, np.float32),
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
        usual: value of the phase of then, of each season, minus the origin; NaN = not known; (B, S, J).
    """

    values: F32
    last: F32
    scale: F32
    level: F32
    usual: F32

    def absolute(self, kinds: slice) -> F64:
        """Returns some kinds of forecasts in the units of the series, minus the origin; (B, kinds, J)."""
        return self.values[:, kinds] * self.scale.astype(np.float64)[:, None] + self.last[:, None]

    def relative(self, values: F64) -> F32:
        """Returns (values - last) / scale, as the forecasts are; 0 where nothing had varied yet; (B, J).

        Args:
            values: minus the origin; (B,).
        """
        unit = np.where(self.scale > 0, self.scale, np.inf)
        return ((values[:, None] - self.last) / unit).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchors of forecasts: last valid value, scale and level (B,), and the usual values (B, S)."""

    last: F32
    scale: F32
    level: F32
    usual: F32


class PendingRing:
    """Where the forecasts of each horizon lie in the ring: plain numbers, made once."""

    def __init__(self, horizons: Sequence[int], kinds: int) -> None:
        self._horizons = np.array(horizons, np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._horizons)[:-1]])
        self._kinds = kinds
        self._slots = int(self._horizons.sum())

    def places(self, tick: I64) -> I64:
        """Returns the flat positions of each tick's slots: what is made there is what matured before; (B, K, J)."""
        slots = self._offsets + tick[:, None] % self._horizons
        rows = np.arange(len(tick) * self._kinds).reshape(-1, self._kinds, 1)
        return np.asarray(rows * self._slots + slots[:, None, :])

    def clear(self, state: PendingState, rows: Bools) -> None:
        """Nothing is pending in these rows any more; what was learned of their drift stays."""
        state.anchors[rows] = np.nan

    def mature(self, state: PendingState, places: I64, gap: I64) -> Matured:
        """Returns what was forecast for the current tick, and column 0 of the ring is that tick's, still empty.

        Args:
            state: changed in place; B rows.
            places: of the current tick of each series; (B, K, J).
            gap: ticks since the reading before; (B,).
        """
        _, kinds, ticks = state.anchors.shape
        shift(state.anchors.reshape(-1, ticks), gap.repeat(kinds))
        anchors = state.anchors[:, :, self._horizons]
        last = anchors[:, LAST]
        values = state.values.reshape(-1).take(places).astype(np.float32)
        np.copyto(values, np.float32(np.nan), where=np.isnan(last)[:, None])
        return Matured(values, last, anchors[:, SCALE], anchors[:, LEVEL], anchors[:, USUAL:])

    def store(self, state: PendingState, places: I64, made: Anchors, values: F32) -> None:
        """The forecasts made at the current tick wait for their truth.

        Args:
            state: changed in place; B rows.
            places: of the current tick of each series; (B, K, J).
            made: what they rest on.
            values: (forecast - last) / scale; (B, K, J).
        """
        state.anchors[:, LAST, 0] = made.last
        state.anchors[:, SCALE, 0] = made.scale
        state.anchors[:, LEVEL, 0] = made.level
        state.anchors[:, USUAL:, 0] = made.usual
        clipped = np.clip(values, -HALF_LIMIT, HALF_LIMIT).astype(np.float16)
        state.values.reshape(-1)[places] = clipped

    def newest(self, state: PendingState, places: I64) -> F64:
        """Returns what was forecast at the current tick, minus the origin; NaN where nothing was; (B, K, J).

        Args:
            state: B rows.
            places: of the current tick of each series; (B, K, J).
        """
        last, scale = (state.anchors[:, kind, :1, None].astype(np.float64) for kind in (LAST, SCALE))
        return np.asarray(state.values.reshape(-1).take(places) * scale + last)

    def learn_drift(self, state: PendingState, truth: F64, matured: Matured, count: I64) -> None:
        """The drift of each horizon includes the error of the last-value forecast that matured now.

        Args:
            state: changed in place; B rows.
            truth: raw value minus the origin; NaN where there is none; (B,).
            matured: what was forecast for now.
            count: valid readings of the series so far; (B,).
        """
        error = truth[:, None] - matured.last
        rate = np.maximum(DRIFT_RATE, 1.0 / np.maximum(count[:, None] - self._horizons, 1))
        before = state.drift.astype(np.float64)
        square = np.where(np.isnan(before), error * error, before * before * (1.0 - rate) + rate * error * error)
        np.copyto(state.drift, np.sqrt(square).astype(np.float32), where=~np.isnan(error))

    def drift(self, state: PendingState, scale: F32) -> F64:
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


def rebase(state: PendingState, before: F64, reference: F64) -> None:
    """What the forecasts rest on is counted from these origins, not from those before. In place.

    Args:
        state: B rows.
        before: NaN where nothing waits; (B,).
        origin: (B,).
    """
    moved = np.flatnonzero(before != reference)  # a NaN differs from everything
    if len(moved):
        change = np.nan_to_num(before[moved] - reference[moved])[:, None, None]
        anchors = state.anchors[moved]
        anchors[:, [LAST]] = anchors[:, [LAST]] + change
        anchors[:, LEVEL:] = anchors[:, LEVEL:] + change
        state.anchors[moved] = anchors


DRIFT_RATE = 0.01
