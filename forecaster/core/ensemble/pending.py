"""Pending forecasts, which wait for their truth: a triangular ring in the row of the series.

Scoring is diagonal: the reading of tick t matures, for each horizon h, the forecast made h ticks before, if that tick
had one. For each horizon the ring has h slots; slot t mod h holds the forecast made at tick t until tick t + h. Values
are (forecast - last) / scale in 16 bits. The anchors that they are relative to are kept by tick in 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.core.arrays import shift
from forecaster.records import F16, F32, F64, I64, Bools

HALF_LIMIT = 65_000.0
"""Values are clipped to this, the range of 16 bits."""
LAST_VALUE_RATE = 0.01
"""Smallest rate at which the mean square of the errors of the last value follows new errors."""
LAST_ANCHOR, SCALE_ANCHOR, LEVEL_ANCHOR, PHASE_MEAN_ANCHOR = range(4)
"""Indices of the anchors; from PHASE_MEAN_ANCHOR on there is one for each season."""


@dataclass
class PendingState:
    """Pending forecasts of N series, one row a series; K kinds of forecasts.

    Attributes:
        values: (forecast - last) / scale; slots = sum of the horizons; (N, K, slots).
        anchors: last value, scale, level and the mean of each season's phase at each tick, newest first, column
            0 is the current tick; all but the scale minus the reference; NaN where no forecast was made;
            (N, 3 + seasons, longest horizon + 1).
        last_value_rmse: root mean square error of the last value as a forecast, in units of the series; NaN = none
            matured yet; (N, J).
    """

    values: F16
    anchors: F32
    last_value_rmse: F32

    @classmethod
    def empty(cls, n: int, horizons: Sequence[int], kinds: int, seasons: int) -> PendingState:
        """Return n series without a pending forecast.

        Args:
            n: number of series.
            horizons: ticks ahead, ascending; J.
            kinds: number of kinds of forecasts, K.
            seasons: number of seasons.
        """
        return cls(
            values=np.zeros((n, kinds, sum(horizons)), np.float16),
            anchors=np.full((n, PHASE_MEAN_ANCHOR + seasons, max(horizons) + 1), np.nan, np.float32),
            last_value_rmse=np.full((n, len(horizons)), np.nan, np.float32),
        )


@dataclass(frozen=True, slots=True)
class Matured:
    """Forecasts that were made for the current tick, with their anchors; NaN where none was made.

    Attributes:
        values: (forecast - last) / scale; (B, K, J).
        last: last value at the time of the forecast, minus the reference; (B, J).
        scale: scale at the time of the forecast; (B, J).
        level: level at the time of the forecast, minus the reference; (B, J).
        phase_mean: mean of each season's phase at the time of the forecast, minus the reference; NaN = unknown;
            (B, S, J).
    """

    values: F32
    last: F32
    scale: F32
    level: F32
    phase_mean: F32

    def absolute(self, kinds: slice) -> F64:
        """Return the given kinds of forecasts in units of the series, minus the reference; (B, kinds, J)."""
        return self.values[:, kinds] * self.scale.astype(np.float64)[:, None] + self.last[:, None]

    def relative(self, values: F64) -> F32:
        """Return (values - last) / scale, comparable to the forecasts; 0 if the scale is 0; (B, J).

        Args:
            values: values in units of the series, minus the reference; (B,).
        """
        unit = np.where(self.scale > 0, self.scale, np.inf)
        return ((values[:, None] - self.last) / unit).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Anchors:
    """Anchors of forecasts: last valid value, scale and level, each (B,), and phase means, (B, S)."""

    last: F32
    scale: F32
    level: F32
    phase_mean: F32


class PendingRing:
    """Operations on the ring of pending forecasts.

    Args:
        horizons: ticks ahead, ascending; J.
        kinds: number of kinds of forecasts, K.
    """

    def __init__(self, horizons: Sequence[int], kinds: int) -> None:
        self._horizons = np.array(horizons, np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._horizons)[:-1]])
        self._kinds = kinds
        self._slots = int(self._horizons.sum())

    def places(self, tick: I64) -> I64:
        """Return the flat positions of the slots of each series' tick; (B, K, J).

        The forecasts that mature at a tick occupy the slots of the forecasts made at the tick.
        """
        slots = self._offsets + tick[:, None] % self._horizons
        rows = np.arange(len(tick) * self._kinds).reshape(-1, self._kinds, 1)
        return np.asarray(rows * self._slots + slots[:, None, :])

    def clear(self, state: PendingState, rows: Bools) -> None:
        """Remove the pending forecasts of the given rows, in place; the RMS errors of the last value stay."""
        state.anchors[rows] = np.nan

    def mature(self, state: PendingState, places: I64, gap: I64) -> Matured:
        """Advance the anchors to the current tick, in place, and return the forecasts made for it.

        Args:
            state: B rows, changed in place.
            places: positions of the current tick, see `places`; (B, K, J).
            gap: ticks since the previous reading; (B,).
        """
        _, kinds, ticks = state.anchors.shape
        shift(state.anchors.reshape(-1, ticks), gap.repeat(kinds))
        anchors = state.anchors[:, :, self._horizons]
        last = anchors[:, LAST_ANCHOR]
        values = state.values.reshape(-1).take(places).astype(np.float32)
        np.copyto(values, np.float32(np.nan), where=np.isnan(last)[:, None])
        return Matured(values, last, anchors[:, SCALE_ANCHOR], anchors[:, LEVEL_ANCHOR], anchors[:, PHASE_MEAN_ANCHOR:])

    def store(self, state: PendingState, places: I64, anchors: Anchors, values: F32) -> None:
        """Store the forecasts made at the current tick, in place.

        Args:
            state: B rows, changed in place.
            places: positions of the current tick, see `places`; (B, K, J).
            anchors: anchors of the forecasts.
            values: (forecast - last) / scale; (B, K, J).
        """
        state.anchors[:, LAST_ANCHOR, 0] = anchors.last
        state.anchors[:, SCALE_ANCHOR, 0] = anchors.scale
        state.anchors[:, LEVEL_ANCHOR, 0] = anchors.level
        state.anchors[:, PHASE_MEAN_ANCHOR:, 0] = anchors.phase_mean
        clipped = np.clip(values, -HALF_LIMIT, HALF_LIMIT).astype(np.float16)
        state.values.reshape(-1)[places] = clipped

    def newest(self, state: PendingState, places: I64) -> F64:
        """Return the forecasts made at the current tick, minus the reference; NaN where none was made; (B, K, J).

        Args:
            state: B rows.
            places: positions of the current tick, see `places`; (B, K, J).
        """
        last, scale = (state.anchors[:, kind, :1, None].astype(np.float64) for kind in (LAST_ANCHOR, SCALE_ANCHOR))
        return np.asarray(state.values.reshape(-1).take(places) * scale + last)

    def learn_last_value_rmse(self, state: PendingState, truth: F64, matured: Matured, count: I64) -> None:
        """Update the RMS error of the last value at each horizon by the forecast that matured, in place.

        Args:
            state: B rows, changed in place.
            truth: raw value minus the reference; NaN where there is none; (B,).
            matured: forecasts made for the current tick.
            count: number of valid readings of the series so far; (B,).
        """
        error = truth[:, None] - matured.last
        rate = np.maximum(LAST_VALUE_RATE, 1.0 / np.maximum(count[:, None] - self._horizons, 1))
        before = state.last_value_rmse.astype(np.float64)
        square = np.where(np.isnan(before), error * error, before * before * (1.0 - rate) + rate * error * error)
        np.copyto(state.last_value_rmse, np.sqrt(square).astype(np.float32), where=~np.isnan(error))

    def last_value_rmse(self, state: PendingState, scale: F32) -> F64:
        """Return the RMS error of the last value as a forecast at every horizon; (B, J).

        For a horizon that has not matured yet it is extrapolated with the root of time (a random walk) from the longest
        one that has; if none has, from `scale`, (B,).
        """
        root = np.sqrt(self._horizons)
        ratio = state.last_value_rmse / root
        known = ~np.isnan(ratio)
        if known.all():
            return state.last_value_rmse.astype(np.float64)
        newest = np.maximum.accumulate(np.where(known, np.arange(len(root)), -1), axis=1)
        filled = np.take_along_axis(ratio, np.maximum(newest, 0), axis=1)
        return np.where(known, state.last_value_rmse, np.where(newest >= 0, filled, scale[:, None]) * root)


def rebase(state: PendingState, before: F64, reference: F64) -> None:
    """Make the anchors relative to new references, in place.

    Args:
        state: B rows, changed in place.
        before: references that were subtracted from the anchors; NaN where no forecast is pending; (B,).
        reference: new references; (B,).
    """
    rows = np.flatnonzero(before != reference)  # a NaN differs from everything
    if len(rows):
        change = np.nan_to_num(before[rows] - reference[rows])[:, None, None]
        anchors = state.anchors[rows]
        anchors[:, [LAST_ANCHOR]] = anchors[:, [LAST_ANCHOR]] + change
        anchors[:, LEVEL_ANCHOR:] = anchors[:, LEVEL_ANCHOR:] + change
        state.anchors[rows] = anchors
