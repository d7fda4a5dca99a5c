"""The trainer's view of the history topic: all its readings for a run, and their number at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import structlog

from forecaster.errors import TransientBrokerError
from forecaster.formats.history import DamagedHistory, HistoryPart, count_of, decode_history
from forecaster.history import SeriesHistory
from forecaster.interfaces import PartitionReader
from forecaster.learning.data.recent_readings import RecentReadings
from forecaster.records import SourceRecord

READS_PER_COUNT = 4
"""Reads of a call: some thousand records, which take about 0.1 s."""
_log = structlog.get_logger()


class TimestampReader(PartitionReader, Protocol):
    """A `LogReader` that also finds records by their time."""

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """Return the offset of the first record from a time on."""


class Tail(Protocol):
    """A `TailReader`."""

    def read(self) -> list[SourceRecord]:
        """Return the next records; empty at the end."""

    def mark_backlog(self) -> None:
        """Mark the present end of the topic as the end of the backlog."""

    def has_read_backlog(self) -> bool:
        """Return whether everything up to the mark is read."""


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """Topic, time window and limits of a read, as plain values.

    Attributes:
        topic: name of the history topic.
        partitions: number of its partitions.
        window_ms: age of the oldest records that are read.
        max_series: largest number of series; with more, some groups are left out.
        max_readings: largest number of readings; with more, the newest by event time are kept.
    """

    topic: str
    partitions: int
    window_ms: int
    max_series: int
    max_readings: int = 2_000_000


class HistoryReader:
    """Reads the history topic as if it were a file.

    Args:
        config: topic, time window and limits.
        reader: reader of single partitions.

    Attributes:
        damaged: number of damaged records in the last `read`.
    """

    def __init__(self, config: HistoryConfig, reader: TimestampReader) -> None:
        self._config = config
        self._reader = reader
        self.damaged = 0

    def read(self, now_ms: int) -> SeriesHistory:
        """Return the readings of the window up to now, in the order of time; count damaged records and leave them out.

        A read waits for open transactions, and for a broker that is away; the caller sets a deadline.

        Args:
            now_ms: present time, epoch ms.

        Raises:
            TransientBrokerError: the broker failed; start again.
            StateError: a newer version wrote some records.
        """
        config = self._config
        recent = RecentReadings(config.max_readings, config.max_series)
        ends = [self._reader.bounds(config.topic, number)[1] for number in range(config.partitions)]
        self.damaged = 0
        for number, end in enumerate(ends):
            self._read_partition(number, end, now_ms, recent)
        history = recent.history()
        _log.info("history_read", readings=len(history), series=len(history.series_ids), damaged_records=self.damaged)
        return history

    def _read_partition(self, number: int, end: int, now_ms: int, recent: RecentReadings) -> None:
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
                _log.info("history_expired_while_reading", topic=topic, partition=number, offset=position, next=first)
                position = first
                reader.seek(topic, number, position)
                continue
            for record in records:
                if record.offset < end and (part := self._decode(record)):
                    recent.add(part)

    def _decode(self, record: SourceRecord) -> HistoryPart | None:
        """Return the readings of a record; None, counted, if it is damaged."""
        try:
            return decode_history(record.value or b"")
        except DamagedHistory as error:
            if not self.damaged:  # one warning for each read is enough
                _log.warning(
                    "history_record_damaged",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    error=str(error),
                )
            self.damaged += 1
            return None


class HistoryCounter:
    """Counts the readings that workers write to the history topic, by the counts in the headers of the records.

    Args:
        tail: reader of all partitions, at their beginning.

    Attributes:
        is_current: True if everything that the topic held at the last `restart` is counted.
    """

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._readings = 0
        self._is_warning_logged = False
        self._has_mark = False
        self.is_current = False

    def restart(self) -> None:
        """Treat everything that the topic holds by now as a backlog: readings that are not new to the trainer."""
        self._has_mark = self.is_current = False

    def count(self) -> int:
        """Read new records, and return the number of readings since the beginning of the topic.

        A call reads `READS_PER_COUNT` times at most: if the topic is long, the first counts are too small.

        Raises:
            TransientBrokerError: the broker failed.
        """
        if not self._has_mark:
            self._tail.mark_backlog()
            self._has_mark = True
        for _ in range(READS_PER_COUNT):
            records = self._tail.read()
            for record in records:
                self._add(record)
            self.is_current = self.is_current or self._tail.has_read_backlog()
            if not records:
                break
        return self._readings

    def _add(self, record: SourceRecord) -> None:
        count = count_of(record)
        if count is None and not self._is_warning_logged:
            self._is_warning_logged = True
            _log.warning(
                "history_record_without_count", topic=record.topic, partition=record.partition, offset=record.offset
            )
        self._readings += count or 0
