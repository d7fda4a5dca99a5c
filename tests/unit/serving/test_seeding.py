"""A group that was seeded goes on as if it had read the history as its input; until all is there, nothing counts."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import orjson
import pytest
from builders import HOUR_MS, START_MS, pipeline_config, random_model
from fakes import INPUT, STATE, FakeClient, FakeKafka, Setup, setup

from forecaster.broker.consumer_groups import partition_of
from forecaster.core.network.model import NO_CHECKPOINT
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
"""Of a device at an hour: the values by field; the only field of a single sensor is ''."""


class FakeGroup:
    """A group as the coordinator tells of it."""

    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka
        self.present = 0

    def committed(self) -> dict[int, int]:
        return dict(self._kafka.offsets)

    def members(self) -> int:
        return self.present


def fleet(hours: range, *, fields: tuple[str, ...] = (), devices: int = 9) -> list[Record]:
    """Records of some devices, with holes, in order of time."""
    dice = random.Random(7)
    found: list[Record] = []
    for hour in range(hours.stop):
        for device in range(devices):
            values = {field: dice.randrange(50) for field in fields or ("",) if dice.random() < 0.9}
            if values and hour in hours:
                found.append((f"pump-{device}", hour, values))
    return found


def log(kafka: FakeKafka, records: list[Record]) -> None:
    """The records are in the input, each where the default partitioner puts it."""
    for device, hour, values in records:
        named = {field or "value": value for field, value in values.items()}
        body = {"timestamp": START_MS + hour * HOUR_MS, **named}
        kafka.append(partition_of(device.encode(), len(kafka.partitions)), orjson.dumps(body), device.encode())


def parts(records: list[Record], number: int, partitions: int, size: int = 40) -> Iterator[Readings]:
    """The readings of a partition, a part of the records at a time."""
    own = [one for one in records if partition_of(one[0].encode(), partitions) == number]
    for begin in range(0, len(own), size):
        rows = [
            (f"{device}/{field}" if field else device, hour, value, record, device)
            for record, (device, hour, values) in enumerate(own[begin : begin + size])
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


def seeder(kafka: FakeKafka, made_of: Setup, *failures: str) -> Seeder:
    client = FakeClient(kafka)
    client.confirmed, client.failures = 1, list(failures)
    return Seeder(made_of.restorer(client), client, FakeGroup(kafka))


def seed(kafka: FakeKafka, records: list[Record], made_of: Setup) -> list[SeededPartition]:
    one = seeder(kafka, made_of)
    one.refuse_used_group()
    done = [one.seed(number, parts(records, number, len(kafka.partitions))) for number in kafka.partitions]
    one.finish()
    return done


def worker(kafka: FakeKafka, made_of: Setup) -> Worker:
    client = FakeClient(kafka)
    one = made_of.worker(client)
    while client.held:
        one.iterate()
    return one


def serve(kafka: FakeKafka, made_of: Setup) -> Worker:
    """A worker has read all that is in the input."""
    one = worker(kafka, made_of)
    one.iterate()
    return one


def published(kafka: FakeKafka, since_hour: int = 0) -> list[bytes]:
    """Forecasts made at readings from an hour on, in the order of their series and time."""
    found = [(orjson.loads(value), value) for topic, _, value in kafka.published if topic == "forecasts"]
    since = [
        (body["series_id"], body["timestamp"], value) for body, value in found if body["timestamp"] >= _ms(since_hour)
    ]
    return [value for _, _, value in sorted(since)]


def _ms(hour: int) -> int:
    return START_MS + hour * HOUR_MS


def newest(kafka: FakeKafka, partition: int) -> dict[str, bytes]:
    """What a reader of the compacted state topic finds."""
    found = {(one.key or b"").decode(): one.value for one in kafka.logs.get((STATE, partition), [])}
    return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize(
    "made_of",
    [
        setup(pipeline=CONFIG, model=MODEL),
        setup(pipeline=CONFIG),
        setup(pipeline=pipeline_config(interval_ms=0), model=MODEL),
        setup(pipeline=CONFIG, model=MODEL, schema=InputSchema(value_fields=FIELDS), group_size=3),
    ],
    ids=["network", "genesis", "learned interval", "groups"],
)
def test_after_a_seed_a_worker_publishes_what_one_that_read_the_history_publishes(made_of: Setup) -> None:
    fields = made_of.schema.value_fields
    history, news = fleet(range(60), fields=fields), fleet(range(60, 90), fields=fields)
    seeded, calm = FakeKafka(PARTITIONS), FakeKafka(PARTITIONS)
    done = seed(seeded, history, made_of)
    log(calm, history)
    serve(calm, made_of)
    for kafka in (seeded, calm):
        log(kafka, news)
        serve(kafka, made_of)
    assert published(seeded) == published(calm, since_hour=60)
    assert len(published(seeded)) == sum(len(values) for _, _, values in news)
    assert sum(one.readings for one in done) == sum(len(values) for _, _, values in history)


def test_readings_that_the_history_had_already_are_late_or_twice() -> None:
    made_of = setup(pipeline=CONFIG, model=MODEL)
    history, news = fleet(range(60)), fleet(range(60, 70))
    again = [one for one in history if one[1] >= 40]
    seeded, calm = FakeKafka(PARTITIONS), FakeKafka(PARTITIONS)
    seeded.written_ms = _ms(40)
    log(seeded, again)
    seed(seeded, history, made_of)
    log(calm, history)
    serve(calm, made_of)
    for kafka in (seeded, calm):
        log(kafka, news)
    one = serve(seeded, made_of)
    serve(calm, made_of)
    assert published(seeded) == published(calm, since_hour=60)
    assert one.counters.outcomes["late"] + one.counters.outcomes["duplicate"] == len(again)


def test_an_input_that_goes_so_far_back_that_it_would_undo_the_seed_is_refused() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    history = fleet(range(60))
    kafka.written_ms = _ms(20)
    log(kafka, [one for one in history if one[1] >= 20])
    with pytest.raises(UsageError, match="readings partition 0: the input goes back to 2025-01-01T20:00"):
        seed(kafka, history, made_of)
    assert kafka.offsets == {}
    seed(kafka, [one for one in history if one[1] < 20], made_of)
    assert kafka.offsets == {0: 0}


def test_the_first_start_restores_every_partition_at_the_beginning_of_the_log_and_replays_nothing() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka(PARTITIONS)
    log(kafka, fleet(range(20)))
    kafka.retain(INPUT, 1, 5)
    seed(kafka, fleet(range(60), devices=1), made_of)
    assert kafka.offsets == {0: 0, 1: 5, 2: 0}
    restorer = made_of.restorer(FakeClient(kafka))
    for number in kafka.partitions:
        restored = restorer.restore(number)
        assert (restored.plan.recovery, restored.replayed) == (Recovery.RESTORED, 0)
        assert restored.partition.position == kafka.offsets[number]
        floor = decode_floor(newest(kafka, number)[f"group/{number}/floor"])
        assert floor.offset == kafka.offsets[number]
        assert [swap.checkpoint for swap in floor.swaps] == [MODEL.id]


def test_what_does_not_fit_the_rows_is_seeded_without_a_network() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    served = made_of.checkpoints()
    served.champion = "gone"
    shared = setup(pipeline=CONFIG, lineup=served)
    seed(kafka, fleet(range(20)), shared)
    assert [swap.checkpoint for swap in decode_floor(newest(kafka, 0)["group/0/floor"]).swaps] == [NO_CHECKPOINT]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_group_with_offsets_is_refused_and_its_state_stays(when: str) -> None:
    made_of, kafka = setup(pipeline=CONFIG), FakeKafka()
    one = seeder(kafka, made_of)
    if when == "meanwhile":
        one.refuse_used_group()
        one.seed(0, parts(fleet(range(20)), 0, 1))
    kafka.offsets[0] = 17
    floors = [key for key in newest(kafka, 0) if key.endswith("floor")]
    with pytest.raises(StateError, match="group group: has committed offset 17 of readings partition 0"):
        one.refuse_used_group() if when == "before" else one.finish()
    assert floors == []
    assert kafka.offsets == {0: 17}


def test_a_partition_that_got_an_offset_meanwhile_is_not_written() -> None:
    made_of, kafka = setup(pipeline=CONFIG), FakeKafka()
    one = seeder(kafka, made_of)
    one.refuse_used_group()
    kafka.offsets[0] = 0
    with pytest.raises(StateError, match="has committed offset 0"):
        one.seed(0, parts(fleet(range(20)), 0, 1))
    assert newest(kafka, 0) == {}


@pytest.mark.parametrize("members", [1, 2])
def test_a_group_with_live_members_is_refused(members: int) -> None:
    kafka = FakeKafka()
    client, group = FakeClient(kafka), FakeGroup(kafka)
    group.present = members
    one = Seeder(setup(pipeline=CONFIG).restorer(client), client, group)
    with pytest.raises(StateError, match=f"has {members} live member"):
        one.refuse_used_group()


def test_a_crash_in_the_middle_leaves_a_group_that_begins_new_and_the_next_seed_leaves_nothing_of_it_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seeding, "BYTES_PER_TRANSACTION", 1)
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka(PARTITIONS)
    monkeypatch.setattr("forecaster.serving.state.config.BLOCK_BYTES", 2 * (made_of.state_config().row_bytes + 64))
    history, more = fleet(range(60)), fleet(range(60), devices=30)
    first = seeder(kafka, made_of)
    first.refuse_used_group()
    dead = first.seed(0, parts(more, 0, PARTITIONS))
    assert dead.blocks > 2
    assert kafka.offsets == {}
    assert made_of.restorer(FakeClient(kafka)).plan(0).recovery == Recovery.NEW
    seed(kafka, history, made_of)
    again = FakeKafka(PARTITIONS)
    seed(again, history, made_of)
    for number in kafka.partitions:
        assert newest(kafka, number) == newest(again, number)
    assert any(one.value is None for one in kafka.logs[STATE, 0])


def test_a_transaction_that_failed_is_tried_again_from_the_partition_s_beginning() -> None:
    made_of, kafka, whole = setup(pipeline=CONFIG, model=MODEL), FakeKafka(), FakeKafka()
    history = fleet(range(30))
    one = seeder(kafka, made_of, "dropped", "", "dropped", "happened")
    with pytest.raises(TransientBrokerError, match="partition 0: its blocks were not written"):
        one.seed(0, parts(history, 0, 1))
    one.seed(0, parts(history, 0, 1))
    with pytest.raises(TransientBrokerError, match="its offsets were not committed"):
        one.finish()
    assert kafka.offsets == {}
    one.finish()
    seed(whole, history, made_of)
    assert newest(kafka, 0) == newest(whole, 0)
    assert kafka.offsets == whole.offsets == {0: 0}


def test_series_beyond_max_series_are_counted_and_begin_cold() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL, max_series=4), FakeKafka()
    [done] = seed(kafka, fleet(range(30), devices=9), made_of)
    assert (done.series, done.left_out) == (4, 5)
    assert done.outcomes[Outcome.STATELESS] > 0
    log(kafka, fleet(range(30, 32), devices=9))
    one = serve(kafka, made_of)
    assert one.counters.outcomes["stateless"] > 0
    checkpoints = {body["series_id"]: body["checkpoint"] for body in map(orjson.loads, published(kafka))}
    assert sorted(checkpoints.values()).count(MODEL.id) == 4
