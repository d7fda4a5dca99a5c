"""A checkpoint is available when it is complete and its hash fits; the newest order to serve counts."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable

import pytest
import torch
from builders import pipeline_config, random_checkpoint

from forecaster.core.checkpoint_ids import body_of
from forecaster.core.network.model import Checkpoint
from forecaster.errors import CheckpointError
from forecaster.formats import models
from forecaster.formats.checkpoints import PackedCheckpoint, pack, unpack
from forecaster.formats.models import (
    Decision,
    ServeOrder,
    decision_message,
    drift_message,
    publication,
    serve_message,
    tombstones,
)
from forecaster.records import Message
from forecaster.registry import registry as registries
from forecaster.registry.registry import DECISIONS_KEPT, ORPHAN_MS, SUPERSEDED_MS, ModelRegistry


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small network have several chunks."""
    monkeypatch.setattr(models, "CHUNK_BYTES", 4_000)


def checkpoint(name: str, seed: int = 0) -> Checkpoint:
    random = random_checkpoint(pipeline_config(), seed=seed)
    return Checkpoint(name, random.network, random.weights, random.readout, {"readings": 100 + seed})


def filled(messages: Iterable[Message], only: str = "", timestamp_ms: int = 0) -> tuple[ModelRegistry, list[str]]:
    """A registry of the messages, and the ids that they completed."""
    registry = ModelRegistry(only)
    return registry, fill(registry, messages, timestamp_ms)


def fill(registry: ModelRegistry, messages: Iterable[Message], timestamp_ms: int = 0) -> list[str]:
    completed = [registry.add(message.key, message.value, timestamp_ms) for message in messages]
    return [packed.description.id for packed in completed if packed is not None]


def serve(name: str, previous: str = "none") -> Message:
    return serve_message(ServeOrder(name, previous, "trainer", "2025-01-01T00:00:00+00:00", "better"))


def decision(name: str) -> Decision:
    return Decision(name, "none", True, 0.5, float("nan"), 100, "better", "2025-01-01T00:00:00+00:00")  # noqa: FBT003


def held_bytes(registry: ModelRegistry) -> int:
    return sum(entry.held_bytes for entry in registry._entries.values())  # noqa: SLF001 - the law is about what it holds


def test_a_published_checkpoint_is_read_as_it_was() -> None:
    original = checkpoint("a")
    messages = publication(original)
    assert len(messages) > 3
    assert all(len(message.value or b"") <= models.CHUNK_BYTES for message in messages[:-1])
    registry = ModelRegistry()
    (packed,) = filter(None, (registry.add(message.key, message.value, 7) for message in messages))
    checkpoint_read = unpack(packed, "a")
    assert (checkpoint_read.id, checkpoint_read.network, checkpoint_read.facts) == (
        original.id,
        original.network,
        original.facts,
    )
    assert torch.equal(checkpoint_read.readout, original.readout)
    published = registry.checkpoints["a"]
    assert (published.size, published.published_ms) == (len(pack(original).weights), 7)
    assert published.description.facts["readings"] == 100


def test_a_readout_belongs_to_its_body() -> None:
    assert body_of("2025-01-01T00-00-00Z-3f9a.12") == body_of("2025-01-01T00-00-00Z-3f9a")


def test_an_id_that_could_name_another_folder_is_refused() -> None:
    for name in ("../up", ".hidden", "a/b", ""):
        with pytest.raises(CheckpointError, match="an id consists of"):
            publication(checkpoint(name))
    messages = [Message(0, b"checkpoint/../up", publication(checkpoint("a"))[-1].value, [])]
    assert filled(messages)[0].checkpoints == {}


@pytest.mark.parametrize("seed", range(20))
def test_interleaved_checkpoints_are_each_completed_once(seed: int) -> None:
    dice = random.Random(seed)
    queues = [publication(checkpoint(name, number)) for number, name in enumerate(("a", "b", "b.1", "c"))]
    mixed: list[Message] = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(dice.choice(queues).pop(0))
    registry, completed = filled(mixed)
    assert sorted(completed) == sorted(registry.checkpoints) == ["a", "b", "b.1", "c"]


def test_records_of_a_checkpoint_complete_it_in_any_order() -> None:
    messages = publication(checkpoint("a"))
    random.Random(1).shuffle(messages)
    assert filled(messages)[1] == ["a"]


@pytest.mark.parametrize("missing", [0, 2, -1])
def test_a_checkpoint_without_one_of_its_records_is_unavailable(missing: int) -> None:
    messages = publication(checkpoint("a"))
    del messages[missing]
    registry, completed = filled(messages)
    assert (dict(registry.checkpoints), completed) == ({}, [])
    assert "incomplete" in registry.why_unavailable("a")
    assert "not on the topic" in registry.why_unavailable("b")


def test_a_damaged_checkpoint_is_unavailable_until_it_is_published_again() -> None:
    messages = publication(checkpoint("a"))
    chunk = bytearray(messages[1].value or b"")
    chunk[5] ^= 1
    broken = [messages[0], messages[1]._replace(value=bytes(chunk)), *messages[2:]]
    registry, completed = filled([*broken, *publication(checkpoint("b"))])
    assert completed == ["b"]
    assert list(registry.checkpoints) == ["b"]
    assert "damaged" in registry.faults["a"]
    assert fill(registry, messages) == ["a"]
    assert not registry.faults
    assert set(registry.checkpoints) == {"a", "b"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"schema": 9}, "schema 9"), ({"id": "b"}, "that of b"), ({"chunks": "x"}, "int"), ({"surprise": 1}, "surprise")],
)
def test_an_unusable_description_is_a_fault_of_its_checkpoint_alone(change: dict[str, object], fault: str) -> None:
    messages = publication(checkpoint("a"))
    described = json.loads(messages[-1].value or b"")
    messages[-1] = messages[-1]._replace(value=json.dumps({**described, **change}).encode())
    registry, completed = filled([*messages, *publication(checkpoint("c"))])
    assert completed == ["c"]
    assert fault in registry.faults["a"]


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"checkpoint", b"checkpoint/", b"checkpoint/a/x", b"other/a"])
def test_records_with_unknown_keys_are_ignored(key: bytes | None) -> None:
    registry = ModelRegistry()
    assert registry.add(key, b"anything", 0) is None
    assert not registry.checkpoints
    assert not registry.faults


def test_the_newest_order_to_serve_counts() -> None:
    registry, _ = filled([serve("a"), serve("b", "a")])
    assert registry.serve is not None
    assert (registry.serve.checkpoint, registry.serve.previous) == ("b", "a")
    fill(registry, [serve("a", "b")])
    assert registry.serve.checkpoint == "a"


def test_an_unreadable_order_to_serve_is_reported_and_changes_nothing() -> None:
    registry, _ = filled([serve("a")])
    newer = json.loads(serve("b").value or b"") | {"schema": 2}
    for value in (b"{", json.dumps(newer).encode()):
        registry.add(b"serve", value, 0)
        assert registry.serve is not None
        assert registry.serve.checkpoint == "a"
        assert "serve" in registry.problems
    fill(registry, [serve("b")])
    assert not registry.problems


def test_a_decision_is_read_as_it_was_written() -> None:
    """A loss that is not finite becomes None."""
    registry, _ = filled([decision_message(decision("a"))])
    read = registry.decisions["a"]
    assert (read.challenger_loss, read.champion_loss, read.promoted) == (0.5, None, True)


def test_the_registry_keeps_no_weights_of_complete_checkpoints() -> None:
    registry = ModelRegistry()
    for number in range(20):
        fill(registry, publication(checkpoint(f"c-{number}", number)))
        assert held_bytes(registry) == 0
    assert len(registry.checkpoints) == 20


def test_incomplete_checkpoints_take_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "MAX_PENDING_BYTES", 30_000)
    registry = ModelRegistry()
    for number in range(20):
        fill(registry, publication(checkpoint(f"c-{number}", number))[:-1])
        assert held_bytes(registry) <= 30_000
    last = publication(checkpoint("c-19", 19))[-1:]
    assert fill(registry, last) == ["c-19"]


def test_a_checkpoint_too_large_to_hold_is_assembled_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The registry lists it all the same."""
    monkeypatch.setattr(registries, "MAX_PENDING_BYTES", 5_000)
    messages = [*publication(checkpoint("a")), *publication(checkpoint("b", 1))]
    registry, completed = filled(messages)
    assert completed == []
    assert set(registry.checkpoints) == {"a", "b"}
    asked, completed = filled(messages, only="b")
    assert completed == ["b"]
    assert held_bytes(asked) == 0


def test_tombstones_remove_all_of_a_checkpoint() -> None:
    messages = publication(checkpoint("a"))
    registry, _ = filled([*messages, *tombstones("a", range(len(messages) - 1))])
    assert not registry.checkpoints
    assert not registry._entries  # noqa: SLF001 - the law is about what it holds


def test_the_newest_bodies_and_the_serving_checkpoints_stay() -> None:
    """Of a body that stays, the first checkpoint and the newest readout do."""
    names = ["a", "b", "b.1", "b.2", "c", "d", "d.1", "d.2", "e"]
    registry, _ = filled(message for name in names for message in publication(checkpoint(name)))
    assert set(registry.to_remove(2)) == {"a", "b", "b.1", "b.2", "c", "d.1"}
    fill(registry, [serve("b.2", "a")])
    assert set(registry.to_remove(2)) == {"b", "b.1", "c", "d.1"}
    assert set(registry.to_remove(0)) == set(names) - {"a", "b.2"}
    fill(registry, registry.cleanup_tombstones(2))
    assert set(registry.checkpoints) == {"a", "b.2", "d", "d.2", "e"}


def test_a_checkpoint_that_served_within_a_day_stays() -> None:
    """Floors may name it."""
    names = ["a", "a.1-0000", "a.2-0000", "a.3-0000"]
    registry, _ = filled(message for name in names for message in publication(checkpoint(name)))
    for before, name in itertools.pairwise(names):
        fill(registry, [serve(name, before)], timestamp_ms=1)
    assert registry.to_remove(0) == {}
    fill(registry, [serve("a.3-0000", "a.2-0000")], timestamp_ms=SUPERSEDED_MS + 1)
    assert set(registry.to_remove(0)) == {"a", "a.1-0000"}
    assert set(registry.to_remove(0, 2 * SUPERSEDED_MS)) == set(), "floors that are written seldom may name them"


def test_drift_is_known_until_a_training_removes_its_records() -> None:
    registry, _ = filled([drift_message(3), drift_message(0), drift_message(3)])
    assert registry.has_drifted
    answered = registry.drift_tombstones()
    assert [(message.key, message.value) for message in answered] == [(b"drift/0", None), (b"drift/3", None)]
    fill(registry, answered)
    assert not registry.has_drifted


def test_chunks_without_a_description_go_only_after_a_while() -> None:
    on_its_way = publication(checkpoint("a"))[:-1]
    registry, _ = filled(on_its_way)
    assert registry.to_remove(1) == {}
    fill(registry, publication(checkpoint("b")), timestamp_ms=ORPHAN_MS + 1)
    assert registry.to_remove(1) == {"a": list(range(len(on_its_way)))}


def test_old_decisions_go_and_recent_ones_stay() -> None:
    registry, _ = filled(decision_message(decision(f"c-{number}")) for number in range(DECISIONS_KEPT + 5))
    fill(registry, registry.cleanup_tombstones(3))
    assert list(registry.decisions) == [f"c-{number}" for number in range(5, DECISIONS_KEPT + 5)]


def test_weights_that_do_not_fit_their_network_are_refused() -> None:
    small, other = pack(checkpoint("a")), random_checkpoint(pipeline_config(), hidden_size=24)
    weights = pack(Checkpoint("a", other.network, other.weights, other.readout, {}))
    mixed = PackedCheckpoint(
        type(small.description)(1, "a", weights.description.sha256, small.description.network, {}), weights.weights
    )
    with pytest.raises(CheckpointError, match="do not fit"):
        unpack(mixed, "a")
