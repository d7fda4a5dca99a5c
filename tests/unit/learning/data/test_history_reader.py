"""The history topic is read as if it were a file, within limits of series, readings and memory."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from builders import HOUR_MS, START_MS, readings

from forecaster.core.hashing import group_hash
from forecaster.errors import StateError, TransientBrokerError
from forecaster.formats.files import join
from forecaster.formats.history import HistoryPart, decode_history, encode_history
from forecaster.history import SeriesHistory
from forecaster.learning.data.history_reader import HistoryConfig, HistoryCounter, HistoryReader
from forecaster.learning.data.recent_readings import RecentReadings
from forecaster.records import InputRecord, Readings, SourceRecord

TOPIC = "readings.history"


def batch(dice: np.random.Generator, hour: int, groups: Sequence[int], fields: int = 2) -> Readings:
    """A record of each group, with a stamp near the hour."""
    rows = [
        (f"pump-{group}/{field}", START_MS + int(hour + lag) * HOUR_MS, None if dice.random() < 0.1 else dice.normal())
        for group, lag in zip(groups, dice.integers(-2, 2, len(groups)), strict=True)
        for field in range(fields)
    ]
    records = [number // fields for number in range(len(rows))]
    plain = readings(rows, records)
    names = [name.split("/")[0] for name in plain.series_ids]
    return Readings(plain.series_ids, plain.timestamp_ms, plain.values, plain.record_of_reading, names)


def frame(content: Readings) -> pd.DataFrame:
    columns = {"series_id": content.series_ids, "timestamp_ms": content.timestamp_ms, "value": content.values}
    return pd.DataFrame(columns | {"record": content.record_of_reading})


def value(content: Readings) -> bytes:
    (message,) = encode_history(0, content, np.arange(len(content)), np.zeros(len(content), bool))
    return message.value or b""


def decoded(content: Readings) -> HistoryPart:
    return decode_history(value(content))


def table(history: SeriesHistory) -> list[tuple[str, int, float, int]]:
    values = np.nan_to_num(history.values, nan=-99).tolist()
    columns = history.timestamp_ms.tolist(), values, history.record_of_reading.tolist()
    return list(zip([history.series_ids[row] for row in history.series_index], *columns, strict=True))


class FakeLog:
    """A topic whose records take two offsets each, the second as the end of a transaction would."""

    def __init__(self, partitions: int) -> None:
        self.logs: list[list[InputRecord]] = [[] for _ in range(partitions)]
        self.first = [0] * partitions
        self.retention: list[tuple[int, int]] = []
        self.tailed = [0] * partitions
        self._partition = self._at = 0

    def append(self, partition: int, content: bytes | None, count: int = 0, timestamp: int = 0) -> None:
        log = self.logs[partition]
        headers = [("readings", str(count).encode())]
        log.append(InputRecord(TOPIC, partition, 2 * len(log), timestamp, None, content, headers))

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        assert topic == TOPIC
        return self.first[partition], 2 * len(self.logs[partition])

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        offsets = [record.offset for record in self.logs[partition] if record.timestamp >= timestamp_ms]
        return offsets[0] if offsets else self.bounds(topic, partition)[1]

    def seek(self, topic: str, partition: int, offset: int) -> None:
        assert topic == TOPIC
        self._partition, self._at = partition, offset

    def read(self, *, wait: bool = True) -> list[SourceRecord]:  # noqa: ARG002 - the fake never waits
        if self.retention:
            partition, offset = self.retention.pop()
            self.first[partition] = offset
        if self._at < self.first[self._partition]:
            raise TransientBrokerError("the offset is no longer in the log")
        records = [record for record in self.logs[self._partition] if record.offset >= self._at][:3]
        self._at = records[-1].offset + 2 if records else self._at
        return list(records)

    @property
    def position(self) -> int:
        return self._at


class FakeTail:
    """Returns the records so far, three at a time."""

    def __init__(self) -> None:
        self.waiting: list[InputRecord] = []
        self.backlog, self.away = 0, False

    def append(self, headers: list[tuple[str, bytes]]) -> None:
        self.waiting.append(InputRecord(TOPIC, 0, 0, 0, None, b"", headers))

    def read(self) -> list[SourceRecord]:
        records, self.waiting = self.waiting[:3], self.waiting[3:]
        self.backlog -= len(records)
        return list(records)

    def mark_backlog(self) -> None:
        if self.away:
            raise TransientBrokerError("away")

    def has_read_backlog(self) -> bool:
        return self.backlog <= 0


def source(log: FakeLog, **options: int) -> HistoryReader:
    plain = {"partitions": len(log.logs), "window_ms": 1_000, "max_series": 1_000_000}
    return HistoryReader(HistoryConfig(TOPIC, **{**plain, **options}), log)


def filled(log: FakeLog, hours: int = 30, groups: int = 8) -> list[Readings]:
    """Fill the log; return its content in the order in which it is read."""
    dice = np.random.default_rng(7)
    parts: list[list[Readings]] = [[] for _ in log.logs]
    for hour in range(hours):
        for partition in range(len(log.logs)):
            owned = [group for group in range(groups) if group % len(log.logs) == partition]
            parts[partition].append(batch(dice, hour, owned))
            log.append(partition, value(parts[partition][-1]), len(parts[partition][-1]))
    return [content for of_partition in parts for content in of_partition]


def test_history_from_the_topic_equals_history_from_files() -> None:
    log = FakeLog(3)
    parts = filled(log)
    history, expected = source(log).read(now_ms=0), join([frame(content) for content in parts])
    assert table(history) == table(expected)
    assert history.series_ids == expected.series_ids
    assert (np.diff(history.timestamp_ms) >= 0).all()


def test_readings_of_a_record_stay_together_under_one_number() -> None:
    log = FakeLog(3)
    filled(log)
    history = source(log).read(now_ms=0)
    groups = [history.series_ids[row].split("/")[0] for row in history.series_index]
    for begin in range(0, len(history), 2):
        assert groups[begin] == groups[begin + 1]
        assert history.record_of_reading[begin] == history.record_of_reading[begin + 1]
    assert len(set(history.record_of_reading.tolist())) == len(history) // 2


def test_records_from_before_the_window_are_left_out() -> None:
    log, dice = FakeLog(1), np.random.default_rng(1)
    for second in range(10):
        log.append(0, value(batch(dice, second, [second])), timestamp=1_000 * second)
    history = source(log, window_ms=3_000).read(now_ms=9_000)
    assert sorted(history.series_ids) == sorted(f"pump-{group}/{field}" for group in (6, 7, 8, 9) for field in (0, 1))


def test_an_empty_topic_gives_an_empty_history() -> None:
    history = source(FakeLog(3)).read(now_ms=0)
    assert (len(history), history.series_ids) == (0, [])


def test_a_damaged_record_is_counted_and_the_others_are_read() -> None:
    log = FakeLog(1)
    parts = filled(log, hours=5)
    for damaged in (b"", None, value(parts[0])[:-1]):
        log.append(0, damaged)
    log.append(0, value(parts[0]))
    reader = source(log)
    assert table(reader.read(now_ms=0)) == table(join([frame(content) for content in [*parts, parts[0]]]))
    assert reader.damaged == 3


def test_a_newer_schema_is_refused() -> None:
    log = FakeLog(1)
    filled(log, hours=1)
    log.append(0, zlib.crc32(b"\xff").to_bytes(4, "little") + b"\xff")
    with pytest.raises(StateError, match="newer version"):
        source(log).read(now_ms=0)


def test_reading_continues_behind_records_that_retention_removes() -> None:
    log = FakeLog(2)
    parts = filled(log, hours=10)
    log.retention = [(1, 10), (0, 8)]
    history = source(log).read(now_ms=0)
    assert table(history) == table(join([frame(content) for content in [*parts[4:10], *parts[15:]]]))


def test_other_errors_of_the_broker_are_raised() -> None:
    class Away(FakeLog):
        def read(self, *, wait: bool = True) -> list[SourceRecord]:  # noqa: ARG002 - it never waits
            raise TransientBrokerError("away")

    log = Away(1)
    filled(log, hours=1)
    with pytest.raises(TransientBrokerError, match="away"):
        source(log).read(now_ms=0)


def test_of_too_many_readings_the_newest_are_kept() -> None:
    """By event time, and entire records."""
    log = FakeLog(3)
    all_rows = table(join([frame(content) for content in filled(log, hours=60)]))
    for most in (101, 57, 2):
        kept = table(source(log, max_readings=most).read(now_ms=0))
        assert [row[:3] for row in kept] == [row[:3] for row in all_rows[-(most // 2 * 2) :]]


def test_of_too_many_series_the_groups_with_the_lowest_hashes_are_kept() -> None:
    """A group is kept or left out as one."""
    log = FakeLog(3)
    all_rows = table(join([frame(content) for content in filled(log, groups=40)]))
    kept = sorted((f"pump-{group}" for group in range(40)), key=group_hash)[:7]
    history = source(log, max_series=15).read(now_ms=0)
    assert [row[:3] for row in table(history)] == [row[:3] for row in all_rows if row[0].split("/")[0] in kept]
    assert len(history.series_ids) == 14


def test_a_single_group_larger_than_the_limit_is_kept() -> None:
    recent = RecentReadings(max_readings=1_000, max_series=3)
    dice = np.random.default_rng(1)
    for hour in range(20):
        recent.add(decoded(batch(dice, hour, [1, 2], fields=8)))
    history = recent.history()
    assert len({history.series_ids[row].split("/")[0] for row in history.series_index}) == 1
    assert len(history.series_ids) == 8


def part(dice: np.random.Generator, number: int, size: int) -> HistoryPart:
    """A decoded part; series come and go from part to part."""
    names = [f"pump-{name}" for name in range(10 * number, 10 * number + 50)]
    row, stamps = np.arange(size) % len(names), START_MS + (number + dice.integers(-9, 9, size)) * HOUR_MS
    return HistoryPart(names, [], row, stamps, dice.normal(size=size), np.arange(size))


def test_memory_is_bounded_however_long_the_topic_is() -> None:
    recent, dice = RecentReadings(max_readings=10_000, max_series=1_000), np.random.default_rng(1)
    total = most = 0
    tracemalloc.start()
    for number, size in enumerate(dice.choice([1, 7, 2_000], 1_500).tolist()):
        recent.add(part(dice, number, size))
        total, most = total + size, max(most, len(recent))
        assert recent.series < 2_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 900_000
    assert most <= 15_001
    assert peak < 4_000_000  # all of it would be 30 MB
    assert 0 < len(recent.history()) <= 10_000


def test_a_part_larger_than_the_limit_of_readings_is_added_in_pieces() -> None:
    recent, dice = RecentReadings(max_readings=10, max_series=1_000), np.random.default_rng(1)
    large = batch(dice, 0, range(100))
    recent.add(decoded(large))
    assert [row[:3] for row in table(recent.history())] == [row[:3] for row in table(join([frame(large)]))[-10:]]


def test_the_counter_counts_by_headers_and_continues_where_it_was() -> None:
    tail = FakeTail()
    counter = HistoryCounter(tail)
    assert counter.count() == 0
    for _ in range(8):
        tail.append([("readings", b"100")])
    assert counter.count() == 800
    tail.append([("readings", b"5")])
    assert (counter.count(), counter.count()) == (805, 805)


def test_a_record_without_a_count_counts_for_nothing() -> None:
    tail = FakeTail()
    for headers in ([], [("readings", b"many")], [("readings", b"3")]):
        tail.append(headers)
    assert HistoryCounter(tail).count() == 3


def test_the_counter_is_current_once_the_backlog_is_read() -> None:
    """Not earlier, say while the first record is still on its way."""
    tail = FakeTail()
    tail.backlog = 20
    counter = HistoryCounter(tail)
    counter.count()
    assert not counter.is_current, "the first record is on its way"
    for _ in range(20):
        tail.append([("readings", b"1")])
    counter.count()
    assert not counter.is_current
    assert (counter.count(), counter.is_current) == (20, True)


def test_a_restarted_counter_has_a_new_backlog() -> None:
    """Even if the broker does not answer at once."""
    tail = FakeTail()
    counter = HistoryCounter(tail)
    counter.count()
    assert counter.is_current
    tail.backlog, tail.away = 20, True
    counter.restart()
    with pytest.raises(TransientBrokerError):
        counter.count()
    tail.away = False
    for counted in range(20):
        assert not counter.is_current
        tail.append([("readings", b"1")])
        assert counter.count() == counted + 1
    assert counter.is_current


def test_a_count_of_a_long_topic_takes_several_short_calls() -> None:
    tail = FakeTail()
    for _ in range(100):
        tail.append([("readings", b"1")])
    counter = HistoryCounter(tail)
    counts = [counter.count() for _ in range(20)]
    assert counts[0] < 50
    assert counts[-1] == 100
