"""The member of the consumer group that reads the input topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog
from kafka import TopicPartition
from kafka.errors import FencedInstanceIdError, KafkaError
from kafka.structs import ConsumerGroupMetadata, MemberState

from forecaster.broker.connection import Connection
from forecaster.broker.membership import MembershipWatch
from forecaster.broker.renewal import SILENT, must_be_renewed, successor
from forecaster.broker.retry import causes, describe
from forecaster.broker.silence import SilenceWatch
from forecaster.broker.subscriber import ANSWER_TIMEOUT_MS, Subscriber
from forecaster.broker.tolerant_clients import TolerantConsumer, UnreadableBatch
from forecaster.clock import Clock, monotonic
from forecaster.errors import BrokerUnavailable, Fenced, TransientBrokerError
from forecaster.records import PollResult

POLL_TIMEOUT_MS = 200
_log = structlog.get_logger()


class GroupConsumer:
    """Reads one topic as a member of the consumer group, with cooperative rebalancing.

    A client whose brokers are silent, or that is out of the group for long, is replaced by a new one, made from the
    bootstrap servers. All its partitions are then reported as revoked; the group assigns them again.

    Args:
        connection: address and identity.
        topic: name of the topic.
        outage_deadline_seconds: time without a broker, out of the group, or with a batch that cannot be read, after
            which the consumer gives up.
        clock: seconds; for deadlines and pauses.
    """

    def __init__(
        self, connection: Connection, topic: str, outage_deadline_seconds: float, clock: Clock = monotonic
    ) -> None:
        self._topic = topic
        self._name = f"group {connection.group_id}"
        self._is_static = bool(connection.instance_id)
        self._heartbeat_ms = connection.heartbeat_ms
        self._outage_deadline = outage_deadline_seconds
        self._clock = clock
        self._options = options = connection.consumer_options()
        self._max_records: int = options["max_poll_records"]
        self._answers = True
        self._read_id: str | None = None
        self._unreadable_since: dict[int, float] = {}
        self._owned: set[int] = set()
        self._dropped: set[int] = set()
        self._is_reconnected = False
        self._subscriber = Subscriber(options, topic)
        self._silence = SilenceWatch(clock)
        self._membership = MembershipWatch(
            connection.group_id, options["max_poll_interval_ms"] / 1000, outage_deadline_seconds, clock
        )

    def poll(self, *, wait: bool = True, max_records: int | None = None) -> PollResult:
        """Return new records, and what has changed in the assignment.

        Records that arrive during a rebalance are not returned, and are read again: this member could not commit them.

        Args:
            wait: whether to wait a moment if no record is there.
            max_records: largest number of records to return; None = the client's `max_poll_records`, the upper limit.

        Raises:
            Fenced: another process is the static member with this instance id.
            TransientBrokerError: the poll failed, or a batch cannot be read; the next poll can succeed.
            BrokerUnavailable: no broker answered, this process was out of the group, or a batch could not be read, for
                the outage deadline.
        """
        try:
            limit = self._max_records if max_records is None else min(max_records, self._max_records)
            batches = self._client.poll(timeout_ms=POLL_TIMEOUT_MS if wait else 0, max_records=limit)
            member = self._client.group_metadata()
        except KafkaError as error:
            if isinstance(error, UnreadableBatch):
                self._record_unreadable(error)
            else:
                self._follow_group(is_stable=self._is_stable(self._client.group_metadata()))
            translated = _translated(error, f"polling topic {self._topic}")
            if isinstance(translated, Fenced) or not self._reads_former_topic():
                raise translated from error
            batches, member = {}, self._client.group_metadata()  # offsets of the former topic are errors in the new one
        begin = {partition.partition: records[0].offset for partition, records in batches.items()}
        end = {
            partition.partition: max(records[-1].offset + 1, self.next_offset(partition.partition) or 0)
            for partition, records in batches.items()
        }
        stable = self._is_stable(member)
        if batches and not stable:
            self.seek(begin)
            batches, begin, end = {}, {}, {}
        polled_by = self._subscriber
        self._follow_group(is_stable=stable, has_records=bool(batches))
        stable = stable and polled_by is self._subscriber  # a new client has not joined yet
        revoked, assigned = self._take_changes()
        for partition in {*begin, *revoked}:
            self._unreadable_since.pop(partition, None)
        records = [record for batch in batches.values() for record in batch]
        return PollResult(
            records,
            begin,
            end,
            member,
            revoked,
            assigned,
            stable=stable,
            answered=self._answers,
            reconnected=self._take_reconnection(is_stable=stable),
            input_id=self._client.topic_id(self._topic),
        )

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

    def read_from(self, topic_id: str) -> None:
        """Read only from the topic with this id, where the broker knows ids; drop what was fetched from another one."""
        self._read_id = topic_id
        self._client.read_from(self._topic, topic_id)
        if self._client.topic_id(self._topic) not in (None, topic_id):
            self._client.ask()  # its metadata is older than what the restore has seen, and nothing else renews it soon

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
        """Return the consumer group's committed offset of each partition that has one.

        Raises:
            TransientBrokerError: the broker did not answer in time.
            BrokerUnavailable: no broker answered for the outage deadline.
        """
        try:
            offsets = {
                partition: self._client.committed(TopicPartition(self._topic, partition), timeout_ms=ANSWER_TIMEOUT_MS)
                for partition in partitions
            }
        except KafkaError as error:
            self._follow_brokers()
            raise _translated(error, f"reading committed offsets of topic {self._topic}") from error
        return {partition: offset for partition, offset in offsets.items() if offset is not None}

    def ends(self) -> dict[int, int]:
        """Return the end of each assigned partition as of its last fetch; partitions not fetched yet are left out."""
        ends = {partition.partition: self._client.highwater(partition) for partition in self._client.assignment()}
        return {partition: end for partition, end in ends.items() if end is not None}

    def readable_ends(self) -> dict[int, int]:
        """Return the ends of what can be read now: an open transaction keeps back all records behind it."""
        ends = {partition.partition: self._client.readable_end(partition) for partition in self._client.assignment()}
        return {partition: end for partition, end in ends.items() if end is not None}

    def close(self) -> None:
        """Close the connections within seconds; a dynamic member leaves the group, a static one stays in it."""
        self._subscriber.close()

    @property
    def _client(self) -> TolerantConsumer:
        return self._subscriber.client

    def _take_changes(self) -> tuple[list[int], list[int]]:
        """Return the partitions revoked and assigned since the last call; one in both was revoked, then assigned."""
        revoked, assigned = self._subscriber.assignment.take_changes()
        revoked, self._dropped = revoked | self._dropped, set()
        self._owned = (self._owned - revoked) | assigned
        return sorted(revoked), sorted(assigned)

    def _reads_former_topic(self) -> bool:
        """Return whether another topic has the name of the one that is read."""
        return self._read_id not in (None, self._client.topic_id(self._topic) or self._read_id)

    def _take_reconnection(self, *, is_stable: bool) -> bool:
        """Return true once after silent brokers have led to a new client, when this client has joined the group."""
        is_reconnected = self._is_reconnected and is_stable
        self._is_reconnected &= not is_stable
        return is_reconnected

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

    def _is_stable(self, member: ConsumerGroupMetadata) -> bool:
        """Return whether the member belongs to the group's current generation, as far as a session timeout tells."""
        return bool(member.state == MemberState.STABLE) and self._client.is_confirmed

    def _follow_group(self, *, is_stable: bool, has_records: bool = False) -> None:
        """Let a new client join the group if this one is out of it for long, or if its brokers are silent."""
        self._follow_brokers(has_records=has_records)
        self._membership.look(is_stable=is_stable, is_joining=self._client.is_joining)
        if self._membership.is_renewal_due:
            self._renew("out of the group")
            self._membership.record_renewal()

    def _follow_brokers(self, *, has_records: bool = False) -> None:
        """Ask the brokers something if they have sent nothing for a while; replace the client if they stay silent."""
        silent_seconds = self._silence.silent_seconds
        if has_records:
            self._silence.record_answer()
        else:
            self._silence.look(self._client)
        if must_be_renewed(self._client, self._silence):
            is_renewed = self._renew(SILENT)
            self._silence.record_attempt(self._client if is_renewed else None)
            self._is_reconnected |= is_renewed
        self._report(silent_seconds)

    def _report(self, silent_seconds: float) -> None:
        """Log the beginning and the end of a silence; raise BrokerUnavailable past the outage deadline."""
        answers = self._silence.has_answer
        error = f"no broker answered for {silent_seconds:.0f} s"
        if answers and not self._answers:
            _log.info("broker_answers_again", silent_seconds=round(silent_seconds, 1))
        elif not answers and self._answers:
            _log.warning("broker_silent", error=error, deadline_seconds=self._outage_deadline)
        self._answers = answers
        if not answers and silent_seconds > self._outage_deadline:
            raise BrokerUnavailable(
                f"{error}: check the brokers and the network, or raise FORECASTER_KAFKA__OUTAGE_DEADLINE"
            )

    def _renew(self, reason: str) -> bool:
        """Let a new client take over, if a bootstrap server answers; return whether it did."""
        new = successor(self._subscriber, lambda: Subscriber(self._options, self._topic), self._name, reason)
        if new is None:
            return False
        self._subscriber = new
        self._dropped |= self._owned
        if self._read_id is not None:
            self._client.read_from(self._topic, self._read_id)
        return True


def _translated(error: KafkaError, action: str) -> Fenced | TransientBrokerError:
    """Return the error of this project for one of the client's, in which the action names what failed."""
    if any(isinstance(cause, FencedInstanceIdError) for cause in causes(error)):
        return Fenced(
            "another process runs with the same FORECASTER_KAFKA__INSTANCE_ID: give each its own, or leave it empty"
        )
    return TransientBrokerError(f"{action}: {describe(error)}")
