"""The course of a backtest for its report: some complete forecasts, and the weights of the experts over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.history import SeriesHistory
from forecaster.records import F64, I64, Outputs

SHOWN_SERIES = 4
FANS = 3
"""Number of forecasts that are shown of a series."""
KEPT_TICKS = 400
"""Number of last readings and forecasts that are kept of a series."""
BUCKETS = 200
"""Number of points in time that the weights are averaged to."""


@dataclass(frozen=True, slots=True)
class FanForecast:
    """One forecast.

    Attributes:
        made_ms: event time of its origin.
        target_ms: event times that are forecast; (J,).
        point: point forecasts, in the units of the series; (J,).
        quantiles: quantile forecasts; (Q, J).
    """

    made_ms: int
    target_ms: I64
    point: F64
    quantiles: F64


@dataclass(frozen=True, slots=True)
class TracedSeries:
    """Last readings of one series, and some forecasts that were made in their time."""

    series_id: str
    timestamp_ms: I64
    values: F64
    fans: list[FanForecast]


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """Weights of the experts over time, means over series and horizons.

    Attributes:
        names: names of the experts, then "gate"; E + 1.
        time_ms: event times; (T,).
        values: the weights, the gate in the last column; (T, E + 1).
    """

    names: Sequence[str]
    time_ms: I64
    values: F64


class ForecastTrace:
    """Collects forecasts and weights while a pipeline serves a history; its outputs must have details.

    Args:
        history: all readings that the pipeline serves.
        begin: position of the first reading of the evaluation.
        experts: names of the experts.
    """

    def __init__(self, history: SeriesHistory, begin: int, experts: Sequence[str]) -> None:
        self._history, self._begin, self._names = history, begin, (*experts, "gate")
        count = len(history.series_ids)
        places = np.linspace(0, count - 1, min(SHOWN_SERIES, count)).round().astype(int)
        self._fans: dict[int, deque[FanForecast]] = {row: deque(maxlen=KEPT_TICKS) for row in places.tolist()}
        self._begin_ms, self._end_ms = int(history.timestamp_ms[begin]), int(history.timestamp_ms[-1]) + 1
        self._sums = np.zeros((BUCKETS, len(self._names)))
        self._counts = np.zeros(BUCKETS)

    def add(self, first: int, outputs: Outputs) -> None:
        """Add the outputs of a batch, whose first reading is at position `first` of the history."""
        forecasts = outputs.forecasts
        position = forecasts.reading + first
        evaluated = position >= self._begin
        bucket = (forecasts.timestamp_ms - self._begin_ms) * BUCKETS // (self._end_ms - self._begin_ms)
        bucket = np.clip(bucket, 0, BUCKETS - 1)
        np.add.at(self._sums, bucket[evaluated], forecasts.weights.mean(axis=2)[evaluated])
        np.add.at(self._counts, bucket[evaluated], 1.0)
        rows = self._history.series_index[position]
        for number in np.flatnonzero(evaluated & np.isin(rows, list(self._fans))).tolist():
            fan = FanForecast(
                made_ms=int(forecasts.timestamp_ms[number]),
                target_ms=forecasts.target_ms[number],
                point=forecasts.point[number],
                quantiles=forecasts.quantiles[number],
            )
            self._fans[int(rows[number])].append(fan)

    def weights(self) -> ExpertWeights:
        """Return the weights of the experts at the times that have forecasts."""
        seen = self._counts > 0
        step = (self._end_ms - self._begin_ms) / BUCKETS
        times = (self._begin_ms + (np.arange(BUCKETS) + 0.5) * step).astype(np.int64)
        return ExpertWeights(self._names, times[seen], self._sums[seen] / self._counts[seen, None])

    def series(self) -> list[TracedSeries]:
        """Return the series that the report shows."""
        return [self._series(row, list(fans)) for row, fans in self._fans.items() if fans]

    def _series(self, row: int, fans: list[FanForecast]) -> TracedSeries:
        """Return the last forecasts whose truths are all known and that do not overlap, with the readings around."""
        history = self._history
        positions: I64 = np.flatnonzero(history.series_index == row)[-KEPT_TICKS:]
        last_ms = int(history.timestamp_ms[positions[-1]])
        complete = [fan for fan in fans if int(fan.target_ms[-1]) <= last_ms] or fans
        reach_ms = int(fans[-1].target_ms[-1]) - fans[-1].made_ms
        chosen: list[FanForecast] = []
        for fan in reversed(complete):
            if len(chosen) < FANS and (not chosen or chosen[-1].made_ms - fan.made_ms > 1.2 * reach_ms):
                chosen.append(fan)
        begin_ms = chosen[-1].made_ms - 2 * reach_ms
        positions = positions[history.timestamp_ms[positions] >= begin_ms]
        return TracedSeries(
            series_id=history.series_ids[row],
            timestamp_ms=history.timestamp_ms[positions],
            values=history.values[positions],
            fans=chosen[::-1],
        )
