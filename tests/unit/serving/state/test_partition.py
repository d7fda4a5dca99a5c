"""What a partition writes of its state, where its floor stands, and whose rows are freed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from builders import HOUR_MS, START_MS, pipeline_config, random_model
from clock import FakeClock
from fakes import INPUT, OURS, STATE, FakeClient, FakeKafka, Member, setup

from forecaster.broker.connection import MAX_REQUEST_BYTES
from forecaster.errors import TransientBrokerError, UsageError
from forecaster.formats.readings import MAX_SERIES_ID_BYTES, InputSchema
from forecaster.formats.state import Floor, decode_floor
from forecaster.records import Transaction
from forecaster.serving.state import config, restore, store
from forecaster.serving.state.lifecycle import PartitionPhase, PartitionPhases
from forecaster.serving.state.restore import RestoreQueue
from forecaster.serving.worker import Worker

CONFIG = pipeline_config()
MODEL = random_model(CONFIG)
SHORT_LIVED = replace(CONFIG, observation=replace(CONFIG.observation, ttl_ms=48 * HOUR_MS))


def turn(one: Worker, times: int = 1) -> None:
    for _ in range(times):
        one.iterate()


def serving(kafka: FakeKafka, **options: object) -> Worker:
    """A worker that has all partitions."""
    client = FakeClient(kafka)
    one = setup(**{"pipeline": CONFIG, "model": MODEL} | options).worker(client)
    while client.held:
        turn(one)
    return one


def names(one: Worker) -> set[str]:
    return {name for name in one._store.partitions[0].table.names if name}  # noqa: SLF001 - the law is about its rows


def sweep(one: Worker) -> None:
    """A turn that looks for idle series, which is rare."""
    one._store.partitions[0].idle_sweep.readings = 1_000_000  # noqa: SLF001
    turn(one)


def floor(kafka: FakeKafka) -> Floor:
    """The newest one in the topic."""
    return decode_floor([one.value for one in kafka.logs[STATE, 0] if one.key.endswith(b"/floor")][-1])


def test_a_series_that_was_freed_exactly_at_the_floor_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = FakeKafka()
    monkeypatch.setattr(config, "BLOCK_BYTES", 3 * setup(pipeline=CONFIG, model=MODEL).state_config().row_bytes)
    one = serving(kafka, pipeline=SHORT_LIVED, replay_limit=1)
    for name in (b"idle", b"steady", b"busy"):
        kafka.hours(0, range(1), name)
    for name in (b"steady", b"busy"):
        kafka.hours(0, range(1, 200), name)
    turn(one)
    one.flush()
    kafka.hours(0, range(200, 201), b"busy")
    sweep(one)
    assert names(one) == {"steady", "busy"}
    kafka.hours(0, range(201, 202), b"busy")
    turn(one)
    assert [event.offset for event in floor(kafka).events if event.freed] == [floor(kafka).offset]
    assert names(serving(kafka, pipeline=SHORT_LIVED)) == {"steady", "busy"}


def test_where_all_is_written_records_that_touch_no_row_take_the_floor_with_them_at_the_end() -> None:
    kafka = FakeKafka()
    one = serving(kafka)
    kafka.hours(0, range(6))
    turn(one)
    one.flush()
    assert floor(kafka).offset == 6
    kafka.append(0, b"no json")
    turn(one)
    one.flush()
    assert floor(kafka).offset == kafka.offsets[0] == 7
    written = len(kafka.logs[STATE, 0])
    one.flush()
    assert len(kafka.logs[STATE, 0]) == written, "once is enough"
    kafka.retain(INPUT, 0, 7)
    assert names(serving(kafka)) == {"pump"}


def test_records_that_touch_no_row_move_the_floor_once_in_a_snapshot_interval_and_not_in_every_batch() -> None:
    kafka = FakeKafka()
    clock = FakeClock()
    one = serving(kafka, max_series=1, snapshot_seconds=3_600.0, clock=clock)
    kafka.hours(0, range(6))
    turn(one)
    one.flush()
    written = len(kafka.logs[STATE, 0])
    for hour in range(3):
        kafka.hours(0, range(hour, hour + 1), b"one too many")
        turn(one)
    assert floor(kafka).offset == 6
    assert len(kafka.logs[STATE, 0]) <= written + 1, "that there is no more room is said once"
    clock.advance(3_600.0)
    turn(one, 3)
    assert floor(kafka).offset == kafka.offsets[0] == 9
    assert len(kafka.logs[STATE, 0]) <= written + 2
    kafka.retain(INPUT, 0, 9)
    assert names(serving(kafka, max_series=1)) == {"pump"}


@pytest.mark.parametrize("fields", [(), ("a", "a much longer name")])
def test_no_block_is_larger_than_a_record_may_be_however_long_the_names_are(fields: tuple[str, ...]) -> None:
    kafka = FakeKafka()
    small = pipeline_config(horizon=1, context=24)
    schema = InputSchema(value_fields=fields)
    options = {"pipeline": small, "model": None, "schema": schema, "group_size": max(1, len(fields))}
    one = serving(kafka, **options, member_bytes=max((len(field) + 1 for field in fields), default=0))
    for number in range(1_200):
        value = b'{"timestamp": %d, "value": 1, "a": 1, "a much longer name": 1}' % START_MS
        kafka.append(0, value, b"%d-" % number + b"x" * 1_000)
    turn(one, 2)
    while changes := one._store.dirty_writes():  # noqa: SLF001 - nothing of it is sent
        (written,) = changes.values()
        assert max(len(message.value or b"") for message in written.messages) < MAX_REQUEST_BYTES - 10_000
        one._store.mark_written(changes)  # noqa: SLF001
    assert len(one._store.partitions[0].blocks) < 12, "and blocks are well filled"  # noqa: SLF001


def test_short_names_do_not_change_how_many_series_lie_in_a_block() -> None:
    kept = setup(pipeline=CONFIG, model=None).state_config()
    limits = kept.block_limits
    assert limits.groups == config.BLOCK_BYTES // (kept.row_bytes + config.NAME_BYTES)
    assert limits.allow(["x" * config.NAME_BYTES] * limits.groups)


def test_ids_are_as_long_as_a_block_of_one_group_has_room_for_and_where_it_has_none_the_start_is_refused() -> None:
    kept = setup(pipeline=CONFIG, model=None, group_size=2, member_bytes=10).state_config()
    assert kept.longest_id == MAX_SERIES_ID_BYTES
    many = replace(kept, group_size=config.LARGEST_BLOCK_BYTES // (kept.row_bytes + config.NAME_BYTES))
    assert 20 < many.longest_id < MAX_SERIES_ID_BYTES
    assert many.block_limits.allow(["x" * many.longest_id])
    assert not many.block_limits.allow(["x" * (many.longest_id + 1)])
    for wrong in (replace(many, group_size=2 * many.group_size), replace(many, member_bytes=1_000)):
        with pytest.raises(UsageError, match="name fewer fields, or shorter ones"):
            assert wrong.block_limits


def test_after_a_group_that_found_no_room_a_smaller_one_finds_none_either_as_in_a_replay() -> None:
    calm, kafka = FakeKafka(), FakeKafka()
    options = {"schema": InputSchema(value_fields=("a", "b")), "group_size": 2, "max_series": 3}
    never = serving(calm, **options)
    for key, value in ((b"one", b'"a": 1, "b": 2'), (b"two", b'"a": 1, "b": 2'), (b"three", b'"a": 1')):
        for topics in (calm, kafka):
            topics.append(0, b'{"timestamp": %d, %s}' % (START_MS, value), key)
        turn(never)
        turn(serving(kafka, **options))
    assert names(never) == names(serving(kafka, **options)) == {"one/a", "one/b"}
    assert kafka.published == calm.published


def test_a_partition_whose_input_cannot_be_read_again_keeps_no_other_from_being_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restore, "RETRY_SECONDS", 0.0)
    kafka = FakeKafka(2)
    one = serving(kafka, replay_limit=1_000_000)
    for partition in (0, 1):
        kafka.hours(partition, range(5), b"%d" % partition)
    turn(one)
    restorer = setup(pipeline=CONFIG, model=MODEL, replay_limit=1_000_000).restorer(client := FakeClient(kafka))
    reader, read = restorer._reader, restorer._reader.read  # noqa: SLF001

    def corrupt() -> object:
        if client._reads == (INPUT, 0):  # noqa: SLF001
            raise TransientBrokerError("a batch is corrupt")
        return read()

    monkeypatch.setattr(reader, "read", corrupt)
    phases = PartitionPhases()
    phases.move(0, PartitionPhase.WAITING)
    phases.move(1, PartitionPhase.WAITING)
    queue = RestoreQueue(restorer, phases)
    found = [one for _ in range(50) if (one := queue.work(0.01))]
    assert [one.partition.number for one in found] == [1]
    assert phases[0] is PartitionPhase.WAITING


def heard_of(kafka: FakeKafka, series: Iterable[bytes], hours: range) -> None:
    """A reading of each series an hour."""
    for hour in hours:
        for name in series:
            kafka.hours(0, range(hour, hour + 1), name)


def test_where_a_fleet_is_renamed_those_that_live_are_the_clock_though_they_are_the_fewer() -> None:
    kafka = FakeKafka()
    one = serving(kafka, pipeline=SHORT_LIVED, max_series=10)
    heard_of(kafka, [b"old-%d" % number for number in range(6)], range(10))
    turn(one)
    new = [b"new-%d" % number for number in range(6)]
    heard_of(kafka, new, range(10, 100))
    turn(one)
    assert sorted(names(one)) == [*(f"new-{number}" for number in range(4)), *(f"old-{number}" for number in range(6))]
    for hour in range(100, 103):
        heard_of(kafka, new, range(hour, hour + 1))
        sweep(one)
    assert names(one) == {f"new-{number}" for number in range(6)}
    assert names(serving(kafka, pipeline=SHORT_LIVED, max_series=10)) == names(one)


@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_device_whose_clock_is_far_ahead_takes_nobodys_row(good: int) -> None:
    kafka = FakeKafka()
    one = serving(kafka, pipeline=SHORT_LIVED)
    fleet = [b"pump-%d" % number for number in range(4)]
    heard_of(kafka, [*fleet, b"ahead"], range(10))
    turn(one)
    for hour in range(10, 14):
        heard_of(kafka, fleet[:good], range(hour, hour + 1))
        heard_of(kafka, [b"ahead"], range(1_000_000 + hour, 1_000_001 + hour))
        sweep(one)
    assert len(names(one)) == 5


def test_a_few_devices_whose_clocks_are_ahead_take_nobodys_row_though_they_alone_talk() -> None:
    kafka = FakeKafka()
    one = serving(kafka, pipeline=SHORT_LIVED)
    heard_of(kafka, [b"pump-%d" % number for number in range(80)], range(3))
    turn(one)
    for hour in range(3, 8):
        heard_of(kafka, [b"pump-0"], range(hour, hour + 1))
        heard_of(kafka, [b"ahead", b"too"], range(10_000 + hour, 10_001 + hour))
        sweep(one)
    assert len(names(one)) == 82


def test_where_no_row_has_had_a_reading_since_the_last_look_none_is_idle() -> None:
    kafka = FakeKafka()
    one = serving(kafka, pipeline=SHORT_LIVED)
    heard_of(kafka, [b"a", b"b", b"c"], range(100))
    kafka.hours(0, range(1), b"idle")
    turn(one)
    one._store.partitions[0].table.clear_active()  # noqa: SLF001 - as a look does
    heard_of(kafka, [b"a", b"b", b"c"], range(100, 101))
    sweep(one)
    assert "idle" in names(one)
    heard_of(kafka, [b"a", b"b", b"c"], range(101, 102))
    sweep(one)
    assert "idle" not in names(one)


@pytest.mark.parametrize("interval_ms", [0, 40 * HOUR_MS])
def test_a_series_is_not_idle_before_its_next_ordinary_reading(interval_ms: int) -> None:
    kafka = FakeKafka()
    rare = replace(SHORT_LIVED, observation=replace(SHORT_LIVED.observation, interval_ms=interval_ms))
    one = serving(kafka, pipeline=rare, model=None)
    for begin in range(0, 600, 100):
        heard_of(kafka, [b"rare"], range(begin, begin + 1))
        turn(one)
        heard_of(kafka, [b"a", b"b", b"c"], range(begin, begin + 99))
        turn(one)
        heard_of(kafka, [b"a", b"b", b"c"], range(begin + 99, begin + 100))
        sweep(one)
        assert "rare" in names(one)
    heard_of(kafka, [b"a", b"b", b"c"], range(600, 1_000))
    heard_of(kafka, [b"a", b"b", b"c"], range(10_000, 10_002))
    turn(one)
    heard_of(kafka, [b"a", b"b", b"c"], range(10_002, 10_003))
    sweep(one)
    assert names(one) == {"a", "b", "c"}


def test_where_there_is_no_room_a_series_without_an_interval_waits_no_longer_than_its_time_to_live() -> None:
    kafka = FakeKafka()
    learned = replace(SHORT_LIVED, observation=replace(SHORT_LIVED.observation, interval_ms=0))
    one = serving(kafka, pipeline=learned, model=None, max_series=5)
    heard_of(kafka, [b"once"], range(1))
    for hours in (range(100), range(100, 101), range(101, 102)):
        heard_of(kafka, [b"a", b"b", b"c"], hours)
        sweep(one)
    assert "once" in names(one)
    heard_of(kafka, [b"d"], range(102, 103))
    turn(one)
    heard_of(kafka, [b"a", b"b", b"c"], range(103, 104))
    sweep(one)
    assert names(one) == {"a", "b", "c", "d"}


def test_blocks_that_rows_of_other_settings_make_too_large_are_split_and_whole_again_if_that_is_cut_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka = FakeKafka()
    one = serving(kafka, pipeline=pipeline_config(horizon=1, context=24), model=None)
    for number in range(600):
        kafka.hours(0, range(2), b"pump-%d" % number)
    turn(one)
    one.flush()
    wide = {"pipeline": pipeline_config(horizon=24, context=192), "model": None}
    wide["identity"] = type(OURS)(OURS.cluster, OURS.topic, 1, "wide", OURS.interval_ms)
    monkeypatch.setattr(store, "BLOCK_BYTES_PER_TRANSACTION", 1)
    cut = setup(**wide).restorer(FakeClient(kafka)).restore(0)
    assert cut.must_be_written
    for _ in range(3):
        changes = cut.partition.flush(1)
        assert changes is not None
        assert max(len(message.value or b"") for message in changes.messages) < config.BLOCK_BYTES
        kafka.commit(Transaction({STATE: changes.messages}, {0: changes.position}, Member()))
        cut.partition.mark_written(changes)
    begin = len(kafka.logs[STATE, 0])
    assert len(names(serving(kafka, **wide))) == 600
    sizes = [len(record.value or b"") for record in kafka.logs[STATE, 0][begin:]]
    assert max(sizes) < config.BLOCK_BYTES
    again = setup(**wide).restorer(FakeClient(kafka)).restore(0)
    assert len(again.partition.table) == 600
    assert not again.must_be_written
    assert (again.partition.table.state.inputs.scaler.count == 2).all()
