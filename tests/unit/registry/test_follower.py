"""The champion is what the models topic names, if it can be served; no fault of the topic stops the worker."""

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
from forecaster.formats.models import ServeOrder, publication, serve_message, tombstones
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
        vars(self).update(read=self.counted_read, bounds=self.failing_bounds)

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
    """A models topic and its follower."""

    def __init__(self, folder: Path | None, fixed: Checkpoint | None = None) -> None:
        self.kafka = FakeKafka()
        self.folder = folder
        self.clock = FakeClock()
        self.follower = self.started(fixed)

    def started(self, fixed: Checkpoint | None = None) -> RegistryFollower:
        self.reader = FailingReader(FakeClient(self.kafka))
        return RegistryFollower(self.reader, TOPIC, CheckpointCache(self.folder), WANTED, fixed, self.clock)  # type: ignore[arg-type]

    def write(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.kafka.append(0, message.value, message.key, TOPIC)

    def publish(self, name: str, **options: object) -> Checkpoint:
        random = random_checkpoint(options.pop("config", CONFIG), seed=len(name), **options)  # type: ignore[arg-type]
        checkpoint = Checkpoint(name, random.network, random.weights, random.readout, {})
        self.write(publication(checkpoint))
        return checkpoint

    def order(self, name: str, previous: str = "none") -> None:
        self.write([serve_message(ServeOrder(name, previous, "trainer", "2025-01-01T00:00:00+00:00", "better"))])


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(models, "CHUNK_BYTES", 4_000)
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 0.0)
    return Fleet(tmp_path / "cache")


def same(checkpoint: Checkpoint | None, expected: Checkpoint) -> bool:
    return checkpoint is not None and checkpoint.id == expected.id and torch.equal(checkpoint.readout, expected.readout)


def damaged(content: bytes | None) -> bytes:
    assert content
    return content[:-1] + bytes([content[-1] ^ 1])


def test_an_empty_topic_means_no_checkpoint() -> None:
    follower = Fleet(None).follower
    follower.catch_up()
    follower.refresh()
    assert follower.champion == "none"
    assert follower.model("none") is None


def test_the_champion_is_what_the_newest_order_names(fleet: Fleet) -> None:
    """At the start, and on every refresh."""
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


def test_a_model_is_one_object_while_it_is_kept(fleet: Fleet) -> None:
    """It forecasts with the weights of its checkpoint."""
    published = fleet.publish("a")
    fleet.publish("bb")
    fleet.follower.catch_up()
    model = fleet.follower.model("a")
    assert model is not None
    assert model.id == "a"
    assert np.array_equal(model._readout[:, :4].numpy(), published.readout.numpy())  # noqa: SLF001 - what it forecasts with
    assert fleet.follower.model("a") is model
    fleet.follower.keep_only(["bb"])
    assert fleet.follower.model("a") is not model
    assert fleet.follower.model("nobody") is None


def test_the_previous_checkpoint_serves_until_the_promoted_one_is_complete(fleet: Fleet) -> None:
    fleet.publish("a")
    *chunks, description = publication(fleet.publish("bb"))
    fleet.follower.catch_up()
    fleet.write(tombstones("bb", range(len(chunks))))
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


def test_a_checkpoint_with_another_network_is_not_served_and_logged(fleet: Fleet) -> None:
    """The log names the setting and says what to do."""
    fleet.publish("a", config=pipeline_config(horizon=9))
    fleet.order("a")
    with capture_logs() as logs:
        fleet.follower.catch_up()
        fleet.follower.refresh()
    assert fleet.follower.champion == "none"
    (log,) = logs
    assert "FORECASTER_FORECAST__HORIZON" in log["reason"]
    assert "change the settings, or train again" in log["reason"]
    fleet.publish("bb")
    fleet.order("bb", "a")
    fleet.follower.refresh()
    assert fleet.follower.champion == "bb"


def test_a_damaged_checkpoint_is_never_served_and_logged_once(fleet: Fleet) -> None:
    fleet.publish("a")
    messages = publication(random_checkpoint(CONFIG, seed=9))
    fleet.write([messages[0]._replace(value=damaged(messages[0].value)), *messages[1:]])
    fleet.order("random-9", "a")
    with capture_logs() as logs:
        fleet.follower.catch_up()
        fleet.follower.refresh()
    assert fleet.follower.champion == "a"
    assert fleet.follower.model("random-9") is None
    assert any(log["event"] == "checkpoint_refused" and "damaged" in log["reason"] for log in logs)


def test_without_a_cache_a_checkpoint_is_read_from_the_topic(fleet: Fleet) -> None:
    """Afterwards the follower continues where it was."""
    fleet.folder = None
    fleet.follower = fleet.started()
    published = fleet.publish("a")
    fleet.publish("bb")
    fleet.order("bb")
    fleet.follower.catch_up()
    assert same(fleet.follower.checkpoint("a"), published)
    fleet.order("a", "bb")
    fleet.follower.refresh()
    assert fleet.follower.champion == "a", "after the read the follower continues where it was"


def test_a_checkpoint_that_the_cache_lost_is_read_from_the_topic_again(fleet: Fleet) -> None:
    """So is one that is damaged in the cache; both are cached again."""
    assert fleet.folder is not None
    published = fleet.publish("a")
    fleet.follower.catch_up()
    weights = fleet.folder / "a" / WEIGHTS
    weights.write_bytes(damaged(weights.read_bytes()))
    assert same(fleet.follower.checkpoint("a"), published)
    shutil.rmtree(fleet.folder)
    assert same(fleet.follower.checkpoint("a"), published)
    reads = fleet.reader.reads
    assert same(fleet.follower.checkpoint("a"), published)
    assert fleet.reader.reads == reads


def test_a_checkpoint_too_large_to_hold_is_served_all_the_same(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "MAX_PENDING_BYTES", 5_000)
    published = fleet.publish("a")
    fleet.order("a")
    fleet.follower.catch_up()
    assert fleet.follower.champion == "a"
    assert same(fleet.follower.checkpoint("a"), published)


def test_a_champion_whose_damage_shows_late_is_replaced_by_the_previous(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage of a checkpoint that is too large to hold shows when it is read."""
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


def test_an_outage_is_logged_once_and_the_champion_stays(fleet: Fleet) -> None:
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
    assert len(logs) == 1, "a second outage is logged again"


def test_failed_reads_are_repeated_less_and_less_often(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the attempts no call waits for the broker."""
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


def test_a_topic_that_was_created_again_is_read_from_its_beginning(fleet: Fleet) -> None:
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


def test_refresh_reads_the_topic_once_a_second_at_most(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 3600.0)
    fleet.follower.catch_up()
    reads = fleet.reader.reads
    for _ in range(100):
        fleet.follower.refresh()
    assert fleet.reader.reads == reads + 1


def test_a_fixed_checkpoint_is_served_whatever_the_topic_says(tmp_path: Path) -> None:
    fixed = random_checkpoint(CONFIG, seed=5)
    fleet = Fleet(tmp_path, fixed)
    fleet.publish("a")
    fleet.order("a")
    fleet.follower.catch_up()
    assert fleet.follower.champion == "random-5"
    assert same(fleet.follower.checkpoint("random-5"), fixed)
    assert fleet.follower.model("a") is not None, "rows may belong to it"


def test_a_checkpoint_removed_from_the_topic_is_removed_from_disk(fleet: Fleet) -> None:
    assert fleet.folder is not None
    messages = publication(fleet.publish("a"))
    fleet.publish("bb")
    fleet.follower.catch_up()
    assert {path.name for path in fleet.folder.iterdir()} == {"a", "bb"}
    fleet.write(tombstones("a", range(len(messages) - 1)))
    fleet.follower.refresh()
    assert {path.name for path in fleet.folder.iterdir()} == {"bb"}
