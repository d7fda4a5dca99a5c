"""Whatever the models topic holds is used as valid content, or refused with a reason.

No record of this topic ends a worker, lets it loop, or takes more memory than it has bytes. The records here have
right hashes: only their content is absurd.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import HOUR_MS, START_MS, pipeline_config, random_checkpoint, with_local_readouts
from fakes import MODELS, FakeClient, FakeKafka, FakeReader
from stored_content import ABSURD_TEXTS, DOSE, FULL, MAX_GROWTH_BYTES, Mutator, as_json, chosen, peak_bytes

from forecaster.core.network.model import Checkpoint
from forecaster.errors import CheckpointError
from forecaster.formats.models import (
    Decision,
    ServeOrder,
    decision_message,
    drift_message,
    iso_time,
    publication,
    serve_message,
)
from forecaster.pipeline import Batch, advance
from forecaster.records import Readings
from forecaster.registry import registry as registries
from forecaster.registry.cache import CheckpointCache
from forecaster.registry.follower import RegistryFollower
from forecaster.registry.orders import promotion_order, rollback_order

pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert peak_bytes() - before < MAX_GROWTH_BYTES


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
