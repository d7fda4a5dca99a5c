"""Whatever the state topic holds is used as valid content, or refused with a reason.

No record of this topic ends a worker, lets it loop, or takes more memory than it has bytes. The records here have
right hashes: only their content is absurd.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import HOUR_MS, START_MS, Lineup, pipeline_config, random_model
from fakes import INPUT, STATE, FakeClient, FakeKafka
from setups import setup
from stored_content import DOSE, FULL, MAX_GROWTH_BYTES, Mutator, chosen, hashed, peak_bytes

from forecaster.core.arrays import take
from forecaster.errors import StateError, TopicError
from forecaster.formats.readings import InputSchema
from forecaster.formats.state import Event, Swap, decode_floor, encode
from forecaster.pipeline import PipelineConfig
from forecaster.serving.state import config as state_config
from forecaster.serving.worker import Worker

FILTERS = ("range", "hampel", "stuck", "ewma", "kalman")
INPUT_0 = (INPUT, 0)
MANY = 60
"""Iterations after which a worker that has not opened its partition goes round in circles."""

pytestmark = pytest.mark.usefixtures("one_thread")


class StoredWorld:
    """A partition whose state is stored: a few blocks, and a floor with an event and a swap that is under way.

    Args:
        pipeline: pipeline of the readings.
        fields: fields of each record; empty = each series is its own group.
    """

    def __init__(self, pipeline: PipelineConfig, fields: tuple[str, ...] = ()) -> None:
        self.pipeline, self.fields = pipeline, fields
        self.hour = 0
        old, new = random_model(pipeline), random_model(pipeline, seed=1)
        self.lineup = Lineup(old, new)
        self.lineup.serve(old)
        self.kafka = FakeKafka()
        worker = self.started(self.kafka)
        for hours in (4, 1):
            self.feed(self.kafka, hours)
            worker.iterate()
        worker.flush()
        self.feed(self.kafka, 1)
        worker.iterate()
        self.lineup.serve(new)
        stored = {record.key or b"": record.value or b"" for record in self.kafka.logs[STATE, 0]}
        floor = decode_floor(stored[b"group/0/floor"])
        floor = msgspec.structs.replace(
            floor,
            events=[Event(floor.offset + 1, full=False, freed=["pump-1"])],
            swaps=[*floor.swaps, Swap(floor.offset, new.id, slots=3, stride=1)],
        )
        stored[b"group/0/floor"] = encode(floor)
        self.stored = {key: value for key, value in stored.items() if value}

    def feed(self, kafka: FakeKafka, hours: int) -> None:
        """Append readings of three pumps."""
        for hour in range(self.hour, self.hour + hours):
            for pump in range(3):
                value = f'"value": {(hour * 7 + pump) % 11}'
                if self.fields:
                    value = ", ".join(f'"{name}": {(hour * 7 + pump) % 11}' for name in self.fields)
                body = f'{{"timestamp": {START_MS + hour * HOUR_MS}, {value}}}'
                kafka.append(0, body.encode(), b"pump-%d" % pump)
        self.hour += hours

    def started(self, kafka: FakeKafka, policy: str = "fail") -> Worker:
        """Return a worker that has not restored its partition yet."""
        schema = InputSchema(value_fields=self.fields) if self.fields else InputSchema()
        options: dict[str, Any] = {"group_size": max(1, len(self.fields)), "member_bytes": 4 if self.fields else 0}
        return setup(
            pipeline=self.pipeline, lineup=self.lineup, policy=policy, schema=schema, replay_limit=6, **options
        ).worker(FakeClient(kafka))

    def with_records(self, records: list[tuple[bytes | None, bytes | None]]) -> FakeKafka:
        """Return the Kafka of this world, whose state topic holds other records."""
        kafka = FakeKafka()
        kafka.logs, kafka.ends = {INPUT_0: list(self.kafka.logs[INPUT_0])}, {INPUT_0: self.kafka.ends[INPUT_0]}
        kafka.offsets = dict(self.kafka.offsets)
        for key, value in records:
            kafka.append(0, value, key, STATE)
        return kafka


def worlds(monkeypatch: pytest.MonkeyPatch) -> list[StoredWorld]:
    monkeypatch.setattr(state_config, "BLOCK_BYTES", 5_000)
    fixed = pipeline_config(horizon=3, context=8)
    learned = replace(pipeline_config(horizon=3, context=8, chain=FILTERS, interval_ms=0), heads=3)
    return [StoredWorld(fixed), StoredWorld(learned), StoredWorld(fixed, ("a", "b"))]


def mutated_records(world: StoredWorld, mutator: Mutator) -> list[tuple[bytes | None, bytes | None]]:
    """Return the records of the state topic with a few of them changed, added or removed."""
    dice, records = mutator.dice, list[tuple[bytes | None, bytes | None]](world.stored.items())
    place = dice.randrange(len(records))
    key, value = records[place]
    assert key is not None
    assert value is not None
    body = msgspec.msgpack.decode(value[16:])

    def odd_key() -> bytes | None:
        name = dice.choice(["999999999999", "9" * 30, "007", "²", "-1", "", "floor/0", "0", "1", "1e3", "999999999"])
        return dice.choice([f"group/0/{name}".encode(), f"other/0/{name}".encode(), b"\xff\xfe/0/1", None, b"group/0"])

    def replaced_by(value: bytes | None) -> None:
        records[place] = (key, value)

    chosen(
        dice,
        [
            (70, lambda: replaced_by(hashed(msgspec.msgpack.encode(mutator.changed(body))))),
            (6, lambda: replaced_by(hashed(mutator.damaged(value[16:])))),
            (1, lambda: replaced_by(mutator.damaged(value))),
            (1, lambda: replaced_by(hashed(mutator.nested(b"\x91")))),
            (1, lambda: replaced_by(hashed(b"\x82\xa6schema\x01\xa1x" + mutator.nested(b"\x81\xa1x")))),
            (8, lambda: records.append((odd_key(), value))),
            (3, lambda: records.append((odd_key(), None))),
            (3, lambda: replaced_by(None)),
            (3, lambda: replaced_by(dice.choice(list(world.stored.values())))),
            (3, lambda: replaced_by(hashed(msgspec.msgpack.encode(body | bomb(dice, body))))),
            (1, lambda: records.reverse()),
        ],
    )
    return records


def bomb(dice: random.Random, body: dict[str, Any]) -> dict[str, Any]:
    """Return fields that claim to be far larger than their bytes."""
    array = {"type": dice.choice(["float32", "int64", "object"]), "data": b""}
    shape = dice.choice([[2**40, 2**40], [0, 2**62], [2**63, 2], [], [-1, 5], [2**31]])
    many = [str(number) for number in range(20_000)]
    return dice.choice(
        [
            {"arrays": {name: {**array, "shape": shape} for name in body.get("arrays", ["hidden"])}},
            {"series_ids": many, "groups": []},
            {"series_ids": [], "arrays": {name: {**array, "shape": shape} for name in body.get("arrays", ["hidden"])}},
            {"events": [{"offset": 40, "closed": True, "freed": []}] * 20_000},
            {"swaps": [{"offset": 30, "checkpoint": "random-1", "slots": dice.choice([0, 2**61]), "stride": 2**61}]},
            {"swaps": [{"offset": 30, "checkpoint": f"c-{number}"} for number in range(2_000)]},
        ]
    )


def outcome_of_state(world: StoredWorld, kafka: FakeKafka, policy: str, *, twice: bool) -> str:
    """Start a worker and serve readings; if `twice`, do it again on what was written. Return how the worker began."""
    worker = world.started(kafka, policy)
    try:
        opened(worker)
    except (StateError, TopicError):
        return "refused"
    partition = worker._store.partitions[0]  # noqa: SLF001 - the law is about what it holds
    how = worker._store.restore_result(0).plan.recovery.value  # noqa: SLF001
    world.feed(kafka, 1)
    worker.iterate()
    assert_valid(world, worker)
    assert len(partition.table) > 0
    if twice:
        while worker._store.dirty_writes():  # noqa: SLF001
            worker.flush()
        again = world.started(kafka)
        opened(again)
        assert_valid(world, again)
    return str(how)


def opened(worker: Worker) -> None:
    for _ in range(MANY):
        worker.iterate()
        if 0 in worker._store.partitions:  # noqa: SLF001
            return
    raise AssertionError("the partition does not open")


def assert_valid(world: StoredWorld, worker: Worker) -> None:
    table = worker._store.partitions[0].table  # noqa: SLF001
    rows = take(table.state, np.flatnonzero(table.used))
    assert world.pipeline.shape(rows.hidden.shape[1]).invalid(rows) == ""
    for topic, _, value in worker._consumer.kafka.published:  # type: ignore[attr-defined]  # noqa: SLF001
        assert topic != "forecasts" or b"null" not in value, value


def mutated_outcome(world: StoredWorld, seed: int) -> str:
    """Return how a worker begins with mutated state; the world stays as it is."""
    mutator, hour = Mutator(seed), world.hour
    dice = mutator.dice
    kafka = world.with_records(mutated_records(world, mutator))
    if dice.random() < 0.6:
        kafka.retain(INPUT, 0, dice.choice([1, 9, 14]))
    try:
        policy = dice.choice(["fail", "resume-cold", "resume-stale"])
        return outcome_of_state(world, kafka, policy, twice=seed % 4 == 0)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        world.hour = hour


@pytest.mark.parametrize("count", [DOSE, pytest.param(FULL, marks=pytest.mark.slow)])
def test_stored_state_is_used_as_valid_rows_or_refused(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    all_worlds, outcomes = worlds(monkeypatch), Counter[str]()
    for world in all_worlds:
        hour = world.hour
        kafka = world.with_records(list(world.stored.items()))
        assert outcome_of_state(world, kafka, "fail", twice=True) == "restored", "without a change"
        world.hour = hour
    before = peak_bytes()
    for seed in range(count):
        outcomes[mutated_outcome(all_worlds[seed % len(all_worlds)], seed)] += 1
    assert {"restored", "rebuilt", "refused", "cold", "stale"} <= outcomes.keys()
    assert peak_bytes() - before < MAX_GROWTH_BYTES
