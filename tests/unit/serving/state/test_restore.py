"""Restore: a worker restarted at any point publishes the same bytes as one that never stopped."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace

import pytest
from builders import HOUR_MS, LEVELS, START_MS, Lineup, pipeline_config, random_model
from fakes import FACTS, IDENTITY, INPUT, STATE, FakeClient, FakeKafka, FakeWatch, Member
from msgspec.structs import replace as with_fields
from setups import iterate, setup

from forecaster.errors import StateError, TopicError, TransientBrokerError
from forecaster.formats.readings import InputSchema
from forecaster.formats.state import StoredBlock, decode_block, decode_floor, encode
from forecaster.serving.publisher import PublishConfig
from forecaster.serving.state import config, transaction_writes
from forecaster.serving.state.recovery import Recovery
from forecaster.serving.worker import Worker

CONFIG = pipeline_config()
MODEL = random_model(CONFIG)
SPARSE = PublishConfig(LEVELS, every=5)


def start_worker(kafka: FakeKafka, **options: object) -> Worker:
    options = {"pipeline": CONFIG, "model": MODEL} | options
    client = FakeClient(kafka, batch=int(options.pop("batch", 10_000)))  # type: ignore[call-overload]
    return setup(**options).serving(client)


def feed(kafka: FakeKafka, seed: int, count: int, names: int = 12) -> None:
    """Append readings of some series with holes and repeats, and some records that are not JSON."""
    dice = random.Random(seed)
    for _ in range(count):
        name = b"pump-%d" % dice.randrange(names)
        hour = len(kafka.logs.get((INPUT, 0), [])) // names + dice.choice([0, 0, 0, 0, 1, 2, -1])
        stamp = START_MS + hour * HOUR_MS
        value = b'{"timestamp": %d, "value": %d}' % (stamp, dice.randrange(50))
        kafka.append(0, b"no json" if dice.random() < 0.01 else value, name)


def series(worker: Worker) -> int:
    return worker._store.series  # noqa: SLF001 - the law is about what it holds


@pytest.mark.parametrize("batches", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_restoring_after_every_batch_equals_never_restoring(batches: int) -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    unstopped = start_worker(undisturbed)
    for batch in range(batches):
        for log in (kafka, undisturbed):
            feed(log, batch, 3)
        iterate(start_worker(kafka))
        iterate(unstopped)
    assert kafka.published == undisturbed.published
    assert len(kafka.sources()) > batches


def test_without_any_block_a_replay_from_the_floor_makes_the_rows() -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    unstopped = start_worker(undisturbed)
    for batch in range(5):
        for log in (kafka, undisturbed):
            feed(log, batch, 50)
        iterate(start_worker(kafka, replay_limit=1_000_000))
        iterate(unstopped)
    assert kafka.published == undisturbed.published
    assert all((record.key or b"").endswith(b"/floor") for record in kafka.logs[STATE, 0])


def test_groups_of_several_series_in_a_record_are_restored_together() -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    options = {"schema": InputSchema(value_fields=("a", "b", "c")), "group_size": 3}
    unstopped = start_worker(undisturbed, **options)
    dice = random.Random(1)
    for hour in range(60):
        for pump in range(5):
            fields = {name: dice.randrange(30) for name in "abc" if dice.random() < 0.9}
            body = ", ".join(f'"{name}": {value}' for name, value in fields.items())
            value = f'{{"timestamp": {START_MS + hour * HOUR_MS}, {body or chr(34) + "a" + chr(34) + ": 1"}}}'
            for log in (kafka, undisturbed):
                log.append(0, value.encode(), b"pump-%d" % pump)
        iterate(start_worker(kafka, **options))
        iterate(unstopped)
    assert kafka.published == undisturbed.published


def test_after_a_restore_the_same_series_are_beyond_max_series() -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    unstopped = start_worker(undisturbed, max_series=7)
    for batch in range(40):
        for log in (kafka, undisturbed):
            feed(log, batch, 20, names=12)
        worker = start_worker(kafka, max_series=7)
        iterate(worker)
        iterate(unstopped)
        assert series(worker) == series(unstopped) == 7
    assert kafka.published == undisturbed.published


def test_a_replay_frees_the_same_idle_series() -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    short_lived = replace(CONFIG, observation=replace(CONFIG.observation, ttl_ms=48 * HOUR_MS))
    unstopped = start_worker(undisturbed, pipeline=short_lived, max_series=8)
    freed = 0
    for batch in range(28):
        for log in (kafka, undisturbed):
            for reading in range(60):
                hour = batch * 10 + reading // 6
                name = b"pump-%d" % (batch // 7 * 4 + reading % 6)
                log.append(0, b'{"timestamp": %d, "value": %d}' % (START_MS + hour * HOUR_MS, reading % 11), name)
        worker = start_worker(kafka, pipeline=short_lived, max_series=8, replay_limit=300)
        for swept in (worker, unstopped):
            swept._store.partitions[0].idle_sweep.readings = 10_000  # noqa: SLF001
        iterate(worker)
        iterate(unstopped)
        assert series(worker) == series(unstopped)
        freed += worker.counters.freed_series
    assert kafka.published == undisturbed.published
    assert freed >= 10


def test_blocks_that_are_gone_have_tombstones() -> None:
    """The state topic therefore stays bounded while series come and go."""
    kafka = FakeKafka()
    short_lived = replace(CONFIG, observation=replace(CONFIG.observation, ttl_ms=48 * HOUR_MS))
    worker = start_worker(kafka, pipeline=short_lived)
    for batch in range(20):
        kafka.hours(0, range(batch * 30, batch * 30 + 30), b"pump-%d" % batch)
        worker._store.partitions[0].idle_sweep.readings = 10_000  # noqa: SLF001 - sweeps are rare
        iterate(worker)
    assert series(worker) <= 6
    newest = {record.key: record.value for record in kafka.logs[STATE, 0]}
    assert sum(value is not None for value in newest.values()) <= 3


def stored(kafka: FakeKafka, batches: int = 6) -> None:
    """Let a worker store a floor and at least one block."""
    worker = start_worker(kafka)
    for batch in range(batches):
        feed(kafka, batch, 40)
        iterate(worker)
    worker.flush()


def rewrite(kafka: FakeKafka, change: object) -> None:
    """Replace the value of every stored record by what `change` returns for the record."""
    log = kafka.logs[STATE, 0]
    kafka.logs[STATE, 0] = [record._replace(value=change(record)) for record in log]  # type: ignore[operator]


def planned(kafka: FakeKafka, **options: object) -> Recovery:
    options = {"pipeline": CONFIG, "model": MODEL} | options
    return setup(**options).restorer(FakeClient(kafka)).plan(0).recovery


def test_stored_state_is_restored_and_missing_state_is_rebuilt() -> None:
    kafka = FakeKafka()
    assert planned(kafka) == Recovery.NEW
    stored(kafka)
    assert planned(kafka) == Recovery.RESTORED
    del kafka.logs[STATE, 0]
    kafka.ends[STATE, 0] = 0
    assert planned(kafka) == Recovery.REBUILT


def test_a_corrupt_block_is_rebuilt_or_refused_without_its_input() -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    stored(kafka)
    stored(undisturbed)
    rewrite(kafka, lambda record: record.value[:-1] + b"?" if not record.key.endswith(b"floor") else record.value)
    assert planned(kafka) == Recovery.REBUILT
    for log in (kafka, undisturbed):
        feed(log, 99, 40)
        iterate(start_worker(log))
    assert kafka.published == undisturbed.published
    rewrite(kafka, lambda _: b"?" * 40)
    kafka.retain(INPUT, 0, 10)
    with pytest.raises(StateError, match="hash is wrong"):
        planned(kafka)


def test_rebuilt_rows_are_restored_at_the_next_start() -> None:
    kafka = FakeKafka()
    stored(kafka, batches=12)
    rewrite(kafka, lambda record: record.value[:-1] + b"?" if not record.key.endswith(b"floor") else record.value)
    assert planned(kafka) == Recovery.REBUILT
    worker = start_worker(kafka)
    before = worker._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
    worker.flush()
    worker.flush()
    assert planned(kafka) == Recovery.RESTORED
    again = start_worker(kafka)
    assert series(again) == series(worker) == 12
    names = worker._store.partitions[0].table.names, again._store.partitions[0].table.names  # noqa: SLF001
    after = again._store.partitions[0].table.state  # noqa: SLF001
    order = [names[1].index(name) for name in names[0]]
    assert (after.hidden[order] == before.hidden).all()


def test_a_rebuild_that_is_cut_short_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all blocks are written, the stored floor stays away, so that the next restore rebuilds again."""
    kafka = FakeKafka()
    monkeypatch.setattr(config, "BLOCK_BYTES", 3 * setup(pipeline=CONFIG, model=MODEL).state_config().row_bytes)
    stored(kafka)
    damaged = next(record.key for record in kafka.logs[STATE, 0] if record.key and not record.key.endswith(b"floor"))
    rewrite(kafka, lambda record: record.value[:-1] + b"?" if record.key == damaged else record.value)
    monkeypatch.setattr(transaction_writes, "BLOCK_BYTES_PER_TRANSACTION", 1)
    for _ in range(3):
        killed = start_worker(kafka)
        changes = killed._store.dirty_writes()  # noqa: SLF001 - it is killed after its first transaction of state
        assert changes[0].floor is None
        kafka.commit(killed._state_transaction(changes, Member()))  # noqa: SLF001
        assert planned(kafka) == Recovery.REBUILT
    killed.flush()
    assert planned(kafka) == Recovery.RESTORED
    assert series(start_worker(kafka)) == 12


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
        planned(kafka)


@pytest.mark.parametrize(
    ("identity", "error"),
    [
        ({"cluster": "other"}, StateError),
        ({"topic_id": "made again"}, StateError),
        ({"partitions": 2}, TopicError),
    ],
)
def test_state_of_another_identity_is_treated_as_the_policy_says(
    identity: dict[str, object], error: type[Exception]
) -> None:
    kafka = FakeKafka()
    stored(kafka)
    kafka.facts = FACTS._replace(**identity)  # type: ignore[arg-type]
    with pytest.raises(error, match="resume-cold"):
        planned(kafka)
    for policy, rows in (("resume-cold", 0), ("resume-stale", 12)):
        copy = deepcopy(kafka)
        assert series(start_worker(copy, policy=policy)) == rows
        assert planned(copy) == Recovery.RESTORED, "all was written before the partition served"


def test_input_deleted_by_retention_is_treated_as_the_policy_says() -> None:
    kafka = FakeKafka()
    worker = start_worker(kafka, replay_limit=1_000_000)
    feed(kafka, 0, 200)
    iterate(worker)
    kafka.retain(INPUT, 0, 150)
    with pytest.raises(StateError, match="retention has deleted"):
        planned(kafka)
    assert series(start_worker(deepcopy(kafka), policy="resume-cold")) == 0
    assert series(start_worker(kafka, policy="resume-stale")) > 5
    assert planned(kafka) == Recovery.RESTORED


def test_a_group_offset_moved_back_begins_new_there() -> None:
    kafka = FakeKafka()
    stored(kafka)
    kafka.offsets[0] = 5
    worker = start_worker(kafka)
    assert series(worker) == 0
    before = len(kafka.published)
    iterate(worker)
    assert kafka.published[before][1].endswith("/5")


def test_rows_of_a_missing_network_are_rewarmed_for_another_one() -> None:
    kafka = FakeKafka()
    stored(kafka)
    other = random_model(CONFIG, cell="lstm", seed=3)
    assert planned(kafka, model=other) == Recovery.REWARMED
    worker = start_worker(kafka, model=other)
    assert series(worker) == 12
    copy = deepcopy(kafka)
    for log in (kafka, copy):
        feed(log, 50, 80)
    iterate(worker)
    rows = worker._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
    assert rows.hidden.any(axis=1).all()
    assert (rows.body == other.body_code).all()
    iterate(start_worker(copy, model=other))
    assert kafka.published == copy.published, "restored twice or once, the forecasts are the same"


def test_a_restore_catches_up_before_a_network_counts_as_missing() -> None:
    """A network that was published a moment ago is found."""
    kafka = FakeKafka()
    stored(kafka)
    lineup = Lineup(random_model(CONFIG, seed=3))
    lineup.late = [MODEL]
    client = FakeClient(kafka)
    restored = setup(pipeline=CONFIG, lineup=lineup).restorer(client).restore(0)
    assert restored.plan.recovery == Recovery.RESTORED


def test_other_settings_keep_the_context_and_reset_the_rest() -> None:
    """With another interval nothing is kept."""
    kafka = FakeKafka()
    stored(kafka)
    wider = pipeline_config(context=20, horizon=6, chain=("hampel",))
    changed = type(IDENTITY)(IDENTITY.cluster, IDENTITY.topic, 1, "other", HOUR_MS)
    worker = start_worker(kafka, pipeline=wider, model=None, identity=changed)
    rows = worker._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
    assert series(worker) == 12
    assert (rows.inputs.scaler.count > 5).all()
    assert rows.inputs.context.shape[1] == 20
    later = pipeline_config(interval_ms=60_000)
    minutes = type(IDENTITY)(IDENTITY.cluster, IDENTITY.topic, 1, "third", 60_000)
    assert series(start_worker(kafka, pipeline=later, model=None, identity=minutes)) == 0


def test_rows_of_a_version_without_rival_intervals_are_rewarmed() -> None:
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
    worker = start_worker(
        kafka, identity=type(IDENTITY)(IDENTITY.cluster, IDENTITY.topic, 1, "of this version", HOUR_MS)
    )
    rows = worker._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
    assert series(worker) == 12
    assert (rows.inputs.scaler.count > 5).all()
    assert not rows.timeline.rival_ms.any()


def test_rows_that_cannot_be_used_are_dropped_and_the_worker_serves(
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
    worker = start_worker(
        kafka, identity=type(IDENTITY)(IDENTITY.cluster, IDENTITY.topic, 1, "of the next version", HOUR_MS)
    )
    assert "another version stored them differently: timeline.tick" in capsys.readouterr().out
    feed(kafka, 99, 40)
    iterate(worker)
    assert len(kafka.published) > before


@pytest.mark.parametrize("publish", [PublishConfig(LEVELS), SPARSE], ids=["all forecasts", "sparse forecasts"])
@pytest.mark.parametrize("replay_limit", [40, 1_000_000], ids=["with blocks", "floor only"])
@pytest.mark.parametrize("is_flushed", [True, False], ids=["stopped", "killed"])
def test_forgotten_offsets_double_and_lose_nothing(
    publish: PublishConfig, replay_limit: int, *, is_flushed: bool
) -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    unstopped = start_worker(undisturbed, publish=publish)
    for batch in range(20):
        for log in (kafka, undisturbed):
            feed(log, batch, 30)
        worker = start_worker(kafka, publish=publish, replay_limit=replay_limit)
        assert worker.counters.restores == ({"forgotten": 1} if batch else {"new": 1})
        iterate(worker)
        if is_flushed:
            worker.flush()
        kafka.forget_offsets()
        iterate(unstopped)
    assert kafka.published == undisturbed.published
    assert len(kafka.sources()) > 40


def test_a_found_position_is_committed_before_the_partition_serves() -> None:
    kafka = FakeKafka()
    stored(kafka)
    before = dict(kafka.offsets)
    kafka.forget_offsets()
    start_worker(kafka)
    assert kafka.offsets == before
    assert planned(kafka) == Recovery.RESTORED


def test_without_state_the_outputs_alone_keep_forecasts_from_being_doubled() -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    for log in (kafka, undisturbed):
        stored(log)
    kafka.forget_offsets()
    del kafka.logs[STATE, 0], kafka.ends[STATE, 0]
    assert planned(kafka) == Recovery.REBUILT
    for log in (kafka, undisturbed):
        feed(log, 99, 40)
        iterate(start_worker(log))
    assert kafka.published == undisturbed.published


def test_a_new_group_beside_another_one_begins_new() -> None:
    """The outputs on shared topics are the other group's."""
    kafka = FakeKafka()
    stored(kafka)
    kafka.forget_offsets()
    assert planned(kafka, key_prefix="other-group") == Recovery.NEW


def test_a_replay_of_a_compacted_input_says_what_is_missing() -> None:
    kafka = FakeKafka()
    iterated = start_worker(kafka, replay_limit=1_000_000)
    feed(kafka, 0, 100)
    iterate(iterated)
    kafka.compact(INPUT, 0, lambda record: record.offset % 4 == 0)
    kafka.append(0, None)  # a tombstone
    assert start_worker(deepcopy(kafka), replay_limit=1_000_000).counters.restores == {"restored": 1}, (
        "markers and aborted records leave gaps, too"
    )
    kafka.compacted = True
    worker = start_worker(kafka, replay_limit=1_000_000)
    assert worker.counters.restores == {"incomplete": 1}
    result = worker._store.restore_result(0)  # noqa: SLF001 - the law is about what it tells
    assert (result.missing, result.replayed) == (75, 25)
    assert "75 of 100 offsets" in result.plan.reason
    iterate(worker)
    assert worker.counters.dead_letters == {"value_missing": 1}


def test_a_restore_during_which_the_input_was_created_again_is_dropped() -> None:
    kafka = FakeKafka()
    stored(kafka)
    restorer = setup(pipeline=CONFIG, model=MODEL).restorer(FakeClient(kafka))
    steps = restorer.steps(0)
    next(steps)
    kafka.facts = FACTS._replace(topic_id="made again")
    with pytest.raises(TransientBrokerError, match="created again"):
        for _ in steps:
            pass


def few_series_in_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "BLOCK_BYTES", 3 * setup(pipeline=CONFIG, model=MODEL).state_config().row_bytes)


def test_state_whose_records_were_deleted_while_nobody_ran_is_not_restored_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The floor is still there, and some of the blocks that it needs are not."""
    few_series_in_a_block(monkeypatch)
    kafka, undisturbed = FakeKafka(), FakeKafka()
    stored(kafka)
    stored(undisturbed)
    kafka.retain(STATE, 0, kafka.ends[STATE, 0] - 3)
    assert any((record.key or b"").endswith(b"/floor") for record in kafka.logs[STATE, 0])
    lost = deepcopy(kafka)
    for log in (kafka, undisturbed):
        feed(log, 99, 40)
        iterate(start_worker(log))
    assert kafka.published == undisturbed.published
    lost.retain(INPUT, 0, 10)
    with pytest.raises(StateError, match="blocks may be missing from state topic state"):
        planned(lost)
    for policy in ("resume-cold", "resume-stale"):
        copy = deepcopy(lost)
        assert (series(start_worker(copy, policy=policy)) > 0) == (policy == "resume-stale")
        assert planned(copy) == Recovery.RESTORED, "all was written before the partition served"


def test_a_copy_of_the_state_in_a_topic_that_was_created_again_is_rebuilt() -> None:
    kafka = FakeKafka()
    stored(kafka)
    kafka.state_id = "another"
    assert planned(kafka) == Recovery.REBUILT
    worker = start_worker(kafka)
    assert planned(kafka) == Recovery.REBUILT, "nothing is written yet"
    worker.flush()
    assert planned(kafka) == Recovery.RESTORED


@pytest.mark.parametrize("no_id", ["", "00000000-0000-0000-0000-000000000000", "None"])
def test_without_topic_ids_the_first_offset_alone_tells(no_id: str) -> None:
    kafka = FakeKafka()
    kafka.state_id = no_id
    stored(kafka)
    assert planned(kafka) == Recovery.RESTORED
    with_ids = deepcopy(kafka)
    with_ids.state_id = "topics have ids since the broker was upgraded"
    assert planned(with_ids) == Recovery.RESTORED
    kafka.retain(STATE, 0, 2)
    assert planned(kafka) == Recovery.REBUILT


def without_log(record: object) -> bytes | None:
    """Return the value of a stored record as a version wrote it whose floors name no log."""
    value = record.value  # type: ignore[attr-defined]
    if not record.key.endswith(b"floor"):  # type: ignore[attr-defined]
        return value
    return encode(with_fields(decode_floor(value), state_log=None))


def test_the_floor_of_an_earlier_version_is_trusted_and_replaced_at_once() -> None:
    kafka = FakeKafka()
    stored(kafka)
    rewrite(kafka, without_log)
    assert planned(kafka) == Recovery.RESTORED
    start_worker(kafka).flush()
    assert planned(kafka) == Recovery.RESTORED
    kafka.retain(STATE, 0, 2)
    assert planned(kafka) == Recovery.REBUILT


@pytest.mark.parametrize("change", ["created again", "emptied"])
def test_a_restore_during_which_the_state_topic_lost_records_is_begun_again(change: str) -> None:
    kafka = FakeKafka()
    stored(kafka)
    steps = setup(pipeline=CONFIG, model=MODEL).restorer(FakeClient(kafka)).steps(0)
    next(steps)
    if change == "created again":
        kafka.state_id = "another"
    else:
        kafka.retain(STATE, 0, kafka.ends[STATE, 0] - 1)
    with pytest.raises(TransientBrokerError, match="while it was read, "):
        for _ in steps:
            pass


@pytest.mark.parametrize("seed", range(12))
def test_whenever_records_are_deleted_and_workers_are_killed_no_series_is_lost(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Until the watch looks, batches write floors; whatever is killed when, the outputs are the undisturbed ones."""
    few_series_in_a_block(monkeypatch)
    monkeypatch.setattr(transaction_writes, "BLOCK_BYTES_PER_TRANSACTION", 20_000)
    dice, watch = random.Random(seed), FakeWatch()
    kafka, undisturbed = FakeKafka(), FakeKafka()
    worker, unstopped = start_worker(kafka, topic_watch=watch), start_worker(undisturbed)
    for batch in range(25):
        for log in (kafka, undisturbed):
            feed(log, batch, 15)
        iterate(unstopped)
        event = dice.choice(["", "", "stop", "delete", "create", "look", "kill", "kill"])
        if event == "stop":
            worker.flush()
        if event in ("stop", "kill"):
            worker = start_worker(kafka, topic_watch=watch)
        elif event == "delete" and kafka.logs.get((STATE, 0)):
            begin = kafka.starts.get((STATE, 0), 0)
            kafka.retain(STATE, 0, dice.randint(begin, kafka.ends[STATE, 0]))
        elif event == "create":
            kafka.create_state_again(f"topic {batch}")
        elif event == "look":
            watch.state_logs = kafka.state_logs()
        iterate(worker, dice.randint(1, 3))
    for _ in range(60):
        iterate(worker)
    assert sorted(kafka.published) == sorted(undisturbed.published)
    assert series(start_worker(kafka)) == series(unstopped) == 12
