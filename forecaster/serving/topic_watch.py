"""A watch over the topics while the worker runs: somebody may delete, empty, grow or change them.

| what the watch finds | what follows |
|---|---|
| an output topic is missing | it is created again if TOPICS__CREATE allows it; otherwise the worker is not ready |
| the state topic was created again, or lost records at its beginning | the state is written again from memory |
| a setting of an output topic does not fit | the worker is not ready |
| partitions were added to the input or to an output topic | exit code 4 |
| an output topic has been missing for the outage deadline | exit code 4 |

A missing input, or one that was created again, is noticed by `input_topic`, not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from forecaster.broker.needed_topics import NeededTopic, SeenTopic, refuse_wrong_settings
from forecaster.clock import Clock, monotonic
from forecaster.errors import TopicError, TransientBrokerError
from forecaster.formats.state_log import StateLog, state_log

LOOK_SECONDS = 20.0
"""Time between two looks at the topics."""
SOON_SECONDS = 2.0
"""Time until the next look when a topic is missing or was created a moment ago."""
_log = structlog.get_logger()


class Topics(Protocol):
    """A `broker.topics.TopicAdmin`; each method raises TransientBrokerError if the broker does not answer."""

    def seen(self, names: Sequence[str]) -> dict[str, SeenTopic]:
        """Return what the broker knows of each topic that exists."""

    def log_starts(self, name: str, partitions: int) -> dict[int, int]:
        """Return the first offset of each partition."""

    def settings(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the settings of topics, by topic."""

    def create(self, needed: Sequence[NeededTopic], partitions: int) -> None:
        """Create topics."""


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What is watched.

    Attributes:
        source: name of the input topic.
        state: name of the state topic.
        needed: output topics.
        create: whether missing output topics are created.
        deadline_seconds: how long an output topic may be missing.
    """

    source: str
    state: str
    needed: Sequence[NeededTopic]
    create: bool
    deadline_seconds: float


@dataclass(slots=True)
class _Known:
    """What the last look has found.

    Attributes:
        topics: topics by name.
        state_logs: log of each partition of the state topic.
        missing_since: time since when an output topic is missing; None = none is.
    """

    topics: dict[str, SeenTopic] = field(default_factory=dict)
    state_logs: dict[int, StateLog] = field(default_factory=dict)
    missing_since: float | None = None


class TopicWatch:
    """Looks at the topics from time to time.

    Args:
        topics: asks the broker.
        config: what is watched.
        clock: seconds.

    Attributes:
        problem: what is wrong with the topics, for people; empty = nothing.
    """

    def __init__(self, topics: Topics, config: WatchConfig, clock: Clock = monotonic) -> None:
        self._topics, self._config, self._clock = topics, config, clock
        self._known = _Known()
        self._due = clock()
        self._is_warned = False
        self.problem = ""

    def look_if_due(self) -> Mapping[int, StateLog]:
        """Look at the topics if it is time; return the logs of the state topic, by partition.

        Nothing is returned if it was not time, the broker did not answer, or the state topic does not exist.

        Raises:
            TopicError: partitions were added, or an output topic has been missing for too long.
        """
        if self._clock() < self._due:
            return {}
        self._due = self._clock() + LOOK_SECONDS
        try:
            logs = self.look()
        except TransientBrokerError as error:
            if not self._is_warned:
                _log.warning("topics_not_seen", error=str(error))
            self._is_warned = True
            return {}
        self._is_warned = False
        return logs

    def look(self) -> Mapping[int, StateLog]:
        """Look at the topics now; return the logs of the state topic, by partition; empty = it does not exist.

        Raises:
            TopicError: partitions were added, or an output topic has been missing for too long.
            TransientBrokerError: the broker did not answer.
        """
        config = self._config
        topics = self._topics.seen([config.source, *(topic.name for topic in config.needed)])
        source, remedy = topics.get(config.source), "does not exist: create it"
        if source is not None:
            self._refuse_added_partitions(topics, source)
            remedy = self._create_missing(topics, source.partitions)
        self.problem = "; ".join([*self._missing(topics, remedy), *self._unfit(topics)])
        logs = self._state_logs(topics.get(config.state))
        self._known.topics |= topics
        return logs

    def _refuse_added_partitions(self, topics: Mapping[str, SeenTopic], source: SeenTopic) -> None:
        """Raise TopicError if a topic has another partition count than it must have."""
        before = self._known.topics.get(self._config.source)
        wrong = [
            f"{topic.name} has {topics[topic.name].partitions}"
            for topic in self._config.needed
            if topic.name in topics and topics[topic.name].partitions != (topic.partitions or source.partitions)
        ]
        has_grown = before is not None and before.topic_id == source.topic_id and before.partitions != source.partitions
        if has_grown and before is not None:
            wrong.insert(0, f"{self._config.source} had {before.partitions} when this process last looked")
        if wrong:
            raise TopicError(
                f"topic {self._config.source} (input): has {source.partitions} partitions, but {', '.join(wrong)}: "
                "partitions were added while this process ran, and series may have moved to other partitions, away "
                "from their state. Give the output topics as many partitions as the input, then restart as "
                'deploy/README.md says under "Add partitions"'
            )

    def _create_missing(self, topics: Mapping[str, SeenTopic], partitions: int) -> str:
        """Create missing output topics if that is allowed; return what is said of them.

        A creation that is refused does not end the look, because there are other topics to look at.
        """
        missing = [topic for topic in self._config.needed if topic.name not in topics]
        if not missing or not self._config.create:
            return "does not exist: create it"
        try:
            self._topics.create(missing, partitions)
        except TransientBrokerError as error:
            return f"does not exist, and could not be created: {error}"
        for topic in missing:
            _log.error("topic_created_again", topic=topic.name, purpose=topic.purpose)
        return "was missing, and is created again"

    def _missing(self, topics: Mapping[str, SeenTopic], remedy: str) -> list[str]:
        """Return a text for each missing topic, with what is said of outputs; look again soon, up to the deadline."""
        config, now = self._config, self._clock()
        missing = [] if config.source in topics else [f"topic {config.source} (input): does not exist"]
        outputs = [topic for topic in config.needed if topic.name not in topics]
        missing += [f"topic {topic.name} ({topic.purpose}): {remedy}" for topic in outputs]
        if missing:
            self._due = now + SOON_SECONDS
        since = self._known.missing_since
        self._known.missing_since = None if not outputs else now if since is None else since
        if outputs and since is not None and now - since > config.deadline_seconds:
            raise TopicError(f"{missing[-1]}; it has been missing for {now - since:.0f} s")
        return missing

    def _unfit(self, topics: Mapping[str, SeenTopic]) -> list[str]:
        """Return a text for each output topic with a setting that does not fit."""
        existing = [topic for topic in self._config.needed if topic.name in topics]
        settings = self._topics.settings([topic.name for topic in existing])
        unfit: list[str] = []
        for topic in existing:
            try:
                refuse_wrong_settings(topic, settings[topic.name], topics[topic.name].replicas)
            except TopicError as error:
                unfit.append(str(error))
            except TransientBrokerError:  # it was created a moment ago
                continue
        return unfit

    def _state_logs(self, state: SeenTopic | None) -> Mapping[int, StateLog]:
        """Return the logs of the state topic; report those that have lost records since the last look.

        The ids are read before the first offsets, so that no log has the offset of a former topic of that name.
        """
        if state is None:
            return {}
        before, starts = self._known.state_logs, self._topics.log_starts(self._config.state, state.partitions)
        self._known.state_logs = now = {number: state_log(state.topic_id, start) for number, start in starts.items()}
        lost = sorted(number for number in now if number in before and before[number].loss(now[number]))
        if any(before[number].topic != now[number].topic for number in lost):
            _log.error("state_topic_created_again", topic=self._config.state)
        elif lost:
            _log.error("state_topic_lost_records", topic=self._config.state, partitions=lost)
        return now
