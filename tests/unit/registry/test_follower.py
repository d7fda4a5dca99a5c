"""What a worker serves is what the models topic says, as far as it can be served; no fault of it stops the worker."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import pipeline_config, random_checkpoint
from clock import FakeClock
from fakes import FakeClient, FakeKafka, FakeReader
from structlog.testing import capture_logs

from forecaster.core.network.model import Checkpoint
from forecaster.errors import TransientBrokerError
from forecaster.formats import models
from forecaster.formats.checkpoints import WEIGHTS
from forecaster.formats.models import Serve, publication, serve_message, tombstones
from forecaster.records import Message, SourceRecord
from forecaster.registry import follower as follower_module
from forecaster.registry import registry as registries
from forecaster.registry.cache import CheckpointCache
from forecaster.registry.follower import RegistryFollower

TOPIC = "models"
CONFIG = pipeline_config()
WANTED = random_checkpoint(CONFIG).network


class FailingReader(FakeReader):
    """A reader whose broker is away while `away` is set; it counts its reads."""

    def __init__(self, client: FakeClient) -> None:
        super().__init__(client)
        self._read, self._bounds = client.read, client.bounds
        self.away, self.reads, self.refused = False, 0, 0
        self.read, self.bounds = self.counted_read, self.failing_bounds

    def counted_read(self, *, wait: bool = True) -> list[SourceRecord]:
        self._answer()
        self.reads += 1
        return list(self._read(wait=wait))

    def failing_bounds(self, topic: str, partition: int) -> tuple[int, int]:
        self._answer()
        return self._bounds(topic, partition)

    def _answer(self) -> None:
        if self.away:
            self.refused += 1
            raise TransientBrokerError("no broker")


class Fleet:
    """A topic, and a watch of it."""

    def __init__(self, folder: Path | None, fixed: Checkpoint | None = None) -> None:
        self.kafka = FakeKafka()
        self.folder = folder
        self.clock = FakeClock()
        self.follower = self.started(fixed)

    def started(self, fixed: Checkpoint | None = None) -> RegistryFollower:
        self.reader = FailingReader(FakeClient(self.kafka))
        return RegistryFollower(self.reader, TOPIC, CheckpointCache(self.folder), WANTED, fixed, self.clock)

    def write(self, messages: Iterable[Message]) -> None:
        for one in messages:
            self.kafka.append(0, one.value, one.key, TOPIC)

    def publish(self, name: str, **options: object) -> Checkpoint:
        made = random_checkpoint(options.pop("config", CONFIG), seed=len(name), **options)  # type: ignore[arg-type]
        made = Checkpoint(name, made.network, made.weights, made.readout, {})
        self.write(publication(made))
        return made

    def order(self, name: str, previous: str = "none") -> None:
        self.write([serve_message(Serve(name, previous, "trainer", "2025-01-01T00:00:00+00:00", "better"))])


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(models, "CHUNK_BYTES", 4_000)
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 0.0)
    return Fleet(tmp_path / "cache")


def same(found: Checkpoint | None, wanted: Checkpoint) -> bool:
    return found is not None and found.id == wanted.id and torch.equal(found.readout, wanted.readout)


def damaged(content: bytes | None) -> bytes:
    assert content
    return content[:-1] + bytes([content[-1] ^ 1])


def test_an_empty_topic_means_none() -> None:
    follower = Fleet(None).follower
    follower.catch_up()
    follower.refresh()
    assert follower.champion == "none"
    assert follower.model("none") is None


def test_what_the_newest_order_names_is_the_champion_at_the_start_and_while_it_serves(fleet: Fleet) -> None:
    first = fleet.publish("a")
    fleet.order("a")
    fleet.follower.catch_up()
    assert fleet.follower.champion == "a"
    assert same(fleet.follower.checkpoint("a"), first)
    fleet.publish("bb")
    fleet.follower.refresh()
    assert fleet.follower.champion == "a"
    fleet.order("bb", "a")
    fleet.follower.refresh()
    assert fleet.follower.champion == "bb"
    fleet.order("none", "bb")
    fleet.follower.refresh()
    assert fleet.follower.champion == "none"


def test_a_model_forecasts_as_its_checkpoint_and_is_one_object_while_it_is_kept(fleet: Fleet) -> None:
    made = fleet.publish("a")
    fleet.publish("bb")
    fleet.follower.catch_up()
    model = fleet.follower.model("a")
    assert model is not None
    assert model.id == "a"
    assert np.array_equal(model._readout[:, :4].numpy(), made.readout.numpy())  # noqa: SLF001 - what it forecasts with
    assert fleet.follower.model("a") is model
    fleet.follower.keep_only(["bb"])
    assert fleet.follower.model("a") is not model
    assert fleet.follower.model("nobody") is None


def test_a_promotion_of_what_is_not_whole_waits_with_the_previous_until_it_is(fleet: Fleet) -> None:
    fleet.publish("a")
    *chunks, description = publication(fleet.publish("bb"))
    fleet.follower.catch_up()
    fleet.write(tombstones("bb", len(chunks)))
    fleet.order("bb", "a")
    fleet.write(chunks)
    with capture_logs() as logs:
        fleet.follower.refresh()
        fleet.follower.refresh()
    assert fleet.follower.champion == "a"
    assert fleet.follower.model("bb") is None
    assert [log["event"] for log in logs] == ["checkpoint_unusable"]
    fleet.write([description])
    fleet.follower.refresh()
    assert fleet.follower.champion == "bb"
    assert fleet.follower.model("bb") is not None


def test_a_checkpoint_of_another_shape_is_refused_with_a_sentence_and_the_daemon_goes_on(fleet: Fleet) -> None:
    fleet.publish("a", config=pipeline_config(horizon=9))
    fleet.order("a")
    with capture_logs() as logs:
        fleet.follower.catch_up()
        fleet.follower.refresh()
    assert fleet.follower.champion == "none"
    (log,) = logs
    assert "FORECASTER_FORECAST__HORIZON" in log["reason"]
    assert "change them, or train again" in log["reason"]
    fleet.publish("bb")
    fleet.order("bb", "a")
    fleet.follower.refresh()
    assert fleet.follower.champion == "bb"


def test_a_damaged_checkpoint_is_reported_once_and_never_served(fleet: Fleet) -> None:
    fleet.publish("a")
    messages = publication(random_checkpoint(CONFIG, seed=9))
    fleet.write([messages[0]._replace(value=damaged(messages[0].value)), *messages[1:]])
    fleet.order("random-9", "a")
    with capture_logs() as logs:
        fleet.follower.catch_up()
        fleet.follower.refresh()
    assert fleet.follower.champion == "a"
    assert fleet.follower.model("random-9") is None
    assert any(log["event"] == "checkpoint_damaged" and "damaged" in log["reason"] for log in logs)


def test_without_a_cache_a_checkpoint_is_read_from_the_topic(fleet: Fleet) -> None:
    fleet.folder = None
    fleet.follower = fleet.started()
    made = fleet.publish("a")
    fleet.publish("bb")
    fleet.order("bb")
    fleet.follower.catch_up()
    assert same(fleet.follower.checkpoint("a"), made)
    fleet.order("a", "bb")
    fleet.follower.refresh()
    assert fleet.follower.champion == "a", "after reading from the topic the watch goes on where it was"


def test_what_the_cache_lost_or_damaged_is_read_from_the_topic_and_cached_again(fleet: Fleet) -> None:
    assert fleet.folder is not None
    made = fleet.publish("a")
    fleet.follower.catch_up()
    weights = fleet.folder / "a" / WEIGHTS
    weights.write_bytes(damaged(weights.read_bytes()))
    assert same(fleet.follower.checkpoint("a"), made)
    shutil.rmtree(fleet.folder)
    assert same(fleet.follower.checkpoint("a"), made)
    reads = fleet.reader.reads
    assert same(fleet.follower.checkpoint("a"), made)
    assert fleet.reader.reads == reads


def test_a_checkpoint_too_large_to_be_held_in_passing_is_served_all_the_same(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registries, "MAX_PENDING_BYTES", 5_000)
    made = fleet.publish("a")
    fleet.order("a")
    fleet.follower.catch_up()
    assert fleet.follower.champion == "a"
    assert same(fleet.follower.checkpoint("a"), made)


def test_one_too_large_whose_damage_shows_when_it_is_asked_for_is_champion_no_more(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registries, "MAX_PENDING_BYTES", 5_000)
    fleet.publish("a")
    messages = publication(random_checkpoint(CONFIG, seed=9))
    fleet.write([messages[0]._replace(value=damaged(messages[0].value)), *messages[1:]])
    fleet.order("random-9", "a")
    fleet.follower.catch_up()
    assert fleet.follower.champion == "random-9"
    assert fleet.follower.model("random-9") is None
    assert fleet.follower.champion == "a"
    reads = fleet.reader.reads
    assert fleet.follower.model("random-9") is None
    assert fleet.reader.reads == reads, "what is known to be damaged is not read each time"


def test_a_broker_that_is_away_is_said_once_and_what_was_known_is_served(fleet: Fleet) -> None:
    fleet.publish("a")
    fleet.order("a")
    fleet.follower.catch_up()
    fleet.reader.away = True
    with capture_logs() as logs:
        for _ in range(5):
            fleet.follower.refresh()
    assert len(logs) == 1
    assert fleet.follower.champion == "a"
    with pytest.raises(TransientBrokerError):
        fleet.follower.catch_up()
    fleet.publish("bb")
    fleet.order("bb", "a")
    fleet.reader.away = False
    fleet.follower.refresh()
    assert fleet.follower.champion == "bb"
    fleet.follower.refresh()
    fleet.reader.away = True
    with capture_logs() as logs:
        fleet.follower.refresh()
    assert len(logs) == 1, "after it worked again it is said again"


def test_attempts_that_fail_are_made_less_and_less_often_and_hold_no_batch_up_in_between(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 1.0)
    fleet.publish("a")
    fleet.order("a")
    fleet.follower.catch_up()
    shutil.rmtree(fleet.folder or "")
    fleet.reader.away = True
    for _ in range(600):
        fleet.clock.advance(1.0)
        fleet.follower.refresh()
        with pytest.raises(TransientBrokerError):
            fleet.follower.model("a")
    assert 2 * 10 <= fleet.reader.refused <= 2 * 20, "of either, at 1, 3, 7, 15 .. and then every 60 seconds"
    fleet.reader.away = False
    fleet.clock.advance(60.0)
    assert fleet.follower.model("a") is not None


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(fleet: Fleet) -> None:
    for name in ("a", "bb"):
        fleet.publish(name)
    fleet.order("bb")
    fleet.follower.catch_up()
    fleet.kafka.logs.clear()
    fleet.kafka.ends.clear()
    fleet.publish("a")
    fleet.order("a")
    fleet.follower.catch_up()
    assert fleet.follower.champion == "a"
    assert set(fleet.follower.registry.checkpoints) == {"a"}


def test_a_look_is_cheap_between_the_seconds(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 3600.0)
    fleet.follower.catch_up()
    reads = fleet.reader.reads
    for _ in range(100):
        fleet.follower.refresh()
    assert fleet.reader.reads == reads + 1


def test_a_folder_that_was_named_is_served_whatever_the_topic_says(tmp_path: Path) -> None:
    fixed = random_checkpoint(CONFIG, seed=5)
    fleet = Fleet(tmp_path, fixed)
    fleet.publish("a")
    fleet.order("a")
    fleet.follower.catch_up()
    assert fleet.follower.champion == "random-5"
    assert same(fleet.follower.checkpoint("random-5"), fixed)
    assert fleet.follower.model("a") is not None, "rows may belong to it"


def test_what_is_not_on_the_topic_any_more_is_not_on_disk(fleet: Fleet) -> None:
    assert fleet.folder is not None
    messages = publication(fleet.publish("a"))
    fleet.publish("bb")
    fleet.follower.catch_up()
    assert {path.name for path in fleet.folder.iterdir()} == {"a", "bb"}
    fleet.write(tombstones("a", len(messages) - 1))
    fleet.follower.refresh()
    assert {path.name for path in fleet.folder.iterdir()} == {"bb"}
