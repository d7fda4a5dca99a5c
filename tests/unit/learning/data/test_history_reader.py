"""What a trainer reads of the history topic is what workers wrote, as if it had read a file, and never too much."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from builders import HOUR_MS, START_MS, readings

from forecaster.errors import StateError, TransientBrokerError
from forecaster.formats.files import SeriesHistory, join
from forecaster.formats.history import HistoryPart, decode_history, encode_history, group_hash
from forecaster.learning.data.history_reader import HistoryConfig, HistoryCounter, HistoryReader
from forecaster.learning.data.recent_readings import RecentReadings
from forecaster.records import InputRecord, Readings, SourceRecord

TOPIC = "readings.history"


def batch(dice: np.random.Generator, hour: int, groups: Sequence[int], fields: int = 2) -> Readings:
    """Of each group one record, somewhere about the hour."""
    rows = [
        (f"pump-{group}/{field}", START_MS + int(hour + lag) * HOUR_MS, None if dice.random() < 0.1 else dice.normal())
        for group, lag in zip(groups, dice.integers(-2, 2, len(groups)), strict=True)
        for field in range(fields)
    ]
    records = [number // fields for number in range(len(rows))]
    plain = readings(rows, records)
    names = [name.split("/")[0] for name in plain.series_ids]
    return Readings(plain.series_ids, plain.timestamp_ms, plain.values, plain.records, names)


def frame(one: Readings) -> pd.DataFrame:
    columns = {"series_id": one.series_ids, "timestamp_ms": one.timestamp_ms, "value": one.values}
    return pd.DataFrame(columns | {"record": one.records})


def value(one: Readings) -> bytes:
    (message,) = encode_history(0, one, np.arange(len(one)), np.zeros(len(one), bool))
    return message.value or b""


def decoded(one: Readings) -> HistoryPart:
    return decode_history(value(one))


def table(history: SeriesHistory) -> list[tuple[str, int, float, int]]:
    columns = history.timestamp_ms.tolist(), np.nan_to_num(history.values, nan=-99).tolist(), history.records.tolist()
    return list(zip([history.series_ids[row] for row in history.row], *columns, strict=True))


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
        found = [one.offset for one in self.logs[partition] if one.timestamp >= timestamp_ms]
        return found[0] if found else self.bounds(topic, partition)[1]

    def seek(self, topic: str, partition: int, offset: int) -> None:
        assert topic == TOPIC
        self._partition, self._at = partition, offset

    def read(self) -> list[SourceRecord]:
        if self.retention:
            partition, offset = self.retention.pop()
            self.first[partition] = offset
        if self._at < self.first[self._partition]:
            raise TransientBrokerError("the offset is not in the log any more")
        found = [one for one in self.logs[self._partition] if one.offset >= self._at][:3]
        self._at = found[-1].offset + 2 if found else self._at
        return list(found)

    @property
    def position(self) -> int:
        return self._at


class FakeTail:
    """Gives what is there by now, three records at a time."""

    def __init__(self) -> None:
        self.waiting: list[InputRecord] = []
        self.backlog, self.away = 0, False

    def append(self, headers: list[tuple[str, bytes]]) -> None:
        self.waiting.append(InputRecord(TOPIC, 0, 0, 0, None, b"", headers))

    def read(self) -> list[SourceRecord]:
        now, self.waiting = self.waiting[:3], self.waiting[3:]
        self.backlog -= len(now)
        return list(now)

    def mark_backlog(self) -> None:
        if self.away:
            raise TransientBrokerError("away")

    def has_read_backlog(self) -> bool:
        return self.backlog <= 0


def source(log: FakeLog, **options: int) -> HistoryReader:
    plain = {"partitions": len(log.logs), "window_ms": 1_000, "max_series": 1_000_000}
    return HistoryReader(HistoryConfig(TOPIC, **{**plain, **options}), log)


def filled(log: FakeLog, hours: int = 30, groups: int = 8) -> list[Readings]:
    """What is in the log, in the order in which it is read."""
    dice = np.random.default_rng(7)
    parts: list[list[Readings]] = [[] for _ in log.logs]
    for hour in range(hours):
        for partition in range(len(log.logs)):
            mine = [group for group in range(groups) if group % len(log.logs) == partition]
            parts[partition].append(batch(dice, hour, mine))
            log.append(partition, value(parts[partition][-1]), len(parts[partition][-1]))
    return [one for of_partition in parts for one in of_partition]


def test_what_workers_wrote_comes_back_as_if_it_had_come_from_files() -> None:
    log = FakeLog(3)
    parts = filled(log)
    history, expected = source(log).read(now_ms=0), join([frame(one) for one in parts])
    assert table(history) == table(expected)
    assert history.series_ids == expected.series_ids
    assert (np.diff(history.timestamp_ms) >= 0).all()


def test_readings_of_one_record_stay_neighbours_of_one_number() -> None:
    log = FakeLog(3)
    filled(log)
    history = source(log).read(now_ms=0)
    groups = [history.series_ids[row].split("/")[0] for row in history.row]
    for begin in range(0, len(history), 2):
        assert groups[begin] == groups[begin + 1]
        assert history.records[begin] == history.records[begin + 1]
    assert len(set(history.records.tolist())) == len(history) // 2


def test_what_was_written_before_the_window_is_left_out() -> None:
    log, dice = FakeLog(1), np.random.default_rng(1)
    for second in range(10):
        log.append(0, value(batch(dice, second, [second])), timestamp=1_000 * second)
    history = source(log, window_ms=3_000).read(now_ms=9_000)
    assert sorted(history.series_ids) == sorted(f"pump-{group}/{field}" for group in (6, 7, 8, 9) for field in (0, 1))


def test_a_topic_that_holds_nothing_gives_an_empty_history() -> None:
    history = source(FakeLog(3)).read(now_ms=0)
    assert (len(history), history.series_ids) == (0, [])


def test_a_damaged_record_is_counted_and_costs_its_neighbours_nothing() -> None:
    log = FakeLog(1)
    parts = filled(log, hours=5)
    for damaged in (b"", None, value(parts[0])[:-1]):
        log.append(0, damaged)
    log.append(0, value(parts[0]))
    one = source(log)
    assert table(one.read(now_ms=0)) == table(join([frame(one) for one in [*parts, parts[0]]]))
    assert one.damaged == 3


def test_a_newer_schema_is_refused() -> None:
    log = FakeLog(1)
    filled(log, hours=1)
    log.append(0, zlib.crc32(b"\xff").to_bytes(4, "little") + b"\xff")
    with pytest.raises(StateError, match="newer version"):
        source(log).read(now_ms=0)


def test_what_retention_takes_while_it_is_read_is_not_missed() -> None:
    log = FakeLog(2)
    parts = filled(log, hours=10)
    log.retention = [(1, 10), (0, 8)]
    history = source(log).read(now_ms=0)
    assert table(history) == table(join([frame(one) for one in [*parts[4:10], *parts[15:]]]))


def test_another_error_of_the_broker_is_handed_on() -> None:
    class Away(FakeLog):
        def read(self) -> list[SourceRecord]:
            raise TransientBrokerError("away")

    log = Away(1)
    filled(log, hours=1)
    with pytest.raises(TransientBrokerError, match="away"):
        source(log).read(now_ms=0)


def test_of_too_many_readings_the_newest_by_event_time_are_kept_and_no_record_is_cut() -> None:
    log = FakeLog(3)
    everything = table(join([frame(one) for one in filled(log, hours=60)]))
    for most in (101, 57, 2):
        kept = table(source(log, max_readings=most).read(now_ms=0))
        assert [row[:3] for row in kept] == [row[:3] for row in everything[-(most // 2 * 2) :]]


def test_of_too_many_series_whole_groups_are_kept_those_with_the_lowest_hashes() -> None:
    log = FakeLog(3)
    everything = table(join([frame(one) for one in filled(log, groups=40)]))
    wanted = sorted((f"pump-{group}" for group in range(40)), key=group_hash)[:7]
    history = source(log, max_series=15).read(now_ms=0)
    assert [row[:3] for row in table(history)] == [row[:3] for row in everything if row[0].split("/")[0] in wanted]
    assert len(history.series_ids) == 14


def test_a_group_larger_than_the_bound_is_kept_rather_than_nothing() -> None:
    newest = RecentReadings(max_readings=1_000, max_series=3)
    dice = np.random.default_rng(1)
    for hour in range(20):
        newest.add(decoded(batch(dice, hour, [1, 2], fields=8)))
    history = newest.history()
    assert len({history.series_ids[row].split("/")[0] for row in history.row}) == 1
    assert len(history.series_ids) == 8


def part(dice: np.random.Generator, number: int, size: int) -> HistoryPart:
    """A part as it comes out of the decoder; names come and go from one to the next."""
    names = [f"pump-{name}" for name in range(10 * number, 10 * number + 50)]
    row, stamps = np.arange(size) % len(names), START_MS + (number + dice.integers(-9, 9, size)) * HOUR_MS
    present = np.ones(size, bool)
    return HistoryPart(names, [], row, stamps, dice.normal(size=size), present, ~present, np.arange(size))


def test_memory_is_bounded_however_long_the_topic_is() -> None:
    newest, dice = RecentReadings(max_readings=10_000, max_series=1_000), np.random.default_rng(1)
    total = most = 0
    tracemalloc.start()
    for number, size in enumerate(dice.choice([1, 7, 2_000], 1_500).tolist()):
        newest.add(part(dice, number, size))
        total, most = total + size, max(most, len(newest))
        assert newest.series < 2_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 900_000
    assert most <= 15_001
    assert peak < 4_000_000  # all of it would be 30 MB
    assert 0 < len(newest.history()) <= 10_000


def test_a_part_larger_than_all_that_may_be_held_is_taken_in_pieces() -> None:
    newest, dice = RecentReadings(max_readings=10, max_series=1_000), np.random.default_rng(1)
    whole = batch(dice, 0, range(100))
    newest.add(decoded(whole))
    assert [row[:3] for row in table(newest.history())] == [row[:3] for row in table(join([frame(whole)]))[-10:]]


def test_the_counter_counts_by_the_headers_alone_and_goes_on_where_it_was() -> None:
    tail = FakeTail()
    counter = HistoryCounter(tail)
    assert counter.count() == 0
    for _ in range(8):
        tail.append([("readings", b"100")])
    assert counter.count() == 800
    tail.append([("readings", b"5")])
    assert (counter.count(), counter.count()) == (805, 805)


def test_a_record_that_does_not_say_how_much_it_holds_counts_for_nothing() -> None:
    tail = FakeTail()
    for headers in ([], [("readings", b"many")], [("readings", b"3")]):
        tail.append(headers)
    assert HistoryCounter(tail).count() == 3


def test_who_counts_is_current_when_the_backlog_is_read_and_not_when_nothing_has_come_yet() -> None:
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


def test_who_begins_again_has_a_new_backlog_even_when_the_broker_does_not_answer_at_once() -> None:
    tail = FakeTail()
    counter = HistoryCounter(tail)
    counter.count()
    assert counter.is_current
    tail.backlog, tail.away = 20, True
    counter.restart()
    with pytest.raises(TransientBrokerError):
        counter.count()
    tail.away = False
    for met in range(20):
        assert not counter.is_current
        tail.append([("readings", b"1")])
        assert counter.count() == met + 1
    assert counter.is_current


def test_a_long_topic_does_not_hold_up_who_looks() -> None:
    tail = FakeTail()
    for _ in range(100):
        tail.append([("readings", b"1")])
    counter = HistoryCounter(tail)
    looks = [counter.count() for _ in range(20)]
    assert looks[0] < 50
    assert looks[-1] == 100
