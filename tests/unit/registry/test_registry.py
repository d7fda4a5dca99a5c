"""The models topic: a checkpoint is there when it is whole and its hash fits; the newest word on serving counts."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable

import pytest
import torch
from builders import pipeline_config, random_checkpoint

from forecaster.core.network.model import Checkpoint
from forecaster.errors import CheckpointError
from forecaster.formats import models
from forecaster.formats.checkpoints import PackedCheckpoint, pack, unpack
from forecaster.formats.models import (
    Decision,
    Serve,
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
    """A small network has several chunks, too."""
    monkeypatch.setattr(models, "CHUNK_BYTES", 4_000)


def checkpoint(name: str, seed: int = 0) -> Checkpoint:
    made = random_checkpoint(pipeline_config(), seed=seed)
    return Checkpoint(name, made.network, made.weights, made.readout, {"readings": 100 + seed})


def filled(messages: Iterable[Message], only: str = "", timestamp_ms: int = 0) -> tuple[ModelRegistry, list[str]]:
    """A catalogue of the messages, and the ids that they made whole."""
    registry = ModelRegistry(only)
    return registry, fill(registry, messages, timestamp_ms)


def fill(registry: ModelRegistry, messages: Iterable[Message], timestamp_ms: int = 0) -> list[str]:
    whole = [registry.add(one.key, one.value, timestamp_ms) for one in messages]
    return [one.description.id for one in whole if one is not None]


def serve(name: str, previous: str = "none") -> Message:
    return serve_message(Serve(name, previous, "trainer", "2025-01-01T00:00:00+00:00", "better"))


def decision(name: str) -> Decision:
    return Decision(name, "none", True, 0.5, float("nan"), 100, "better", "2025-01-01T00:00:00+00:00")  # noqa: FBT003


def held_bytes(registry: ModelRegistry) -> int:
    return sum(entry.held_bytes for entry in registry._entries.values())  # noqa: SLF001 - the law is about what it holds


def test_a_published_checkpoint_is_read_as_it_was() -> None:
    original = checkpoint("a")
    messages = publication(original)
    assert len(messages) > 3
    assert all(len(one.value or b"") <= models.CHUNK_BYTES for one in messages[:-1])
    registry = ModelRegistry()
    (packed,) = [one for one in (registry.add(m.key, m.value, 7) for m in messages) if one is not None]
    found = unpack(packed, "a")
    assert (found.id, found.network, found.facts) == (original.id, original.network, original.facts)
    assert torch.equal(found.readout, original.readout)
    published = registry.checkpoints["a"]
    assert (published.size, published.published_ms) == (len(pack(original).weights), 7)
    assert published.description.facts["readings"] == 100


def test_a_readout_belongs_to_its_body() -> None:
    assert checkpoint("2025-01-01T00-00-00Z-3f9a.12").body == checkpoint("2025-01-01T00-00-00Z-3f9a").body


def test_an_id_that_could_name_another_folder_is_not_published_and_not_read() -> None:
    for name in ("../up", ".hidden", "a/b", ""):
        with pytest.raises(CheckpointError, match="an id is made of"):
            publication(checkpoint(name))
    messages = [Message(0, b"checkpoint/../up", publication(checkpoint("a"))[-1].value, [])]
    assert filled(messages)[0].checkpoints == {}


@pytest.mark.parametrize("seed", range(20))
def test_chunks_in_any_interleaving_with_other_checkpoints_make_each_whole_once(seed: int) -> None:
    dice = random.Random(seed)
    queues = [publication(checkpoint(name, number)) for number, name in enumerate(("a", "b", "b.1", "c"))]
    mixed: list[Message] = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(dice.choice(queues).pop(0))
    registry, whole = filled(mixed)
    assert sorted(whole) == sorted(registry.checkpoints) == ["a", "b", "b.1", "c"]


def test_records_of_one_checkpoint_in_any_order_make_it_whole() -> None:
    messages = publication(checkpoint("a"))
    random.Random(1).shuffle(messages)
    assert filled(messages)[1] == ["a"]


@pytest.mark.parametrize("missing", [0, 2, -1])
def test_a_checkpoint_without_one_of_its_records_is_not_there(missing: int) -> None:
    messages = publication(checkpoint("a"))
    del messages[missing]
    registry, whole = filled(messages)
    assert (dict(registry.checkpoints), whole) == ({}, [])
    assert "incomplete" in registry.why_unavailable("a")
    assert "not on the topic" in registry.why_unavailable("b")


def test_a_damaged_checkpoint_is_reported_and_not_there_until_it_is_published_again() -> None:
    messages = publication(checkpoint("a"))
    chunk = bytearray(messages[1].value or b"")
    chunk[5] ^= 1
    broken = [messages[0], messages[1]._replace(value=bytes(chunk)), *messages[2:]]
    registry, whole = filled([*broken, *publication(checkpoint("b"))])
    assert whole == ["b"]
    assert list(registry.checkpoints) == ["b"]
    assert "damaged" in registry.faults["a"]
    assert fill(registry, messages) == ["a"]
    assert not registry.faults
    assert set(registry.checkpoints) == {"a", "b"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"schema": 9}, "schema 9"), ({"id": "b"}, "that of b"), ({"chunks": "x"}, "int"), ({"surprise": 1}, "surprise")],
)
def test_a_description_that_cannot_be_used_is_a_fault_of_its_checkpoint_alone(
    change: dict[str, object], fault: str
) -> None:
    messages = publication(checkpoint("a"))
    described = json.loads(messages[-1].value or b"")
    messages[-1] = messages[-1]._replace(value=json.dumps({**described, **change}).encode())
    registry, whole = filled([*messages, *publication(checkpoint("c"))])
    assert whole == ["c"]
    assert fault in registry.faults["a"]


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"checkpoint", b"checkpoint/", b"checkpoint/a/x", b"other/a"])
def test_a_key_that_is_none_of_ours_is_passed_over(key: bytes | None) -> None:
    registry = ModelRegistry()
    assert registry.add(key, b"anything", 0) is None
    assert not registry.checkpoints
    assert not registry.faults


def test_the_newest_word_on_serving_counts() -> None:
    registry, _ = filled([serve("a"), serve("b", "a")])
    assert registry.serve is not None
    assert (registry.serve.checkpoint, registry.serve.previous) == ("b", "a")
    fill(registry, [serve("a", "b")])
    assert registry.serve.checkpoint == "a"


def test_a_word_on_serving_that_cannot_be_read_changes_nothing_and_is_reported() -> None:
    registry, _ = filled([serve("a")])
    newer = json.loads(serve("b").value or b"") | {"schema": 2}
    for value in (b"{", json.dumps(newer).encode()):
        registry.add(b"serve", value, 0)
        assert registry.serve is not None
        assert registry.serve.checkpoint == "a"
        assert "serve" in registry.problems
    fill(registry, [serve("b")])
    assert not registry.problems


def test_a_decision_is_read_as_it_was_written_but_for_losses_that_are_no_numbers() -> None:
    registry, _ = filled([decision_message(decision("a"))])
    found = registry.decisions["a"]
    assert (found.challenger_loss, found.champion_loss, found.promoted) == (0.5, None, True)


def test_weights_that_nobody_asked_for_are_not_kept() -> None:
    registry = ModelRegistry()
    for number in range(20):
        fill(registry, publication(checkpoint(f"c-{number}", number)))
        assert held_bytes(registry) == 0
    assert len(registry.checkpoints) == 20


def test_unfinished_checkpoints_hold_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "MAX_PENDING_BYTES", 30_000)
    registry = ModelRegistry()
    for number in range(20):
        fill(registry, publication(checkpoint(f"c-{number}", number))[:-1])
        assert held_bytes(registry) <= 30_000
    last = publication(checkpoint("c-19", 19))[-1:]
    assert fill(registry, last) == ["c-19"]


def test_a_checkpoint_too_large_to_be_held_is_there_and_assembled_where_it_alone_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registries, "MAX_PENDING_BYTES", 5_000)
    messages = [*publication(checkpoint("a")), *publication(checkpoint("b", 1))]
    registry, whole = filled(messages)
    assert whole == []
    assert set(registry.checkpoints) == {"a", "b"}
    asked, whole = filled(messages, only="b")
    assert whole == ["b"]
    assert held_bytes(asked) == 0


def test_after_its_tombstones_nothing_is_left_of_a_checkpoint() -> None:
    messages = publication(checkpoint("a"))
    registry, _ = filled([*messages, *tombstones("a", len(messages) - 1)])
    assert not registry.checkpoints
    assert not registry._entries  # noqa: SLF001 - the law is about what it holds


def test_the_newest_bodies_with_their_first_and_newest_readout_stay_and_what_serves() -> None:
    names = ["a", "b", "b.1", "b.2", "c", "d", "d.1", "d.2", "e"]
    registry, _ = filled(message for name in names for message in publication(checkpoint(name)))
    assert set(registry.to_remove(2)) == {"a", "b", "b.1", "b.2", "c", "d.1"}
    fill(registry, [serve("b.2", "a")])
    assert set(registry.to_remove(2)) == {"b", "b.1", "c", "d.1"}
    assert set(registry.to_remove(0)) == set(names) - {"a", "b.2"}
    fill(registry, registry.cleanup_tombstones(2))
    assert set(registry.checkpoints) == {"a", "b.2", "d", "d.2", "e"}


def test_what_served_within_a_day_stays_since_floors_may_name_it() -> None:
    names = ["a", "a.1-0000", "a.2-0000", "a.3-0000"]
    registry, _ = filled(message for name in names for message in publication(checkpoint(name)))
    for before, name in itertools.pairwise(names):
        fill(registry, [serve(name, before)], timestamp_ms=1)
    assert registry.to_remove(0) == {}
    fill(registry, [serve("a.3-0000", "a.2-0000")], timestamp_ms=SUPERSEDED_MS + 1)
    assert set(registry.to_remove(0)) == {"a", "a.1-0000"}
    assert set(registry.to_remove(0, 2 * SUPERSEDED_MS)) == set(), "floors that are written seldom may name them"


def test_drift_is_known_until_a_training_answers_it_and_its_record_is_ended() -> None:
    registry, _ = filled([drift_message(3), drift_message(0), drift_message(3)])
    assert registry.has_drifted
    answered = registry.drift_tombstones()
    assert [(message.key, message.value) for message in answered] == [(b"drift/0", None), (b"drift/3", None)]
    fill(registry, answered)
    assert not registry.has_drifted


def test_a_checkpoint_on_its_way_stays_and_one_that_never_came_goes() -> None:
    on_its_way = publication(checkpoint("a"))[:-1]
    registry, _ = filled(on_its_way)
    assert registry.to_remove(1) == {}
    fill(registry, publication(checkpoint("b")), timestamp_ms=ORPHAN_MS + 1)
    assert registry.to_remove(1) == {"a": len(on_its_way)}


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
