"""Whatever the state topic and the models topic hold is used as valid content, or refused with a reason.

No record of these topics ends a worker, lets it loop, or takes more memory than it has bytes. The records here have
right hashes: only their content is absurd.
"""

from __future__ import annotations

import hashlib
import random
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from builders import HOUR_MS, START_MS, Lineup, pipeline_config, random_checkpoint, random_model, with_local_readouts
from fakes import INPUT, MODELS, STATE, FakeClient, FakeKafka, FakeReader
from setups import setup
from stored_content import ABSURD_TEXTS, Mutator, as_json, chosen, hashed

from forecaster.core.arrays import take
from forecaster.core.network.model import Checkpoint
from forecaster.errors import CheckpointError, StateError, TopicError
from forecaster.formats.models import (
    Decision,
    ServeOrder,
    decision_message,
    drift_message,
    iso_time,
    publication,
    serve_message,
)
from forecaster.formats.readings import InputSchema
from forecaster.formats.state import Event, Swap, decode_floor, encode
from forecaster.pipeline import Batch, PipelineConfig, advance
from forecaster.records import Readings
from forecaster.registry import registry as registries
from forecaster.registry.cache import CheckpointCache
from forecaster.registry.follower import RegistryFollower
from forecaster.registry.orders import promotion_order, rollback_order
from forecaster.serving.state import config as state_config
from forecaster.serving.worker import Worker

FILTERS = ("range", "hampel", "stuck", "ewma", "kalman")
DOSE, FULL = 250, 10_000
MANY = 60
"""Iterations after which a worker that has not opened its partition goes round in circles."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def peak_bytes() -> int:
    """Return the most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# The state topic


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


INPUT_0 = (INPUT, 0)


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
    assert peak_bytes() - before < 200 * 2**20


# The models topic


class ModelsWorld:
    """A models topic with a few checkpoints, decisions, drift alarms, and an order to serve."""

    def __init__(self) -> None:
        self.pipeline = pipeline_config(horizon=3, context=8)
        local = with_local_readouts(random_checkpoint(self.pipeline, seed=2), [["pump-0", "pump-1"], ["pump-2"]])
        relu = random_checkpoint(self.pipeline, cell="rnn", nonlinearity="relu", seed=3)
        self.network = relu.network
        self.checkpoints = [
            named("a", random_checkpoint(self.pipeline, seed=1)),
            named("a.1-beef", local),
            named("b", relu),
        ]
        at = "2025-01-01T00:00:00+00:00"
        self.records = [
            *(message for checkpoint in self.checkpoints for message in publication(checkpoint)),
            drift_message(0),
            decision_message(
                Decision(
                    "b",
                    "a.1-beef",
                    promoted=True,
                    challenger_loss=0.5,
                    champion_loss=0.6,
                    scored=9,
                    reason="better",
                    at=at,
                )
            ),
            serve_message(ServeOrder("b", "a.1-beef", "trainer", at, "better")),
        ]

    def follower(self, records: list[tuple[bytes | None, bytes | None]]) -> RegistryFollower:
        kafka = FakeKafka()
        for key, value in records:
            kafka.append(0, value, key, MODELS)
        reader = FakeReader(FakeClient(kafka))
        return RegistryFollower(reader, MODELS, CheckpointCache(None), self.network)  # type: ignore[arg-type]


def named(name: str, checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, id=name, facts={"readings": 7, "seen_until_ms": START_MS})


def mutated_models(world: ModelsWorld, mutator: Mutator) -> list[tuple[bytes | None, bytes | None]]:
    """Return the records of the models topic with a few of them changed, added or removed."""
    dice = mutator.dice
    records = [(message.key, message.value) for message in world.records]
    place = dice.randrange(len(records))
    key, value = records[place]
    assert key is not None
    assert value is not None
    is_chunk = value[:1] != b"{"

    def put(new: bytes | None) -> None:
        records[place] = (key, new)

    def put_changed() -> None:
        if is_chunk:
            put_weights(other_weights(mutator, value))
        else:
            put(as_json(mutator.changed(msgspec.json.decode(value))))

    def put_weights(weights: bytes) -> None:
        """Replace the weights, and their hash in the description."""
        put(weights)
        name = key.rpartition(b"/")[0] if is_chunk else key
        for number, (other, description) in enumerate(records):
            if other == name and is_chunk:
                assert description is not None
                body = msgspec.json.decode(description) | {"sha256": hashlib.sha256(weights).hexdigest()}
                records[number] = (other, as_json(body))

    def odd_key() -> bytes | None:
        name = dice.choice(["a", "b", "c", "none", "-", "a" * 300, "a/b", "..", "é"])
        number = dice.choice(["0", "1", "9999", "999999999", "-1", "007", "²", "", "x"])
        kind = dice.choice(["checkpoint", "decision", "drift", "serve", "other"])
        return dice.choice(
            [f"{kind}/{name}/{number}".encode(), f"{kind}/{name}".encode(), kind.encode(), b"\xff", None]
        )

    chosen(
        dice,
        [
            (60, put_changed),
            (8, lambda: put_weights(mutator.damaged(value))),
            (2, lambda: put(mutator.damaged(value))),
            (2, lambda: put(mutator.nested(b"["))),
            (2, lambda: put(b'{"schema": 1, "facts": ' + mutator.nested(b'{"a":'))),
            (10, lambda: records.append((odd_key(), dice.choice([None, value, b"", b"{}", b"null", b"\xff\xfe"])))),
            (3, lambda: put(None)),
            (3, lambda: put(dice.choice(world.records).value)),
            (2, lambda: put(as_json(msgspec.json.decode(value) | claims(dice)) if not is_chunk else value)),
            (2, lambda: records.append((b"serve", as_json(order(dice))))),
            (2, lambda: dice.shuffle(records)),
        ],
    )
    return records


def claims(dice: random.Random) -> dict[str, Any]:
    """Return parts of a description that ask for more than any memory."""
    network = {"horizons": [1, 2, 3], "quantile_levels": [0.1, 0.5, 0.9]}
    size = dice.choice([16_000, 10**9, 2**62])
    return dice.choice(
        [
            {"network": network | {dice.choice(["hidden_size", "layers", "convolution"]): size}},
            {"network": network | {"horizons": list(range(1, 100_000))}},
            {"network": network | {"features": {"context": size}}},
            {"own": {"series_ids": ["a"], "member": [0], "members": size}},
            {"own": {"series_ids": ["a"] * 50_000, "member": [0] * 50_000, "members": 1}},
            {"chunks": dice.choice([-1, 0, size, True, 1.0, "1", None])},
        ]
    )


def order(dice: random.Random) -> dict[str, Any]:
    """Return an order to serve, of any names."""
    names = [*ABSURD_TEXTS, "a", "a.1-beef", "b", "nobody"]
    at = dice.choice(["", "2025", "x" * 1000])
    return {
        "checkpoint": dice.choice(names),
        "previous": dice.choice(names),
        "by": "operator",
        "at": at,
        "reason": "\x1b[2J",
    }


def other_weights(mutator: Mutator, weights: bytes) -> bytes:
    """Return weights in the format safetensors with another header, or other numbers."""
    dice, length = mutator.dice, int.from_bytes(weights[:8], "little")
    header, data = msgspec.json.decode(weights[8 : 8 + length]), weights[8 + length :]
    if dice.random() < 0.4:
        header = mutator.changed(header)
    elif dice.random() < 0.7:
        numbers = np.frombuffer(data, np.float32).copy()
        at = dice.randrange(len(numbers))
        numbers[at : at + dice.choice([1, 1, 40, 10**6])] *= np.float32(
            dice.choice([np.nan, np.inf, -1e20, 1e38, 1e-45, -3e4, 0])
        )
        data = numbers.tobytes()
    else:
        data = mutator.damaged(data)
    text = as_json(header)
    return len(text).to_bytes(8, "little") + text + data


def outcome_of_models(world: ModelsWorld, follower: RegistryFollower) -> str:
    """Read the topic, serve the champion, and ask for all that operators can see; return what happened."""
    follower.catch_up()
    model = follower.champion_model()
    assert (model is None) == (follower.champion == "none")
    follower.refresh()
    forecast_with(world, model)
    registry = follower.registry
    assert all(registry.faults.values())
    assert all(registry.problems.values())
    msgspec.json.encode([registry.serve, list(registry.decisions.values())])
    msgspec.json.encode([checkpoint.description for checkpoint in registry.checkpoints.values()])
    assert all(iso_time(checkpoint.published_ms) for checkpoint in registry.checkpoints.values())
    assert len([*registry.cleanup_tombstones(0, 0), *registry.drift_tombstones()]) < 100
    for name in ("a", "a.1-beef", "b", "none"):
        with suppress(CheckpointError):
            promotion_order(registry, name, world.network, "now")
    with suppress(CheckpointError):
        rollback_order(registry, world.network, "now")
    if follower.champion == "b":
        return "served, beside a fault" if registry.faults else "served"
    return "the one before serves" if follower.champion != "none" else "none serves"


def forecast_with(world: ModelsWorld, model: Any) -> None:
    """Make a few forecasts with a model: all of them are finite."""
    state = world.pipeline.shape(0 if model is None else model.state_size).empty(3)
    for hour in range(2):
        readings = Readings(
            [f"pump-{pump}" for pump in range(3)],
            np.full(3, START_MS + hour * HOUR_MS),
            np.array([1.0, -1e30, 20.0]) * (hour + 1),
            np.arange(3),
        )
        outputs = advance(world.pipeline, [model], state, Batch.of_one_model(readings, np.arange(3)))
        assert np.isfinite(outputs.forecasts.point).all()
        assert np.isfinite(outputs.forecasts.quantiles).all()
    assert world.pipeline.shape(state.hidden.shape[1]).invalid(state) == ""


@pytest.mark.parametrize("count", [DOSE, pytest.param(FULL, marks=pytest.mark.slow)])
def test_checkpoints_are_served_with_finite_forecasts_or_refused(count: int) -> None:
    world, outcomes = ModelsWorld(), Counter[str]()
    unchanged = [(message.key, message.value) for message in world.records]
    assert outcome_of_models(world, world.follower(unchanged)) == "served"
    before = peak_bytes()
    for seed in range(count):
        outcomes[mutated_models_outcome(world, seed)] += 1
    assert {"served", "served, beside a fault", "the one before serves", "none serves"} <= outcomes.keys()
    assert peak_bytes() - before < 200 * 2**20


def mutated_models_outcome(world: ModelsWorld, seed: int) -> str:
    """Return what a follower makes of a mutated topic."""
    try:
        return outcome_of_models(world, world.follower(mutated_models(world, Mutator(seed))))
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def test_a_flood_of_records_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither alarms, ids, decisions nor chunks without a description stay in memory for ever."""
    monkeypatch.setattr(registries, "MAX_KNOWN", 50)
    monkeypatch.setattr(registries, "MAX_CHUNKS_KNOWN", 80)
    world, registry = ModelsWorld(), registries.ModelRegistry()
    for message in world.records:
        registry.add(message.key, message.value, START_MS)
    decided = decision_message(Decision("x", "none", False, None, None, 0, "no", "now")).value  # noqa: FBT003
    for number in range(500):
        registry.add(f"drift/{number}".encode(), b"{}", START_MS)
        registry.add(f"checkpoint/flood-{number}/0".encode(), b"x", START_MS)
        registry.add(f"checkpoint/flood/{number}".encode(), b"x", START_MS)
        registry.add(f"decision/flood-{number}".encode(), decided, START_MS)
        registry.add(f"decision/bad-{number}".encode(), b"{", START_MS)
    assert len(registry.drift_tombstones()) <= 50
    assert len(registry.decisions) <= 50
    assert len(registry.problems) <= 50
    assert len(registry._entries) <= 50  # noqa: SLF001 - the law is about what it holds
    assert sum(len(entry.sizes) for entry in registry._entries.values()) <= 80  # noqa: SLF001
    assert {"b", "a.1-beef"} <= registry.checkpoints.keys(), "what serves stays"
