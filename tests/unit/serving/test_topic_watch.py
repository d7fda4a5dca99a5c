"""The watch over the topics: what somebody does to them while the worker runs, and what follows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from clock import FakeClock
from structlog.testing import capture_logs

from forecaster.broker.needed_topics import NeededTopic, SeenTopic
from forecaster.errors import TopicError, TransientBrokerError
from forecaster.formats.state_log import StateLog
from forecaster.serving.topic_watch import LOOK_SECONDS, TopicWatch, WatchConfig

COMPACTED = {"cleanup.policy": "compact", "max.message.bytes": "1000"}
FORECASTS = NeededTopic("in.forecasts", "forecasts")
STATE = NeededTopic("in.state", "state", COMPACTED, ("cleanup.policy",), batch_bytes=1_000)
MODELS = NeededTopic("in.models", "checkpoints", COMPACTED, ("cleanup.policy",), partitions=1)


class FakeTopics:
    """The topics of a broker, by name."""

    def __init__(self) -> None:
        self.topics: dict[str, SeenTopic] = {}
        self.of_topic: dict[str, dict[str, str]] = {}
        self.starts = {0: 0, 1: 0}
        self.is_silent = self.refuses_creation = False
        self.looks = self._ids = 0
        self.make("in", 2)
        self.create([FORECASTS, STATE, MODELS], 2)

    def make(self, name: str, partitions: int, **settings: str) -> None:
        self._ids += 1
        self.topics[name] = SeenTopic(f"id-{self._ids}", partitions, 3)
        self.of_topic[name] = {key.replace("_", "."): value for key, value in settings.items()}

    def delete(self, name: str) -> None:
        del self.topics[name]

    def grow(self, name: str, partitions: int) -> None:
        self.topics[name] = self.topics[name]._replace(partitions=partitions)

    def seen(self, names: Sequence[str]) -> dict[str, SeenTopic]:
        self.looks += 1
        if self.is_silent:
            raise TransientBrokerError("silence")
        return {name: self.topics[name] for name in names if name in self.topics}

    def log_starts(self, name: str, partitions: int) -> dict[int, int]:
        assert name == STATE.name
        return {number: self.starts[number] for number in range(partitions)}

    def settings(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        return {name: self.of_topic[name] for name in names}

    def create(self, needed: Sequence[NeededTopic], partitions: int) -> None:
        if self.refuses_creation:
            raise TransientBrokerError("a right is missing")
        for topic in needed:
            self.make(topic.name, topic.partitions or partitions)
            self.of_topic[topic.name] = dict(topic.settings)


class World:
    """A watch that has looked once."""

    def __init__(self, *, create: bool = True) -> None:
        self.topics, self.clock = FakeTopics(), FakeClock()
        config = WatchConfig("in", STATE.name, [FORECASTS, STATE, MODELS], create, deadline_seconds=300.0)
        self.watch = TopicWatch(self.topics, config, self.clock)
        self.logs = dict(self.watch.look_if_due())
        assert self.logs == {0: StateLog("id-3", 0), 1: StateLog("id-3", 0)}
        assert not self.watch.look_if_due(), "it is not time"

    def lost_within(self, seconds: float) -> set[int]:
        """Let time pass, and return the partitions that have lost state in it, as a partition compares the logs."""
        lost: set[int] = set()
        for _ in range(int(seconds)):
            self.clock.advance(1)
            now = self.watch.look_if_due()
            lost |= {number for number, log in now.items() if self.logs[number].loss(log)}
            self.logs |= now
        return lost


def test_topics_that_nobody_touches_are_no_trouble() -> None:
    world = World()
    assert not world.lost_within(600)
    assert not world.watch.problem
    assert world.topics.looks <= 1 + 600 / LOOK_SECONDS, "it asks the broker now and then"


def test_a_deleted_state_topic_is_created_again_and_counts_as_lost() -> None:
    world = World()
    world.topics.delete(STATE.name)
    assert world.lost_within(60) == {0, 1}
    assert world.topics.of_topic[STATE.name] == COMPACTED
    assert not world.lost_within(600), "once"
    assert not world.watch.problem


def test_a_state_topic_that_somebody_else_created_again_counts_as_lost() -> None:
    world = World(create=False)
    world.topics.make(STATE.name, 2, cleanup_policy="compact", max_message_bytes="1000")
    with capture_logs() as logs:
        assert world.lost_within(60) == {0, 1}
    assert [entry["event"] for entry in logs] == ["state_topic_created_again"]


def test_a_partition_of_the_state_topic_that_was_emptied_counts_as_lost() -> None:
    world = World()
    world.topics.starts[1] = 40
    with capture_logs() as logs:
        assert world.lost_within(60) == {1}
    assert [(entry["event"], entry["partitions"]) for entry in logs] == [("state_topic_lost_records", [1])]
    assert not world.lost_within(600)
    world.topics.starts[1] = 41
    assert world.lost_within(60) == {1}, "again"


def test_without_the_right_to_create_a_missing_topic_is_named_until_somebody_creates_it() -> None:
    world = World(create=False)
    world.topics.delete(STATE.name)
    assert not world.lost_within(60)
    assert "topic in.state (state): does not exist" in world.watch.problem
    world.topics.create([STATE], 2)
    assert world.lost_within(5) == {0, 1}, "it looks often while a topic is missing"
    assert not world.watch.problem


def test_a_creation_that_is_refused_is_named_and_hides_no_lost_state() -> None:
    world = World()
    world.topics.refuses_creation = True
    world.topics.delete(FORECASTS.name)
    assert not world.lost_within(60)
    assert "topic in.forecasts (forecasts): does not exist, and could not be created" in world.watch.problem
    assert "a right is missing" in world.watch.problem
    world.topics.starts[0] = 7
    assert world.lost_within(60) == {0}
    with pytest.raises(TopicError, match="it has been missing for"):
        world.lost_within(300)


def test_a_topic_that_stays_missing_ends_the_worker_at_the_deadline() -> None:
    world = World(create=False)
    world.topics.delete(FORECASTS.name)
    world.lost_within(290)
    with pytest.raises(TopicError, match=r"in\.forecasts") as ended:
        world.lost_within(60)
    assert ended.value.exit_code == 4


@pytest.mark.parametrize("topic", [FORECASTS, MODELS])
def test_another_output_topic_is_created_again_and_no_state_is_lost(topic: NeededTopic) -> None:
    world = World()
    world.topics.delete(topic.name)
    with capture_logs() as logs:
        assert not world.lost_within(60)
    assert [entry["topic"] for entry in logs if entry["event"] == "topic_created_again"] == [topic.name]
    assert world.topics.topics[topic.name].partitions == (topic.partitions or 2)
    assert not world.watch.problem


@pytest.mark.parametrize("grown", [["in"], [FORECASTS.name], [MODELS.name], ["in", FORECASTS.name, STATE.name]])
def test_added_partitions_end_the_worker_within_a_minute(grown: list[str]) -> None:
    world = World()
    for name in grown:
        world.topics.grow(name, 3)
    with pytest.raises(TopicError, match="partitions were added") as ended:
        world.lost_within(60)
    assert grown[0] in str(ended.value)


def test_an_input_that_is_missing_or_created_again_is_left_to_the_worker_itself() -> None:
    world = World()
    world.topics.delete("in")
    assert not world.lost_within(60)
    assert "topic in (input): does not exist" in world.watch.problem
    world.topics.make("in", 2)
    assert not world.lost_within(60)
    assert not world.watch.problem


@pytest.mark.parametrize(("name", "value"), [("cleanup.policy", "delete"), ("max.message.bytes", "999")])
def test_a_setting_that_does_not_fit_any_more_is_named_and_is_no_end(name: str, value: str) -> None:
    world = World()
    world.topics.of_topic[STATE.name] = COMPACTED | {name: value}
    assert not world.lost_within(60)
    assert f"{name} is {value}" in world.watch.problem
    world.topics.of_topic[STATE.name] = COMPACTED
    assert not world.lost_within(60)
    assert not world.watch.problem


def test_a_broker_that_does_not_answer_is_a_warning_and_forgets_nothing() -> None:
    world = World()
    world.topics.is_silent = True
    with capture_logs() as logs:
        assert not world.lost_within(600)
    assert [entry["event"] for entry in logs] == ["topics_not_seen"]
    world.topics.is_silent = False
    world.topics.starts[0] = 7
    assert world.lost_within(60) == {0}
