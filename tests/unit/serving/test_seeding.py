"""Seeding: a seeded group continues as if it had read the history; until all is written, nothing counts."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import orjson
import pytest
from builders import HOUR_MS, START_MS, pipeline_config, random_model
from fakes import INPUT, STATE, FakeClient, FakeKafka
from setups import Setup, setup

from forecaster.broker.consumer_groups import partition_of
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.errors import StateError, TransientBrokerError, UsageError
from forecaster.formats.readings import InputSchema
from forecaster.formats.state import decode_floor
from forecaster.records import Outcome, Readings
from forecaster.serving import seeding
from forecaster.serving.seeding import SeededPartition, Seeder
from forecaster.serving.state.recovery import Recovery
from forecaster.serving.worker import Worker

CONFIG = pipeline_config()
MODEL = random_model(CONFIG)
PARTITIONS = 3
FIELDS = ("a", "b", "c")
Record = tuple[str, int, dict[str, int]]
"""A device, an hour, and its values by field; the only field of a single sensor is ''."""


class FakeGroup:
    """A consumer group as the broker describes it."""

    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka
        self.present = 0

    def committed(self) -> dict[int, int]:
        return dict(self._kafka.offsets)

    def members(self) -> int:
        return self.present


def fleet(hours: range, *, fields: tuple[str, ...] = (), devices: int = 9) -> list[Record]:
    """Return records of some devices, with holes, in order of time."""
    dice = random.Random(7)
    records: list[Record] = []
    for hour in range(hours.stop):
        for device in range(devices):
            values = {field: dice.randrange(50) for field in fields or ("",) if dice.random() < 0.9}
            if values and hour in hours:
                records.append((f"pump-{device}", hour, values))
    return records


def log(kafka: FakeKafka, records: list[Record]) -> None:
    """Append the records to the input, each to the partition that the default partitioner chooses."""
    for device, hour, values in records:
        named = {field or "value": value for field, value in values.items()}
        body = {"timestamp": START_MS + hour * HOUR_MS, **named}
        kafka.append(partition_of(device.encode(), len(kafka.partitions)), orjson.dumps(body), device.encode())


def parts(records: list[Record], number: int, partitions: int, size: int = 40) -> Iterator[Readings]:
    """Yield the readings of a partition, some records at a time."""
    of_partition = [record for record in records if partition_of(record[0].encode(), partitions) == number]
    for begin in range(0, len(of_partition), size):
        rows = [
            (f"{device}/{field}" if field else device, hour, value, record, device)
            for record, (device, hour, values) in enumerate(of_partition[begin : begin + size])
            for field, value in values.items()
        ]
        names, hours, values, numbers, groups = zip(*rows, strict=True)
        yield Readings(
            list(names),
            START_MS + HOUR_MS * np.array(hours, np.int64),
            np.array(values, np.float64),
            np.array(numbers, np.int64),
            list(groups) if groups != names else None,
        )


def seeder(kafka: FakeKafka, configured: Setup, *failures: str) -> Seeder:
    client = FakeClient(kafka)
    client.confirmed, client.failures = 1, list(failures)
    return Seeder(configured.restorer(client), client, FakeGroup(kafka))


def seed(kafka: FakeKafka, records: list[Record], configured: Setup) -> list[SeededPartition]:
    writer = seeder(kafka, configured)
    writer.refuse_used_group()
    done = [writer.seed(number, parts(records, number, len(kafka.partitions))) for number in kafka.partitions]
    writer.finish()
    return done


def serve(kafka: FakeKafka, configured: Setup) -> Worker:
    """Return a worker that has read the entire input."""
    worker = configured.serving(FakeClient(kafka))
    worker.iterate()
    return worker


def published(kafka: FakeKafka, since_hour: int = 0) -> list[bytes]:
    """Return the forecasts made at readings from an hour on, ordered by series and time."""
    bodies = [(orjson.loads(value), value) for topic, _, value in kafka.published if topic == "forecasts"]
    since = [
        (body["series_id"], body["timestamp"], value) for body, value in bodies if body["timestamp"] >= _ms(since_hour)
    ]
    return [value for _, _, value in sorted(since)]


def _ms(hour: int) -> int:
    return START_MS + hour * HOUR_MS


def newest(kafka: FakeKafka, partition: int) -> dict[str, bytes]:
    """Return the newest values of the state topic, as after its compaction."""
    newest_values = {(record.key or b"").decode(): record.value for record in kafka.logs.get((STATE, partition), [])}
    return {key: value for key, value in newest_values.items() if value is not None}


@pytest.mark.parametrize(
    "configured",
    [
        setup(pipeline=CONFIG, model=MODEL),
        setup(pipeline=CONFIG),
        setup(pipeline=pipeline_config(interval_ms=0), model=MODEL),
        setup(pipeline=CONFIG, model=MODEL, schema=InputSchema(value_fields=FIELDS), group_size=3),
    ],
    ids=["network", "no network", "learned interval", "groups"],
)
def test_a_seeded_worker_publishes_as_one_that_read_the_history(configured: Setup) -> None:
    fields = configured.schema.value_fields
    history, news = fleet(range(60), fields=fields), fleet(range(60, 90), fields=fields)
    seeded, unseeded = FakeKafka(PARTITIONS), FakeKafka(PARTITIONS)
    done = seed(seeded, history, configured)
    log(unseeded, history)
    serve(unseeded, configured)
    for kafka in (seeded, unseeded):
        log(kafka, news)
        serve(kafka, configured)
    assert published(seeded) == published(unseeded, since_hour=60)
    assert len(published(seeded)) == sum(len(values) for _, _, values in news)
    assert sum(partition.readings for partition in done) == sum(len(values) for _, _, values in history)


def test_readings_of_the_history_are_late_or_duplicates_in_the_input() -> None:
    configured = setup(pipeline=CONFIG, model=MODEL)
    history, news = fleet(range(60)), fleet(range(60, 70))
    again = [record for record in history if record[1] >= 40]
    seeded, unseeded = FakeKafka(PARTITIONS), FakeKafka(PARTITIONS)
    seeded.written_ms = _ms(40)
    log(seeded, again)
    seed(seeded, history, configured)
    log(unseeded, history)
    serve(unseeded, configured)
    for kafka in (seeded, unseeded):
        log(kafka, news)
    worker = serve(seeded, configured)
    serve(unseeded, configured)
    assert published(seeded) == published(unseeded, since_hour=60)
    assert worker.counters.outcomes["late"] + worker.counters.outcomes["duplicate"] == len(again)


def test_an_input_that_would_discard_the_seeded_rows_is_refused() -> None:
    configured, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    history = fleet(range(60))
    kafka.written_ms = _ms(20)
    log(kafka, [record for record in history if record[1] >= 20])
    with pytest.raises(UsageError, match="partition 0 of topic readings goes back to 2025-01-01T20:00"):
        seed(kafka, history, configured)
    assert kafka.offsets == {}
    seed(kafka, [record for record in history if record[1] < 20], configured)
    assert kafka.offsets == {0: 0}


def test_the_first_start_restores_every_partition_without_a_replay() -> None:
    """Serving begins at the start of the input."""
    configured, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka(PARTITIONS)
    log(kafka, fleet(range(20)))
    kafka.retain(INPUT, 1, 5)
    seed(kafka, fleet(range(60), devices=1), configured)
    assert kafka.offsets == {0: 0, 1: 5, 2: 0}
    restorer = configured.restorer(FakeClient(kafka))
    for number in kafka.partitions:
        restored = restorer.restore(number)
        assert (restored.plan.recovery, restored.replayed) == (Recovery.RESTORED, 0)
        assert restored.partition.position == kafka.offsets[number]
        floor = decode_floor(newest(kafka, number)[f"group/{number}/floor"])
        assert floor.offset == kafka.offsets[number]
        assert [swap.checkpoint for swap in floor.swaps] == [MODEL.id]


def test_without_a_usable_champion_rows_are_seeded_for_no_network() -> None:
    configured, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    served = configured.checkpoints()
    served.champion = "gone"
    shared = setup(pipeline=CONFIG, lineup=served)
    seed(kafka, fleet(range(20)), shared)
    assert [swap.checkpoint for swap in decode_floor(newest(kafka, 0)["group/0/floor"]).swaps] == [NO_CHECKPOINT]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_group_with_offsets_is_refused_and_its_state_stays(when: str) -> None:
    configured, kafka = setup(pipeline=CONFIG), FakeKafka()
    writer = seeder(kafka, configured)
    if when == "meanwhile":
        writer.refuse_used_group()
        writer.seed(0, parts(fleet(range(20)), 0, 1))
    kafka.offsets[0] = 17
    floors = [key for key in newest(kafka, 0) if key.endswith("floor")]
    with pytest.raises(StateError, match="group group has committed offset 17 in partition 0 of topic readings"):
        writer.refuse_used_group() if when == "before" else writer.finish()
    assert floors == []
    assert kafka.offsets == {0: 17}


def test_a_partition_with_a_new_offset_is_not_written() -> None:
    """A worker has committed an offset between the check of the group and the seeding of the partition."""
    configured, kafka = setup(pipeline=CONFIG), FakeKafka()
    writer = seeder(kafka, configured)
    writer.refuse_used_group()
    kafka.offsets[0] = 0
    with pytest.raises(StateError, match="has committed offset 0"):
        writer.seed(0, parts(fleet(range(20)), 0, 1))
    assert newest(kafka, 0) == {}


def test_a_group_whose_offsets_kafka_has_forgotten_is_refused_and_its_state_stays() -> None:
    kafka, configured = FakeKafka(), setup(pipeline=CONFIG, model=MODEL)
    records = fleet(range(60))
    seed(kafka, records, configured)
    log(kafka, fleet(range(60, 70)))
    serve(kafka, configured)
    before = newest(kafka, 0)
    kafka.forget_offsets()
    writer = seeder(kafka, configured)
    writer.refuse_used_group()
    with pytest.raises(StateError, match="Kafka has no committed offset"):
        writer.seed(0, parts(records, 0, 1))
    assert newest(kafka, 0) == before
    assert configured.restorer(FakeClient(kafka)).plan(0).recovery == Recovery.FORGOTTEN


def test_a_seeded_group_whose_offsets_kafka_forgets_before_its_first_start_keeps_its_rows() -> None:
    kafka, configured = FakeKafka(), setup(pipeline=CONFIG, model=MODEL)
    seed(kafka, fleet(range(60)), configured)
    kafka.forget_offsets()
    plan = configured.restorer(FakeClient(kafka)).plan(0)
    assert (plan.recovery, plan.begin) == (Recovery.FORGOTTEN, 0)


@pytest.mark.parametrize("members", [1, 2])
def test_a_group_with_live_members_is_refused(members: int) -> None:
    kafka = FakeKafka()
    client, group = FakeClient(kafka), FakeGroup(kafka)
    group.present = members
    writer = Seeder(setup(pipeline=CONFIG).restorer(client), client, group)
    with pytest.raises(StateError, match=f"has {members} live member"):
        writer.refuse_used_group()


def test_a_seed_cut_short_does_not_count_and_is_replaced_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seeding, "BYTES_PER_TRANSACTION", 1)
    configured, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka(PARTITIONS)
    monkeypatch.setattr("forecaster.serving.state.config.BLOCK_BYTES", 2 * (configured.state_config().row_bytes + 64))
    history, more = fleet(range(60)), fleet(range(60), devices=30)
    first = seeder(kafka, configured)
    first.refuse_used_group()
    dead = first.seed(0, parts(more, 0, PARTITIONS))
    assert dead.blocks > 2
    assert kafka.offsets == {}
    assert configured.restorer(FakeClient(kafka)).plan(0).recovery == Recovery.NEW
    seed(kafka, history, configured)
    again = FakeKafka(PARTITIONS)
    seed(again, history, configured)
    for number in kafka.partitions:
        assert newest(kafka, number) == newest(again, number)
    assert any(record.value is None for record in kafka.logs[STATE, 0])


def test_a_partition_whose_transaction_failed_is_seeded_again() -> None:
    configured, kafka, undisturbed = setup(pipeline=CONFIG, model=MODEL), FakeKafka(), FakeKafka()
    history = fleet(range(30))
    writer = seeder(kafka, configured, "dropped", "", "dropped", "happened")
    with pytest.raises(TransientBrokerError, match="the blocks of partition 0 were not written"):
        writer.seed(0, parts(history, 0, 1))
    writer.seed(0, parts(history, 0, 1))
    with pytest.raises(TransientBrokerError, match="the offsets of group group were not committed"):
        writer.finish()
    assert kafka.offsets == {}
    writer.finish()
    seed(undisturbed, history, configured)
    assert newest(kafka, 0) == newest(undisturbed, 0)
    assert kafka.offsets == undisturbed.offsets == {0: 0}


def test_series_beyond_max_series_are_counted_and_start_cold() -> None:
    configured, kafka = setup(pipeline=CONFIG, model=MODEL, max_series=4), FakeKafka()
    [done] = seed(kafka, fleet(range(30), devices=9), configured)
    assert (done.series, done.left_out) == (4, 5)
    assert done.outcomes[Outcome.STATELESS] > 0
    log(kafka, fleet(range(30, 32), devices=9))
    worker = serve(kafka, configured)
    assert worker.counters.outcomes["stateless"] > 0
    checkpoints = {body["series_id"]: body["checkpoint"] for body in map(orjson.loads, published(kafka))}
    assert sorted(checkpoints.values()).count(MODEL.id) == 4


def test_seeded_blocks_that_are_deleted_before_the_floors_are_written_do_not_count() -> None:
    kafka, configured = FakeKafka(), setup(pipeline=CONFIG, model=MODEL)
    writer = seeder(kafka, configured)
    writer.seed(0, parts(fleet(range(40)), 0, 1))
    kafka.retain(STATE, 0, kafka.ends[STATE, 0])
    writer.finish()
    restored = configured.restorer(FakeClient(kafka)).restore(0)
    assert restored.plan.recovery == Recovery.REBUILT
    assert "blocks may be missing" in restored.plan.reason
