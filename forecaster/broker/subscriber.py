"""One client of a member of a consumer group, and what changes in its assignment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.errors import KafkaTimeoutError

from forecaster.broker.tolerant_clients import TolerantConsumer

ANSWER_TIMEOUT_MS = 5_000
METADATA_ATTEMPTS = 3
"""Requests for the metadata of a new topic; the first answer may not have it yet."""


class Subscriber:
    """A client that has subscribed to a topic; it joins its group at the first poll.

    Args:
        options: options of the client.
        topic: name of the topic.

    Attributes:
        client: the client.
        assignment: changes of its assignment.
    """

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        self.client = TolerantConsumer(**options)
        self.assignment = AssignmentListener(self.client)
        try:
            self.client.subscribe([topic], listener=self.assignment)
            self._fetch_metadata(topic)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections within seconds; a dynamic member leaves the group, a static one stays in it."""
        self.client.close(autocommit=False, timeout_ms=ANSWER_TIMEOUT_MS)

    def _fetch_metadata(self, topic: str) -> None:
        """Fetch the metadata of the topic; the first answer may belong to a request from before the subscription.

        A leader of the group that has no metadata of the topic yet assigns no partitions, and a static member would be
        given that empty assignment again at every start.

        Raises:
            KafkaTimeoutError: no broker answered.
        """
        for _ in range(METADATA_ATTEMPTS):
            if self.client.knows(topic):
                return
            if not self.client.answers(ANSWER_TIMEOUT_MS):
                raise KafkaTimeoutError(f"no broker reports the partitions of topic {topic}")


class AssignmentListener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Collects changes of the assignment; the caller acts on them after the poll in which they happen."""

    def __init__(self, client: TolerantConsumer) -> None:
        self._client = client
        self._revoked: set[int] = set()
        self._assigned: set[int] = set()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Pause new partitions: they deliver nothing until their state is restored."""
        self._client.pause(*assigned)
        self._assigned |= {partition.partition for partition in assigned}

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Note partitions that another member owns from now on."""
        numbers = {partition.partition for partition in revoked}
        self._revoked |= numbers
        self._assigned -= numbers

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """Note partitions that the group has taken away without asking, after this member was silent for too long."""
        self.on_partitions_revoked(lost)

    def take_changes(self) -> tuple[set[int], set[int]]:
        """Return the partitions revoked and assigned since the last call; one in both was revoked, then assigned."""
        changes = self._revoked, self._assigned
        self._revoked, self._assigned = set(), set()
        return changes
