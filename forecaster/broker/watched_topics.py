"""The topics as the watch of a running worker asks for them: whatever fails can succeed at the next look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kafka.errors import KafkaError

from forecaster.broker.needed_topics import NeededTopic, SeenTopic
from forecaster.broker.retry import describe
from forecaster.broker.topics import TopicAdmin
from forecaster.errors import TransientBrokerError


class WatchedTopics:
    """Asks about topics; every error of the client is a TransientBrokerError.

    Args:
        topics: asks the broker.
    """

    def __init__(self, topics: TopicAdmin) -> None:
        self._topics = topics

    def seen(self, names: Sequence[str]) -> dict[str, SeenTopic]:
        """Return what the broker knows of each topic that exists."""
        with _translated("describing the topics"):
            return self._topics.seen(names)

    def log_starts(self, name: str, partitions: int) -> dict[int, int]:
        """Return the first offset of each partition of a topic."""
        with _translated(f"reading the first offsets of topic {name}"):
            return self._topics.log_starts(name, partitions)

    def settings(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the settings of topics, by topic; empty = the broker does not tell them to this user."""
        with _translated("reading the settings of the topics"):
            return self._topics.settings(names)

    def create(self, needed: Sequence[NeededTopic], partitions: int) -> None:
        """Create topics that are missing.

        Args:
            needed: topics to create.
            partitions: partition count of the topics that ask for no other.
        """
        with _translated(f"creating topic {', '.join(topic.name for topic in needed)}"):
            self._topics.create(needed, partitions)


@contextmanager
def _translated(action: str) -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError) as error:
        raise TransientBrokerError(f"{action}: {describe(error)}") from error
