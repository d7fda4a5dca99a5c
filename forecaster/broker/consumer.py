"""The member of the consumer group that reads the input topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog
from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.errors import FencedInstanceIdError, KafkaError
from kafka.structs import MemberState

from forecaster.broker.connection import Connection
from forecaster.broker.retry import causes, describe
from forecaster.broker.tolerant_clients import TolerantConsumer, UnreadableBatch
from forecaster.clock import Clock, monotonic
from forecaster.errors import BrokerUnavailable, Fenced, TransientBrokerError
from forecaster.records import PollResult

POLL_TIMEOUT_MS = 200
ANSWER_TIMEOUT_MS = 5_000
PROBE_SECONDS = 10.0
"""Silence after which a consumer asks the broker for something, to tell an idle topic from an outage."""
_log = structlog.get_logger()


class GroupConsumer:
    """Reads one topic as a member of the consumer group, with cooperative rebalancing.

    Args:
        connection: address and identity.
        topic: name of the topic.
        outage_deadline_seconds: time without a broker, or with a batch that cannot be read, after which the consumer
            gives up.
        clock: seconds; for deadlines and probes.
    """

    def __init__(
        self, connection: Connection, topic: str, outage_deadline_seconds: float, clock: Clock = monotonic
    ) -> None:
        self._topic = topic
        self._is_static = bool(connection.instance_id)
        self._heartbeat_ms = connection.heartbeat_ms
        self._outage_deadline = outage_deadline_seconds
        self._clock = clock
        options = connection.consumer_options()
        self._max_records: int = options["max_poll_records"]
        self._answered_at = self._probed_at = clock()
        self._answers = True
        self._unreadable_since: dict[int, float] = {}
        self._client = TolerantConsumer(**options)
        self._assignment = _AssignmentListener(self._client)
        try:
            self._client.subscribe([topic], listener=self._assignment)
            # A leader of the group that has not fetched the topic's metadata yet assigns no partitions, and a static
            # member would be given that empty assignment again at every start.
            self._client.partitions_for_topic(topic)
        except BaseException:
            self.close()
            raise

    def poll(self, *, wait: bool = True, max_records: int | None = None) -> PollResult:
        """Return new records, and what has changed in the assignment.

        Records that arrive during a rebalance are not returned, and are read again: this member could not commit them.

        Args:
            wait: whether to wait a moment if no record is there.
            max_records: largest number of records to return; None = the client's `max_poll_records`, the upper limit.

        Raises:
            Fenced: another process is the static member with this instance id.
            TransientBrokerError: the poll failed, or a batch cannot be read; the next poll can succeed.
            BrokerUnavailable: no broker answered, or a batch could not be read, for the outage deadline.
        """
        try:
            limit = self._max_records if max_records is None else min(max_records, self._max_records)
            batches = self._client.poll(timeout_ms=POLL_TIMEOUT_MS if wait else 0, max_records=limit)
            member = self._client.group_metadata()
        except KafkaError as error:
            if isinstance(error, UnreadableBatch):
                self._record_unreadable(error)
            raise _translated(error, f"polling topic {self._topic}") from error
        begin = {partition.partition: records[0].offset for partition, records in batches.items()}
        end = {
            partition.partition: max(records[-1].offset + 1, self.next_offset(partition.partition) or 0)
            for partition, records in batches.items()
        }
        stable = bool(member.state == MemberState.STABLE)
        if batches and not stable:
            self.seek(begin)
            batches, begin, end = {}, {}, {}
        if batches:
            self._record_answer()
        else:
            self._probe()
        revoked, assigned = self._assignment.take_changes()
        for partition in {*begin, *revoked}:
            self._unreadable_since.pop(partition, None)
        records = [record for batch in batches.values() for record in batch]
        return PollResult(records, begin, end, member, revoked, assigned, stable=stable, answered=self._answers)

    def resume(self, partitions: Iterable[int]) -> None:
        """Make the partitions deliver records; partitions that are not assigned are ignored."""
        self._client.resume(*self._assigned(partitions))

    def pause(self, partitions: Iterable[int]) -> None:
        """Make the partitions deliver nothing until they are resumed; those that are not assigned are ignored."""
        self._client.pause(*self._assigned(partitions))

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Continue each partition at its offset; partitions that are not assigned are ignored."""
        for partition in self._assigned(offsets):
            self._client.seek(partition, offsets[partition.partition])

    def next_offset(self, partition: int) -> int | None:
        """Return the offset that is read next: everything before it was delivered; None = not known yet."""
        return self._client.next_offset(TopicPartition(self._topic, partition))

    def confirm_membership(self) -> None:
        """Wait two heartbeats, in which the group would tell a static member that another process has its instance id.

        Raises:
            Fenced: another process has the instance id.
            TransientBrokerError: the group's coordinator did not answer.
        """
        if not self._is_static:
            return
        reading = [partition.partition for partition in self._client.assignment() - self._client.paused()]
        self.pause(reading)
        try:
            self._client.poll(timeout_ms=2 * self._heartbeat_ms)
        except KafkaError as error:
            raise _translated(error, "asking the group's coordinator") from error
        finally:
            self.resume(reading)

    def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the consumer group's committed offset of each partition; 0 = it has none.

        Raises:
            TransientBrokerError: the broker did not answer in time.
        """
        try:
            return {
                partition: self._client.committed(TopicPartition(self._topic, partition), timeout_ms=ANSWER_TIMEOUT_MS)
                or 0
                for partition in partitions
            }
        except KafkaError as error:
            raise _translated(error, f"reading committed offsets of topic {self._topic}") from error

    def ends(self) -> dict[int, int]:
        """Return the end of each assigned partition as of its last fetch; partitions not fetched yet are left out."""
        ends = {partition.partition: self._client.highwater(partition) for partition in self._client.assignment()}
        return {partition: end for partition, end in ends.items() if end is not None}

    def close(self) -> None:
        """Close the connections within seconds; a dynamic member leaves the group, a static one stays in it."""
        self._client.close(autocommit=False, timeout_ms=ANSWER_TIMEOUT_MS)

    def _assigned(self, partitions: Iterable[int]) -> list[TopicPartition]:
        wanted = set(partitions)
        return [partition for partition in self._client.assignment() if partition.partition in wanted]

    def _record_unreadable(self, error: UnreadableBatch) -> None:
        """Note since when a batch cannot be read; each partition has a deadline, since the others still deliver."""
        now, partition = self._clock(), error.partition.partition
        if partition not in self._unreadable_since:
            self._unreadable_since[partition] = now
            _log.error(
                "batch_unreadable",
                topic=self._topic,
                partition=partition,
                offset=error.offset,
                error=str(error),
                deadline_seconds=self._outage_deadline,
            )
        seconds = now - self._unreadable_since[partition]
        if seconds > self._outage_deadline:
            raise BrokerUnavailable(
                f"{describe(error)}; the batch could not be read for {seconds:.0f} s: check the disks and replicas of "
                "the broker that leads this partition"
            ) from error

    def _record_answer(self) -> None:
        now = self._clock()
        if not self._answers:
            self._answers = True
            _log.info("broker_answers_again", silent_seconds=round(now - self._answered_at, 1))
        self._answered_at = self._probed_at = now

    def _probe(self) -> None:
        """Ask the broker something from time to time, because an idle topic and an outage look alike in a poll."""
        now = self._clock()
        if now - self._probed_at <= PROBE_SECONDS:
            return
        try:
            self.committed([0])
            self._record_answer()
        except TransientBrokerError as error:
            silent = now - self._answered_at
            if silent > self._outage_deadline:
                raise BrokerUnavailable(
                    f"no broker answered for {silent:.0f} s: {error}; check the brokers and the network, or raise "
                    "FORECASTER_KAFKA__OUTAGE_DEADLINE"
                ) from error
            if self._answers:
                self._answers = False
                _log.warning("broker_silent", error=str(error), deadline_seconds=self._outage_deadline)
        self._probed_at = self._clock()


def _translated(error: KafkaError, action: str) -> Fenced | TransientBrokerError:
    """Return the error of this project for one of the client's, in which the action names what failed."""
    if any(isinstance(cause, FencedInstanceIdError) for cause in causes(error)):
        return Fenced(
            "another process runs with the same FORECASTER_KAFKA__INSTANCE_ID: give each its own, or leave it empty"
        )
    return TransientBrokerError(f"{action}: {describe(error)}")


class _AssignmentListener(ConsumerRebalanceListener):  # type: ignore[misc]
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

    def take_changes(self) -> tuple[list[int], list[int]]:
        """Return the partitions revoked and assigned since the last call; one in both was revoked, then assigned."""
        changes = sorted(self._revoked), sorted(self._assigned)
        self._revoked, self._assigned = set(), set()
        return changes
