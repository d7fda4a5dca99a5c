"""A worker that is ended at any point and begun anew publishes what one that never ended publishes, to the byte."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace

import pytest
from builders import HOUR_MS, START_MS, Lineup, pipeline_config, random_model
from clock import FakeClock
from fakes import INPUT, OURS, STATE, FakeClient, FakeKafka, Member, setup

from forecaster.errors import StateError, TopicError
from forecaster.formats.readings import InputSchema
from forecaster.formats.state import StoredBlock, decode_block, encode
from forecaster.serving.state import config, restore, store
from forecaster.serving.state.lifecycle import PartitionPhase
from forecaster.serving.state.recovery import Recovery
from forecaster.serving.worker import Worker

CONFIG = pipeline_config()
MODEL = random_model(CONFIG)


def turn(one: Worker, times: int = 1) -> None:
    for _ in range(times):
        one.iterate()


def serving(kafka: FakeKafka, **options: object) -> Worker:
    options = {"pipeline": CONFIG, "model": MODEL} | options
    client = FakeClient(kafka, batch=int(options.pop("batch", 10_000)))  # type: ignore[call-overload]
    one = setup(**options).worker(client)
    while client.held:
        turn(one)
    return one


def feed(kafka: FakeKafka, seed: int, count: int, names: int = 12) -> None:
    """Readings of some series, at their own pace, with holes, repeats and records that are none."""
    dice = random.Random(seed)
    for _ in range(count):
        name = b"pump-%d" % dice.randrange(names)
        hour = len(kafka.logs.get((INPUT, 0), [])) // names + dice.choice([0, 0, 0, 0, 1, 2, -1])
        stamp = START_MS + hour * HOUR_MS
        value = b'{"timestamp": %d, "value": %d}' % (stamp, dice.randrange(50))
        kafka.append(0, b"no json" if dice.random() < 0.01 else value, name)


def series(one: Worker) -> int:
    return one._store.series  # noqa: SLF001 - the law is about what it holds


@pytest.mark.parametrize("batches", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_snapshot_and_restore_after_every_batch_for_a_thousand_batches_equals_never_restoring(batches: int) -> None:
    kafka, calm = FakeKafka(), FakeKafka()
    never = serving(calm)
    for batch in range(batches):
        for log in (kafka, calm):
            feed(log, batch, 3)
        turn(serving(kafka))
        turn(never)
    assert kafka.published == calm.published
    assert len(kafka.sources()) > batches


def test_without_a_single_block_the_floor_alone_rebuilds_the_rows() -> None:
    kafka, calm = FakeKafka(), FakeKafka()
    never = serving(calm)
    for batch in range(5):
        for log in (kafka, calm):
            feed(log, batch, 50)
        turn(serving(kafka, replay_limit=1_000_000))
        turn(never)
    assert kafka.published == calm.published
    assert all((record.key or b"").endswith(b"/floor") for record in kafka.logs[STATE, 0])


def test_groups_of_several_series_in_a_record_are_restored_together() -> None:
    kafka, calm = FakeKafka(), FakeKafka()
    options = {"schema": InputSchema(value_fields=("a", "b", "c")), "group_size": 3}
    never = serving(calm, **options)
    dice = random.Random(1)
    for hour in range(60):
        for pump in range(5):
            fields = {name: dice.randrange(30) for name in "abc" if dice.random() < 0.9}
            body = ", ".join(f'"{name}": {value}' for name, value in fields.items())
            value = f'{{"timestamp": {START_MS + hour * HOUR_MS}, {body or chr(34) + "a" + chr(34) + ": 1"}}}'
            for log in (kafka, calm):
                log.append(0, value.encode(), b"pump-%d" % pump)
        turn(serving(kafka, **options))
        turn(never)
    assert kafka.published == calm.published


def test_beyond_max_series_the_same_series_are_left_out_after_a_restore() -> None:
    kafka, calm = FakeKafka(), FakeKafka()
    never = serving(calm, max_series=7)
    for batch in range(40):
        for log in (kafka, calm):
            feed(log, batch, 20, names=12)
        one = serving(kafka, max_series=7)
        turn(one)
        turn(never)
        assert series(one) == series(never) == 7
    assert kafka.published == calm.published


def test_idle_series_are_freed_by_record_and_a_replay_agrees() -> None:
    kafka, calm = FakeKafka(), FakeKafka()
    short_lived = replace(CONFIG, observation=replace(CONFIG.observation, ttl_ms=48 * HOUR_MS))
    never = serving(calm, pipeline=short_lived, max_series=8)
    freed = 0
    for batch in range(28):
        for log in (kafka, calm):
            for reading in range(60):
                hour = batch * 10 + reading // 6
                name = b"pump-%d" % (batch // 7 * 4 + reading % 6)
                log.append(0, b'{"timestamp": %d, "value": %d}' % (START_MS + hour * HOUR_MS, reading % 11), name)
        one = serving(kafka, pipeline=short_lived, max_series=8, replay_limit=300)
        one._store.partitions[0].idle_sweep.readings = never._store.partitions[0].idle_sweep.readings = 10_000  # noqa: SLF001
        turn(one)
        turn(never)
        assert series(one) == series(never)
        freed += one.counters.freed_series
    assert kafka.published == calm.published
    assert freed >= 10


def test_the_topic_is_bounded_and_blocks_that_are_gone_have_tombstones() -> None:
    kafka = FakeKafka()
    short_lived = replace(CONFIG, observation=replace(CONFIG.observation, ttl_ms=48 * HOUR_MS))
    one = serving(kafka, pipeline=short_lived)
    for batch in range(20):
        kafka.hours(0, range(batch * 30, batch * 30 + 30), b"pump-%d" % batch)
        one._store.partitions[0].idle_sweep.readings = 10_000  # noqa: SLF001 - sweeps are rare
        turn(one)
    assert series(one) <= 6
    newest = {record.key: record.value for record in kafka.logs[STATE, 0]}
    assert sum(value is not None for value in newest.values()) <= 3


def stored(kafka: FakeKafka, batches: int = 6) -> None:
    """There is state that a floor and at least one block are of."""
    one = serving(kafka)
    for batch in range(batches):
        feed(kafka, batch, 40)
        turn(one)
    one.flush()


def rewrite(kafka: FakeKafka, change: object) -> None:
    """Every stored record is what `change` makes of its value."""
    log = kafka.logs[STATE, 0]
    kafka.logs[STATE, 0] = [record._replace(value=change(record)) for record in log]  # type: ignore[operator]


def verdict(kafka: FakeKafka, **options: object) -> Recovery:
    options = {"pipeline": CONFIG, "model": MODEL} | options
    return setup(**options).restorer(FakeClient(kafka)).plan(0).recovery


def test_state_of_ours_is_restored_and_without_state_the_rows_are_rebuilt() -> None:
    kafka = FakeKafka()
    assert verdict(kafka) == Recovery.NEW
    stored(kafka)
    assert verdict(kafka) == Recovery.RESTORED
    del kafka.logs[STATE, 0]
    kafka.ends[STATE, 0] = 0
    assert verdict(kafka) == Recovery.REBUILT


def test_a_corrupt_block_is_rebuilt_from_the_input_and_refused_where_the_input_is_gone() -> None:
    kafka, calm = FakeKafka(), FakeKafka()
    stored(kafka)
    stored(calm)
    rewrite(kafka, lambda record: record.value[:-1] + b"?" if not record.key.endswith(b"floor") else record.value)
    assert verdict(kafka) == Recovery.REBUILT
    for log in (kafka, calm):
        feed(log, 99, 40)
        turn(serving(log))
    assert kafka.published == calm.published
    rewrite(kafka, lambda _: b"?" * 40)
    kafka.retain(INPUT, 0, 10)
    with pytest.raises(StateError, match="hash is wrong"):
        verdict(kafka)


def test_what_is_rebuilt_and_written_anew_is_there_at_the_next_start() -> None:
    kafka = FakeKafka()
    stored(kafka, batches=12)
    rewrite(kafka, lambda record: record.value[:-1] + b"?" if not record.key.endswith(b"floor") else record.value)
    assert verdict(kafka) == Recovery.REBUILT
    one = serving(kafka)
    before = one._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
    one.flush()
    one.flush()
    assert verdict(kafka) == Recovery.RESTORED
    again = serving(kafka)
    assert series(again) == series(one) == 12
    names = one._store.partitions[0].table.names, again._store.partitions[0].table.names  # noqa: SLF001
    after = again._store.partitions[0].table.state  # noqa: SLF001
    order = [names[1].index(name) for name in names[0]]
    assert (after.hidden[order] == before.hidden).all()


def test_a_rebuild_that_ends_before_all_is_written_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = FakeKafka()
    monkeypatch.setattr(config, "BLOCK_BYTES", 3 * setup(pipeline=CONFIG, model=MODEL).state_config().row_bytes)
    stored(kafka)
    damaged = next(one.key for one in kafka.logs[STATE, 0] if not one.key.endswith(b"floor"))
    rewrite(kafka, lambda record: record.value[:-1] + b"?" if record.key == damaged else record.value)
    monkeypatch.setattr(store, "BLOCK_BYTES_PER_TRANSACTION", 1)
    for _ in range(3):
        killed = serving(kafka)
        changes = killed._store.dirty_writes()  # noqa: SLF001 - it is killed after its first transaction of state
        assert changes[0].floor is None
        kafka.commit(killed._state_transaction(changes, Member()))  # noqa: SLF001
        assert verdict(kafka) == Recovery.REBUILT
    killed.flush()
    assert verdict(kafka) == Recovery.RESTORED
    assert series(serving(kafka)) == 12


def test_state_of_a_newer_version_is_refused() -> None:
    kafka = FakeKafka()
    stored(kafka)

    def newer(record: object) -> bytes:
        value = record.value  # type: ignore[attr-defined]
        if record.key.endswith(b"floor"):  # type: ignore[attr-defined]
            return bytes(value)
        block = decode_block(value)
        return encode(StoredBlock(block.identity, block.offset, block.series_ids, block.groups, block.arrays, 2))

    rewrite(kafka, newer)
    with pytest.raises(StateError, match="newer version"):
        verdict(kafka)


@pytest.mark.parametrize(
    ("identity", "error"),
    [
        ({"cluster": "other"}, StateError),
        ({"topic": "made again"}, StateError),
        ({"partitions": 2}, TopicError),
    ],
)
def test_state_of_something_else_is_refused_or_resumed_as_the_policy_says(
    identity: dict[str, object], error: type[Exception]
) -> None:
    kafka = FakeKafka()
    stored(kafka)
    other = {"cluster": OURS.cluster, "topic": OURS.topic, "partitions": OURS.partitions} | identity
    ours = type(OURS)(**other, pipeline=OURS.pipeline, interval_ms=OURS.interval_ms)  # type: ignore[arg-type]
    with pytest.raises(error, match="resume-cold"):
        verdict(kafka, identity=ours)
    assert series(serving(deepcopy(kafka), identity=ours, policy="resume-cold")) == 0
    one = serving(kafka, identity=ours, policy="resume-stale")
    assert series(one) == 12
    assert verdict(kafka, identity=ours) == Recovery.RESTORED, "it was all written before it served"


def test_input_that_retention_took_is_refused_or_resumed_as_the_policy_says() -> None:
    kafka = FakeKafka()
    one = serving(kafka, replay_limit=1_000_000)
    feed(kafka, 0, 200)
    turn(one)
    kafka.retain(INPUT, 0, 150)
    with pytest.raises(StateError, match="retention has deleted"):
        verdict(kafka)
    assert series(serving(deepcopy(kafka), policy="resume-cold")) == 0
    assert series(serving(kafka, policy="resume-stale")) > 5
    assert verdict(kafka) == Recovery.RESTORED


def test_an_offset_that_was_moved_back_begins_new_there() -> None:
    kafka = FakeKafka()
    stored(kafka)
    kafka.offsets[0] = 5
    one = serving(kafka)
    assert series(one) == 0
    before = len(kafka.published)
    turn(one)
    assert kafka.published[before][1].endswith("/5")


def test_where_the_old_network_is_gone_another_one_goes_on_with_the_same_rows() -> None:
    kafka = FakeKafka()
    stored(kafka)
    other = random_model(CONFIG, cell="lstm", seed=3)
    assert verdict(kafka, model=other) == Recovery.REWARMED
    one = serving(kafka, model=other)
    assert series(one) == 12
    copy = deepcopy(kafka)
    for log in (kafka, copy):
        feed(log, 50, 80)
    turn(one)
    rows = one._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
    assert rows.hidden.any(axis=1).all()
    assert (rows.body == other.body_code).all()
    turn(serving(copy, model=other))
    assert kafka.published == copy.published, "restored twice or once, it is the same"


def test_a_network_that_was_published_a_moment_ago_is_waited_for_before_it_counts_as_gone() -> None:
    kafka = FakeKafka()
    stored(kafka)
    lineup = Lineup(random_model(CONFIG, seed=3))
    lineup.late = [MODEL]
    client = FakeClient(kafka)
    restored = setup(pipeline=CONFIG, lineup=lineup).restorer(client).restore(0)
    assert restored.plan.recovery == Recovery.RESTORED


def test_other_settings_keep_the_context_and_begin_the_rest_anew() -> None:
    kafka = FakeKafka()
    stored(kafka)
    wider = pipeline_config(context=20, horizon=6, chain=("hampel",))
    changed = type(OURS)(OURS.cluster, OURS.topic, 1, "other", HOUR_MS)
    one = serving(kafka, pipeline=wider, model=None, identity=changed)
    rows = one._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
    assert series(one) == 12
    assert (rows.inputs.scaler.count > 5).all()
    assert rows.inputs.context.shape[1] == 20
    later = pipeline_config(interval_ms=60_000)
    minutes = type(OURS)(OURS.cluster, OURS.topic, 1, "third", 60_000)
    assert series(serving(kafka, pipeline=later, model=None, identity=minutes)) == 0


def test_rows_of_a_version_that_knew_no_rivals_of_an_interval_are_rewarmed() -> None:
    kafka = FakeKafka()
    stored(kafka)

    def older(record: object) -> bytes:
        value = record.value  # type: ignore[attr-defined]
        if record.key.endswith(b"floor"):  # type: ignore[attr-defined]
            return bytes(value)
        block = decode_block(value)
        del block.arrays["timeline.rival_ms"], block.arrays["timeline.rival_since_ms"]
        return encode(block)

    rewrite(kafka, older)
    one = serving(kafka, identity=type(OURS)(OURS.cluster, OURS.topic, 1, "of this version", HOUR_MS))
    rows = one._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
    assert series(one) == 12
    assert (rows.inputs.scaler.count > 5).all()
    assert not rows.timeline.rival_ms.any()


def test_rows_that_another_version_kept_otherwise_begin_cold_and_the_worker_serves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kafka = FakeKafka()
    stored(kafka)

    def otherwise(record: object) -> bytes:
        value = record.value  # type: ignore[attr-defined]
        if record.key.endswith(b"floor"):  # type: ignore[attr-defined]
            return bytes(value)
        block = decode_block(value)
        del block.arrays["timeline.tick"]
        return encode(block)

    rewrite(kafka, otherwise)
    before = len(kafka.published)
    one = serving(kafka, identity=type(OURS)(OURS.cluster, OURS.topic, 1, "of the next version", HOUR_MS))
    assert "another version stored them differently: timeline.tick" in capsys.readouterr().out
    feed(kafka, 99, 40)
    turn(one)
    assert len(kafka.published) > before


def test_a_restore_that_the_broker_interrupts_begins_again() -> None:
    kafka = FakeKafka()
    stored(kafka)
    client, clock = FakeClient(kafka), FakeClock()
    client.silent = 1
    store = setup(pipeline=CONFIG, model=MODEL, clock=clock).store(client)
    store.follow((), [0])
    assert store.restore() is None
    assert store.phases[0] is PartitionPhase.WAITING
    clock.advance(restore.RETRY_SECONDS)
    restored = store.restore()
    assert restored is not None
    assert len(restored.partition.table) == 12
