"""A partition: its writes, its floor, the size of its blocks, and its idle series."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from builders import HOUR_MS, START_MS, pipeline_config, random_model
from clock import FakeClock
from fakes import IDENTITY, INPUT, STATE, FakeClient, FakeKafka, Member
from setups import iterate, serving, setup

from forecaster.broker.connection import MAX_REQUEST_BYTES
from forecaster.errors import UsageError
from forecaster.formats.readings import MAX_SERIES_ID_BYTES, InputSchema
from forecaster.formats.state import Floor, decode_floor
from forecaster.records import Transaction
from forecaster.serving.state import config, transaction_writes
from forecaster.serving.worker import Worker

CONFIG = pipeline_config()
MODEL = random_model(CONFIG)
SHORT_LIVED = replace(CONFIG, observation=replace(CONFIG.observation, ttl_ms=48 * HOUR_MS))


def start_worker(kafka: FakeKafka, **options: object) -> Worker:
    """Return a worker whose partitions are open."""
    return serving(kafka, **{"pipeline": CONFIG, "model": MODEL} | options)[1]


def names(worker: Worker) -> set[str]:
    return {name for name in worker._store.partitions[0].table.names if name}  # noqa: SLF001 - the law is about its rows


def sweep(worker: Worker) -> None:
    """Let the worker sweep for idle series in its next batch: by itself it does so rarely."""
    worker._store.partitions[0].idle_sweep.readings = 1_000_000  # noqa: SLF001
    iterate(worker)


def floor(kafka: FakeKafka) -> Floor:
    """Return the newest floor in the state topic."""
    floors = [record.value for record in kafka.logs[STATE, 0] if record.key == b"group/0/floor"]
    return decode_floor(floors[-1] or b"")


def test_a_series_freed_exactly_at_the_floor_stays_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = FakeKafka()
    monkeypatch.setattr(config, "BLOCK_BYTES", 3 * setup(pipeline=CONFIG, model=MODEL).state_config().row_bytes)
    worker = start_worker(kafka, pipeline=SHORT_LIVED, replay_limit=1)
    for name in (b"idle", b"steady", b"busy"):
        kafka.hours(0, range(1), name)
    for name in (b"steady", b"busy"):
        kafka.hours(0, range(1, 200), name)
    iterate(worker)
    worker.flush()
    kafka.hours(0, range(200, 201), b"busy")
    sweep(worker)
    assert names(worker) == {"steady", "busy"}
    kafka.hours(0, range(201, 202), b"busy")
    iterate(worker)
    assert [event.offset for event in floor(kafka).events if event.freed] == [floor(kafka).offset]
    assert names(start_worker(kafka, pipeline=SHORT_LIVED)) == {"steady", "busy"}


def test_a_flush_moves_the_floor_over_records_that_touch_no_row() -> None:
    """Once all blocks are written, the flush at the end moves the floor over such records, and writes nothing twice."""
    kafka = FakeKafka()
    worker = start_worker(kafka)
    kafka.hours(0, range(6))
    iterate(worker)
    worker.flush()
    assert floor(kafka).offset == 6
    kafka.append(0, b"no json")
    iterate(worker)
    worker.flush()
    assert floor(kafka).offset == kafka.offsets[0] == 7
    written = len(kafka.logs[STATE, 0])
    worker.flush()
    assert len(kafka.logs[STATE, 0]) == written, "once is enough"
    kafka.retain(INPUT, 0, 7)
    assert names(start_worker(kafka)) == {"pump"}


def test_records_that_touch_no_row_move_the_floor_once_an_interval() -> None:
    """They move it once in a snapshot interval, and not in every batch."""
    kafka = FakeKafka()
    clock = FakeClock()
    worker = start_worker(kafka, max_series=1, snapshot_seconds=3_600.0, clock=clock)
    kafka.hours(0, range(6))
    iterate(worker)
    worker.flush()
    written = len(kafka.logs[STATE, 0])
    for hour in range(3):
        kafka.hours(0, range(hour, hour + 1), b"one too many")
        iterate(worker)
    assert floor(kafka).offset == 6
    assert len(kafka.logs[STATE, 0]) <= written + 1, "only the first record without room is an event"
    clock.advance(3_600.0)
    iterate(worker, 3)
    assert floor(kafka).offset == kafka.offsets[0] == 9
    assert len(kafka.logs[STATE, 0]) <= written + 2
    kafka.retain(INPUT, 0, 9)
    assert names(start_worker(kafka, max_series=1)) == {"pump"}


@pytest.mark.parametrize("fields", [(), ("a", "a much longer name")])
def test_a_block_fits_in_a_record_however_long_its_names_are(fields: tuple[str, ...]) -> None:
    kafka = FakeKafka()
    small = pipeline_config(horizon=1, context=24)
    schema = InputSchema(value_fields=fields)
    options = {"pipeline": small, "model": None, "schema": schema, "group_size": max(1, len(fields))}
    worker = start_worker(kafka, **options, member_bytes=max((len(field) + 1 for field in fields), default=0))
    for number in range(1_200):
        value = b'{"timestamp": %d, "value": 1, "a": 1, "a much longer name": 1}' % START_MS
        kafka.append(0, value, b"%d-" % number + b"x" * 1_000)
    iterate(worker, 2)
    while changes := worker._store.dirty_writes():  # noqa: SLF001 - nothing of it is sent
        (written,) = changes.values()
        assert max(len(message.value or b"") for message in written.messages) < MAX_REQUEST_BYTES - 10_000
        worker._store.mark_stored(changes)  # noqa: SLF001
    assert len(worker._store.partitions[0].blocks) < 12, "and blocks are well filled"  # noqa: SLF001


def test_short_names_do_not_change_the_number_of_groups_in_a_block() -> None:
    kept = setup(pipeline=CONFIG, model=None).state_config()
    limits = kept.block_limits
    assert limits.groups == config.BLOCK_BYTES // (kept.row_bytes + config.NAME_BYTES)
    assert limits.allow(["x" * config.NAME_BYTES] * limits.groups)


def test_ids_may_be_as_long_as_a_block_of_one_group_allows() -> None:
    """Settings with which a block cannot hold even one group are refused."""
    kept = setup(pipeline=CONFIG, model=None, group_size=2, member_bytes=10).state_config()
    assert kept.longest_id == MAX_SERIES_ID_BYTES
    many = replace(kept, group_size=config.LARGEST_BLOCK_BYTES // (kept.row_bytes + config.NAME_BYTES))
    assert 20 < many.longest_id < MAX_SERIES_ID_BYTES
    assert many.block_limits.allow(["x" * many.longest_id])
    assert not many.block_limits.allow(["x" * (many.longest_id + 1)])
    for wrong in (replace(many, group_size=2 * many.group_size), replace(many, member_bytes=1_000)):
        with pytest.raises(UsageError, match="name fewer fields, or shorter ones"):
            assert wrong.block_limits


def test_after_a_group_without_room_a_smaller_one_has_none_either() -> None:
    """Otherwise a replay, which knows only the offset at which the partition became full, would decide differently."""
    undisturbed, kafka = FakeKafka(), FakeKafka()
    options = {"schema": InputSchema(value_fields=("a", "b")), "group_size": 2, "max_series": 3}
    unstopped = start_worker(undisturbed, **options)
    for key, value in ((b"one", b'"a": 1, "b": 2'), (b"two", b'"a": 1, "b": 2'), (b"three", b'"a": 1')):
        for topics in (undisturbed, kafka):
            topics.append(0, b'{"timestamp": %d, %s}' % (START_MS, value), key)
        iterate(unstopped)
        iterate(start_worker(kafka, **options))
    assert names(unstopped) == names(start_worker(kafka, **options)) == {"one/a", "one/b"}
    assert kafka.published == undisturbed.published


def append_readings(kafka: FakeKafka, series: Iterable[bytes], hours: range) -> None:
    """Append a reading of each series for each hour."""
    for hour in hours:
        for name in series:
            kafka.hours(0, range(hour, hour + 1), name)


def test_active_series_set_the_time_even_if_they_are_fewer() -> None:
    """Where all series of a fleet are renamed, the old names are freed although they are the majority."""
    kafka = FakeKafka()
    worker = start_worker(kafka, pipeline=SHORT_LIVED, max_series=10)
    append_readings(kafka, [b"old-%d" % number for number in range(6)], range(10))
    iterate(worker)
    new = [b"new-%d" % number for number in range(6)]
    append_readings(kafka, new, range(10, 100))
    iterate(worker)
    assert sorted(names(worker)) == [
        *(f"new-{number}" for number in range(4)),
        *(f"old-{number}" for number in range(6)),
    ]
    for hour in range(100, 103):
        append_readings(kafka, new, range(hour, hour + 1))
        sweep(worker)
    assert names(worker) == {f"new-{number}" for number in range(6)}
    assert names(start_worker(kafka, pipeline=SHORT_LIVED, max_series=10)) == names(worker)


@pytest.mark.parametrize("good", [0, 1, 2])
def test_one_clock_far_ahead_frees_no_row(good: int) -> None:
    kafka = FakeKafka()
    worker = start_worker(kafka, pipeline=SHORT_LIVED)
    fleet = [b"pump-%d" % number for number in range(4)]
    append_readings(kafka, [*fleet, b"ahead"], range(10))
    iterate(worker)
    for hour in range(10, 14):
        append_readings(kafka, fleet[:good], range(hour, hour + 1))
        append_readings(kafka, [b"ahead"], range(1_000_000 + hour, 1_000_001 + hour))
        sweep(worker)
    assert len(names(worker)) == 5


def test_a_few_clocks_ahead_free_no_row_while_others_are_silent() -> None:
    kafka = FakeKafka()
    worker = start_worker(kafka, pipeline=SHORT_LIVED)
    append_readings(kafka, [b"pump-%d" % number for number in range(80)], range(3))
    iterate(worker)
    for hour in range(3, 8):
        append_readings(kafka, [b"pump-0"], range(hour, hour + 1))
        append_readings(kafka, [b"ahead", b"too"], range(10_000 + hour, 10_001 + hour))
        sweep(worker)
    assert len(names(worker)) == 82


def test_without_active_rows_no_series_is_idle() -> None:
    """A sweep with no readings since the last one frees no row."""
    kafka = FakeKafka()
    worker = start_worker(kafka, pipeline=SHORT_LIVED)
    append_readings(kafka, [b"a", b"b", b"c"], range(100))
    kafka.hours(0, range(1), b"idle")
    iterate(worker)
    worker._store.partitions[0].table.clear_active()  # noqa: SLF001 - as a look does
    append_readings(kafka, [b"a", b"b", b"c"], range(100, 101))
    sweep(worker)
    assert "idle" in names(worker)
    append_readings(kafka, [b"a", b"b", b"c"], range(101, 102))
    sweep(worker)
    assert "idle" not in names(worker)


@pytest.mark.parametrize("interval_ms", [0, 40 * HOUR_MS])
def test_a_series_is_not_idle_before_its_next_regular_reading(interval_ms: int) -> None:
    kafka = FakeKafka()
    rare = replace(SHORT_LIVED, observation=replace(SHORT_LIVED.observation, interval_ms=interval_ms))
    worker = start_worker(kafka, pipeline=rare, model=None)
    for begin in range(0, 600, 100):
        append_readings(kafka, [b"rare"], range(begin, begin + 1))
        iterate(worker)
        append_readings(kafka, [b"a", b"b", b"c"], range(begin, begin + 99))
        iterate(worker)
        append_readings(kafka, [b"a", b"b", b"c"], range(begin + 99, begin + 100))
        sweep(worker)
        assert "rare" in names(worker)
    append_readings(kafka, [b"a", b"b", b"c"], range(600, 1_000))
    append_readings(kafka, [b"a", b"b", b"c"], range(10_000, 10_002))
    iterate(worker)
    append_readings(kafka, [b"a", b"b", b"c"], range(10_002, 10_003))
    sweep(worker)
    assert names(worker) == {"a", "b", "c"}


def test_a_full_partition_frees_series_without_interval_at_their_ttl() -> None:
    """Where there is room, they are kept for longer."""
    kafka = FakeKafka()
    learned = replace(SHORT_LIVED, observation=replace(SHORT_LIVED.observation, interval_ms=0))
    worker = start_worker(kafka, pipeline=learned, model=None, max_series=5)
    append_readings(kafka, [b"once"], range(1))
    for hours in (range(100), range(100, 101), range(101, 102)):
        append_readings(kafka, [b"a", b"b", b"c"], hours)
        sweep(worker)
    assert "once" in names(worker)
    append_readings(kafka, [b"d"], range(102, 103))
    iterate(worker)
    append_readings(kafka, [b"a", b"b", b"c"], range(103, 104))
    sweep(worker)
    assert names(worker) == {"a", "b", "c", "d"}


def test_blocks_that_new_settings_make_too_large_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """A split that is cut short is made again by the next restore."""
    kafka = FakeKafka()
    worker = start_worker(kafka, pipeline=pipeline_config(horizon=1, context=24), model=None)
    for number in range(600):
        kafka.hours(0, range(2), b"pump-%d" % number)
    iterate(worker)
    worker.flush()
    identity = type(IDENTITY)(IDENTITY.cluster, IDENTITY.topic, 1, "wide", IDENTITY.interval_ms)
    wide = {"pipeline": pipeline_config(horizon=24, context=192), "model": None, "identity": identity}
    monkeypatch.setattr(transaction_writes, "BLOCK_BYTES_PER_TRANSACTION", 1)
    cut = setup(**wide).restorer(FakeClient(kafka)).restore(0)
    assert cut.must_be_written
    for _ in range(3):
        changes = cut.partition.next_writes(1)
        assert changes is not None
        assert max(len(message.value or b"") for message in changes.messages) < config.BLOCK_BYTES
        kafka.commit(Transaction({STATE: changes.messages}, {0: changes.position}, Member()))
        cut.partition.mark_stored(changes)
    begin = len(kafka.logs[STATE, 0])
    assert len(names(start_worker(kafka, **wide))) == 600
    sizes = [len(record.value or b"") for record in kafka.logs[STATE, 0][begin:]]
    assert max(sizes) < config.BLOCK_BYTES
    again = setup(**wide).restorer(FakeClient(kafka)).restore(0)
    assert len(again.partition.table) == 600
    assert not again.must_be_written
    assert (again.partition.table.state.inputs.scaler.count == 2).all()
