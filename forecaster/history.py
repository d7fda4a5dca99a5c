"""The readings of many series in the order of time, to train, seed and evaluate on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forecaster.records import F64, I64, Readings


@dataclass(frozen=True, slots=True)
class SeriesHistory:
    """N readings of S series, in the order of time.

    Attributes:
        series_ids: the series; S.
        series_index: index of each reading's series among the S; (N,).
        timestamp_ms: event times, epoch ms, UTC, ascending; (N,).
        values: raw values; NaN where missing; (N,).
        record_of_reading: index of each reading's record; readings of one record belong to one group; (N,).
    """

    series_ids: list[str]
    series_index: I64
    timestamp_ms: I64
    values: F64
    record_of_reading: I64

    def __len__(self) -> int:
        return len(self.series_index)

    def spans(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield begin and end of parts of about `size` readings, without splitting a record."""
        begin = 0
        while begin < len(self):
            end = self.record_end(begin + size)
            yield begin, end
            begin = end

    def record_end(self, position: int) -> int:
        """Return the first position from `position` on that splits no record, at most the end."""
        end = min(position, len(self))
        while 0 < end < len(self) and self.record_of_reading[end] == self.record_of_reading[end - 1]:
            end += 1
        return end

    def readings(self, begin: int, end: int) -> Readings:
        """Return the readings from `begin` up to `end`, as the decoder would return them."""
        span = slice(begin, end)
        names = [self.series_ids[row] for row in self.series_index[span].tolist()]
        return Readings(names, self.timestamp_ms[span], self.values[span], self.record_of_reading[span])

    def first(self, count: int) -> SeriesHistory:
        """Return the first `count` readings."""
        span = slice(0, count)
        return SeriesHistory(
            self.series_ids,
            self.series_index[span],
            self.timestamp_ms[span],
            self.values[span],
            self.record_of_reading[span],
        )

    def before(self, time_ms: int) -> SeriesHistory:
        """Return the readings with event times before `time_ms`."""
        return self.first(int(np.searchsorted(self.timestamp_ms, time_ms, side="left")))

    def since(self, time_ms: int) -> SeriesHistory:
        """Return the readings with event times from `time_ms` on."""
        span = slice(int(np.searchsorted(self.timestamp_ms, time_ms, side="left")), None)
        return SeriesHistory(
            self.series_ids,
            self.series_index[span],
            self.timestamp_ms[span],
            self.values[span],
            self.record_of_reading[span],
        )

    def interval_ms(self) -> int:
        """Return the median spacing of neighbouring readings of a series, in ms; 0 if no series has two."""
        order = np.lexsort((self.timestamp_ms, self.series_index))
        steps = np.diff(self.timestamp_ms[order])[np.diff(self.series_index[order]) == 0]
        steps = steps[steps > 0]
        return int(np.median(steps)) if len(steps) else 0

    def count_in_share(self, share: float) -> int:
        """Return the number of readings in the first `share` (0..1) of the time span."""
        if not len(self) or share <= 0:
            return 0
        begin, end = int(self.timestamp_ms[0]), int(self.timestamp_ms[-1])
        return int(np.searchsorted(self.timestamp_ms, begin + share * (end - begin), side="left"))
