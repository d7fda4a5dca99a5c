"""The newest readings of whole groups, kept in bounded memory while parts of the history come in, in any order."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecaster.formats.files import SeriesHistory
from forecaster.formats.history import HASHES, HistoryPart, group_hash
from forecaster.records import F64, I64, Bools

_EVER = np.iinfo(np.int64).min


class RecentReadings:
    """Holds at most half more than `max_readings`, and gives back at most `max_readings` of at most `max_series`.

    What is too much is dropped now and then: the groups with the highest hashes, which are those that a worker leaves
    out first, then the oldest readings. A group is never cut; one alone may have more series than `max_series`.

    Args:
        max_readings: at least 1.
        max_series: at least 1.
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
        self._hash_limit, self._oldest_ms = HASHES, _EVER
        self._series_bound = self._loose(max_series)

    def __len__(self) -> int:
        return self._held

    @property
    def series(self) -> int:
        """How many series are known at the moment."""
        return len(self._numbers)

    def add(self, part: HistoryPart) -> None:
        """The part's readings are held, but for those that are too old or of groups left out by now."""
        begin = 0
        while begin < len(part):
            end = min(begin + self._slack, len(part))
            if self._held + end - begin > len(self._row):
                self._settle()
            self._take(part, slice(begin, end))
            begin = end
        if len(part):
            self._record += int(part.records[-1]) + 1
        if len(self._numbers) > self._series_bound:
            self._settle()

    def history(self) -> SeriesHistory:
        """Returns what is held, in the order of time; within a time, in the order in which it came."""
        self._settle()
        held = slice(0, self._held)
        return SeriesHistory(
            series_ids=list(self._numbers),
            row=self._row[held].copy(),
            timestamp_ms=self._timestamp_ms[held].copy(),
            values=self._values[held].copy(),
            records=self._records[held].copy(),
        )

    def _take(self, part: HistoryPart, span: slice) -> None:
        """The readings of the span that are new enough and of chosen groups are held; there is room for them."""
        row = self._numbered(part)[part.row[span]]
        kept = (row >= 0) & (part.timestamp_ms[span] >= self._oldest_ms)
        place = slice(self._held, self._held + int(kept.sum()))
        self._row[place] = row[kept]
        self._timestamp_ms[place] = part.timestamp_ms[span][kept]
        self._values[place] = part.values[span][kept]
        self._records[place] = part.records[span][kept] + self._record
        self._held = place.stop

    def _numbered(self, part: HistoryPart) -> I64:
        """Returns the number of each series of the part, new ones included; -1 where its group is left out."""
        numbers = np.full(len(part.series_ids), -1, np.int64)
        for at, (name, group) in enumerate(zip(part.series_ids, part.groups or part.series_ids, strict=True)):
            number = self._numbers.get(name, -1)
            if number < 0 and (place := group_hash(group)) < self._hash_limit:
                number = self._numbers[name] = len(self._numbers)
                self._hashes.append(place)
            numbers[at] = number
        return numbers

    def _settle(self) -> None:
        """No more is held than is given back; sorted, and series are numbered as they first appear."""
        order = np.flatnonzero(self._chosen()[self._row[: self._held]])
        order = order[np.lexsort((self._records[order], self._timestamp_ms[order]))]
        order = order[self._surplus(order) :]
        row, before = pd.factorize(self._row[order])
        self._held = len(order)
        for column in (self._timestamp_ms, self._values, self._records):
            column[: self._held] = column[order]
        self._row[: self._held] = row
        names, hashes = list(self._numbers), self._hashes
        self._numbers = {names[number]: now for now, number in enumerate(before.tolist())}
        self._hashes = [hashes[number] for number in before.tolist()]
        self._series_bound = self._loose(max(self._max_series, len(self._numbers)))

    def _chosen(self) -> Bools:
        """Returns which series stay, by number; the limit of hashes falls where they are too many."""
        hashes = np.array(self._hashes, np.int64)
        if len(hashes) > self._max_series:
            ordered = np.sort(hashes)
            self._hash_limit = max(int(ordered[self._max_series]), int(ordered[0]) + 1)
        return np.asarray(hashes < self._hash_limit)

    def _surplus(self, order: I64) -> int:
        """Returns how many of the oldest readings are too many, whole records; from now on none so old is taken."""
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
    def _loose(count: int) -> int:
        """Returns a bound so far above the count that settling costs little of the time."""
        return count + count // 4
