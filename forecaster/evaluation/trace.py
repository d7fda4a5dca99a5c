"""What a report shows of a backtest beside its metrics: some forecasts whole, the experts' weights as they went."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.formats.files import SeriesHistory
from forecaster.records import F64, I64, Outputs

SHOWN_SERIES = 4
FANS = 3
KEPT_TICKS = 400
"""So many last readings and forecasts of a series are kept."""
BUCKETS = 200


@dataclass(frozen=True, slots=True)
class FanForecast:
    """One forecast: `target_ms` (J,), `point` (J,), `quantiles` (Q, J)."""

    made_ms: int
    target_ms: I64
    point: F64
    quantiles: F64


@dataclass(frozen=True, slots=True)
class TracedSeries:
    """One series: its last readings, and some forecasts made among them."""

    series_id: str
    timestamp_ms: I64
    values: F64
    fans: list[FanForecast]


@dataclass(frozen=True, slots=True)
class Weights:
    """Means over series and horizons, by time: `values` (T, E + 1), the last column is the gate."""

    names: Sequence[str]
    time_ms: I64
    values: F64


class ForecastTrace:
    """Collects while a pipeline that tells goes through a history.

    Args:
        history: everything that will be fed.
        begin: position from which on it is collected.
        experts: their names.
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
        """The outputs of the batch whose first reading stands at position `first` are part of it."""
        made = outputs.forecasts
        position = made.reading + first
        late = position >= self._begin
        bucket = (made.timestamp_ms - self._begin_ms) * BUCKETS // (self._end_ms - self._begin_ms)
        bucket = np.clip(bucket, 0, BUCKETS - 1)
        np.add.at(self._sums, bucket[late], made.weights.mean(axis=2)[late])
        np.add.at(self._counts, bucket[late], 1.0)
        rows = self._history.row[position]
        for place in np.flatnonzero(late & np.isin(rows, list(self._fans))).tolist():
            fan = FanForecast(
                int(made.timestamp_ms[place]), made.target_ms[place], made.point[place], made.quantiles[place]
            )
            self._fans[int(rows[place])].append(fan)

    def weights(self) -> Weights:
        """Returns the weights of the times that there were forecasts at."""
        seen = self._counts > 0
        step = (self._end_ms - self._begin_ms) / BUCKETS
        times = (self._begin_ms + (np.arange(BUCKETS) + 0.5) * step).astype(np.int64)
        return Weights(self._names, times[seen], self._sums[seen] / self._counts[seen, None])

    def shown(self) -> list[TracedSeries]:
        """Returns the series that are shown."""
        return [self._series(row, list(fans)) for row, fans in self._fans.items() if fans]

    def _series(self, row: int, fans: list[FanForecast]) -> TracedSeries:
        history = self._history
        mine: NDArray[np.int64] = np.flatnonzero(history.row == row)[-KEPT_TICKS:]
        last = int(history.timestamp_ms[mine[-1]])
        whole = [fan for fan in fans if int(fan.target_ms[-1]) <= last] or fans
        reach = int(fans[-1].target_ms[-1]) - fans[-1].made_ms
        chosen: list[FanForecast] = []
        for fan in reversed(whole):
            if len(chosen) < FANS and (not chosen or chosen[-1].made_ms - fan.made_ms > 1.2 * reach):
                chosen.append(fan)
        begin = chosen[-1].made_ms - 2 * reach
        mine = mine[history.timestamp_ms[mine] >= begin]
        return TracedSeries(history.series_ids[row], history.timestamp_ms[mine], history.values[mine], chosen[::-1])
