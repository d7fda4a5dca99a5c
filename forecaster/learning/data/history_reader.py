"""What a trainer reads of the history topic: the readings themselves once, and their count all the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import structlog

from forecaster.errors import TransientBrokerError
from forecaster.formats.files import SeriesHistory
from forecaster.formats.history import DamagedHistory, HistoryPart, count_of, decode_history
from forecaster.learning.data.recent_readings import RecentReadings
from forecaster.records import SourceRecord

READS_PER_LOOK = 4
"""Some thousand records, about 0.1 s where the topic is long."""
_log = structlog.get_logger()


class Reader(Protocol):
    """What is asked of `LogReader`; tests have their own."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]: ...
    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int: ...
    def seek(self, topic: str, partition: int, offset: int) -> None: ...
    def read(self) -> list[SourceRecord]: ...
    @property
    def position(self) -> int: ...


class Tail(Protocol):
    """What is asked of `TailReader`; tests have their own."""

    def read(self) -> list[SourceRecord]: ...
    def mark_backlog(self) -> None: ...
    def has_read_backlog(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """Plain values of the reading.

    Attributes:
        topic: the history topic.
        partitions: of it.
        window_ms: what was written longer ago is left out.
        max_series: more series than these are thinned out by whole groups.
        max_readings: the newest by event time are kept.
    """

    topic: str
    partitions: int
    window_ms: int
    max_series: int
    max_readings: int = 2_000_000


class HistorySource:
    """Reads the history topic as if it were a file.

    Args:
        config: plain values.
        reader: of the topic.
    """

    def __init__(self, config: HistoryConfig, reader: Reader) -> None:
        self._config = config
        self._reader = reader
        self.damaged = 0

    def read(self, now_ms: int) -> SeriesHistory:
        """Returns the readings of the window up to now, in the order of time; damaged records are counted and left out.

        It waits for open transactions and for a broker that is away; how long at most, the caller decides.

        Args:
            now_ms: epoch ms.

        Raises:
            TransientBrokerError: not this time; begin again.
            StateError: a newer version wrote some of it.
        """
        config = self._config
        newest = RecentReadings(config.max_readings, config.max_series)
        ends = [self._reader.bounds(config.topic, number)[1] for number in range(config.partitions)]
        self.damaged = 0
        for number, end in enumerate(ends):
            self._read_partition(number, end, now_ms, newest)
        history = newest.history()
        _log.info("history read", readings=len(history), series=len(history.series_ids), damaged_records=self.damaged)
        return history

    def _read_partition(self, number: int, end: int, now_ms: int, newest: RecentReadings) -> None:
        topic, reader = self._config.topic, self._reader
        position = reader.offset_at(topic, number, now_ms - self._config.window_ms)
        if position < end:
            reader.seek(topic, number, position)
        while position < end:
            try:
                records = reader.read()
                position = reader.position
            except TransientBrokerError:
                first = reader.bounds(topic, number)[0]
                if first <= position:
                    raise
                _log.info("retention took history while it was read", partition=number, offset=position, next=first)
                position = first
                reader.seek(topic, number, position)
                continue
            for record in records:
                if record.offset < end and (part := self._part(record)):
                    newest.add(part)

    def _part(self, record: SourceRecord) -> HistoryPart | None:
        try:
            return decode_history(record.value or b"")
        except DamagedHistory as error:
            if not self.damaged:
                where = {"partition": record.partition, "offset": record.offset}
                _log.warning("a damaged record of the history is left out", **where, error=str(error))
            self.damaged += 1
            return None


class HistoryCounter:
    """Counts what workers write to the history topic, by what the records say of themselves.

    Args:
        tail: of the topic, at its beginning.
    """

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._readings = 0
        self._unclear = False
        self._has_mark = False
        self.is_current = False
        """All that the topic held when the counting began, the last time, has been met."""

    def begin(self) -> None:
        """What the topic holds by now is a backlog: nothing new to who counts from here on."""
        self._has_mark = self.is_current = False

    def look(self) -> int:
        """Returns how many readings were met since the beginning of what the topic held; it takes a moment at most.

        The first looks are behind where the topic is long; those after them catch up.

        Raises:
            TransientBrokerError: not this time.
        """
        if not self._has_mark:
            self._tail.mark_backlog()
            self._has_mark = True
        for _ in range(READS_PER_LOOK):
            records = self._tail.read()
            for record in records:
                self._count(record)
            self.is_current = self.is_current or self._tail.has_read_backlog()
            if not records:
                break
        return self._readings

    def _count(self, record: SourceRecord) -> None:
        count = count_of(record)
        if count is None and not self._unclear:
            self._unclear = True
            where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            _log.warning("a record of the history topic does not say how much it holds", **where)
        self._readings += count or 0
