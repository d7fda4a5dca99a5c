"""The newest readings of entire groups, kept in bounded memory while parts of the history come in, in any order."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecaster.core.hashing import HASHES, group_hash
from forecaster.formats.history import HistoryPart
from forecaster.history import SeriesHistory
from forecaster.records import F64, I64, Bools

_NO_LIMIT = np.iinfo(np.int64).min


class RecentReadings:
    """The newest `max_readings` readings of at most `max_series` series; holds up to half more than that.

    The surplus is dropped now and then: first the groups with the highest hashes, which are those that a worker leaves
    out first, then the oldest readings. A group is kept or dropped as one, so that a single large group may have more
    than `max_series` series.

    Args:
        max_readings: largest number of readings, at least 1.
        max_series: largest number of series, at least 1.
    """

    def __init__(self, max_readings: int, max_series: int) -> None:
        self._max_readings, self._max_series = max_readings, max_series
        self._slack = max_readings // 2 + 1
        capacity = max_readings + self._slack
        self._row: I64 = np.empty(capacity, np.int64)
        self._timestamp_ms: I64 = np.empty(capacity, np.int64)
        self._values: F64 = np.empty(capacity, np.float64)
        self._records: I64 = np.empty(capacity, np.int64)
        self._held = self._record = 0
        self._numbers: dict[str, int] = {}
        self._hashes: list[int] = []
        self._hash_limit, self._oldest_ms = HASHES, _NO_LIMIT
        self._series_bound = self._with_slack(max_series)

    def __len__(self) -> int:
        return self._held

    @property
    def series(self) -> int:
        """Number of series that are held."""
        return len(self._numbers)

    def add(self, part: HistoryPart) -> None:
        """Add the readings of a part, except those that are too old, or of groups that were dropped."""
        begin = 0
        while begin < len(part):
            end = min(begin + self._slack, len(part))
            if self._held + end - begin > len(self._row):
                self._drop_surplus()
            self._append(part, slice(begin, end))
            begin = end
        if len(part):
            self._record += int(part.record_of_reading[-1]) + 1
        if len(self._numbers) > self._series_bound:
            self._drop_surplus()

    def history(self) -> SeriesHistory:
        """Return the readings in the order of time, and those of the same time in the order in which they came."""
        self._drop_surplus()
        held = slice(0, self._held)
        return SeriesHistory(
            series_ids=list(self._numbers),
            series_index=self._row[held].copy(),
            timestamp_ms=self._timestamp_ms[held].copy(),
            values=self._values[held].copy(),
            record_of_reading=self._records[held].copy(),
        )

    def _append(self, part: HistoryPart, span: slice) -> None:
        """Append the readings of the span that are new enough and of groups that are kept; the arrays have room."""
        row = self._series_numbers(part)[part.row[span]]
        kept = (row >= 0) & (part.timestamp_ms[span] >= self._oldest_ms)
        place = slice(self._held, self._held + int(kept.sum()))
        self._row[place] = row[kept]
        self._timestamp_ms[place] = part.timestamp_ms[span][kept]
        self._values[place] = part.values[span][kept]
        self._records[place] = part.record_of_reading[span][kept] + self._record
        self._held = place.stop

    def _series_numbers(self, part: HistoryPart) -> I64:
        """Return the number of each series of the part; a new series gets one, a series of a dropped group has -1."""
        numbers = np.full(len(part.series_ids), -1, np.int64)
        for position, (name, group) in enumerate(zip(part.series_ids, part.groups or part.series_ids, strict=True)):
            number = self._numbers.get(name, -1)
            if number < 0 and (hashed := group_hash(group)) < self._hash_limit:
                number = self._numbers[name] = len(self._numbers)
                self._hashes.append(hashed)
            numbers[position] = number
        return numbers

    def _drop_surplus(self) -> None:
        """Sort the readings by time, drop the surplus, and number the series in the order in which they appear."""
        order = np.flatnonzero(self._kept_series()[self._row[: self._held]])
        order = order[np.lexsort((self._records[order], self._timestamp_ms[order]))]
        order = order[self._surplus(order) :]
        row, old_numbers = pd.factorize(self._row[order])
        self._held = len(order)
        for column in (self._timestamp_ms, self._values, self._records):
            column[: self._held] = column[order]
        self._row[: self._held] = row
        names, hashes = list(self._numbers), self._hashes
        self._numbers = {names[old]: new for new, old in enumerate(old_numbers.tolist())}
        self._hashes = [hashes[old] for old in old_numbers.tolist()]
        self._series_bound = self._with_slack(max(self._max_series, len(self._numbers)))

    def _kept_series(self) -> Bools:
        """Return which series stay, by number; lower the limit of hashes if there are too many."""
        hashes = np.array(self._hashes, np.int64)
        if len(hashes) > self._max_series:
            ordered = np.sort(hashes)
            self._hash_limit = max(int(ordered[self._max_series]), int(ordered[0]) + 1)
        return np.asarray(hashes < self._hash_limit)

    def _surplus(self, order: I64) -> int:
        """Return how many of the oldest readings to drop, entire records; from then on refuse readings as old."""
        begin = len(order) - self._max_readings
        if begin <= 0:
            return 0
        records = self._records[order]
        while begin < len(order) and records[begin] == records[begin - 1]:
            begin += 1
        if begin < len(order):
            self._oldest_ms = int(self._timestamp_ms[order[begin]])
        return begin

    @staticmethod
    def _with_slack(count: int) -> int:
        """Return a bound that is far enough above the count that dropping the surplus takes little of the time."""
        return count + count // 4
