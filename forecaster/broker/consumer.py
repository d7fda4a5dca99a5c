"""The member of the consumer group that reads the input topic."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import structlog
from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.errors import FencedInstanceIdError, KafkaError
from kafka.structs import MemberState

from forecaster.broker.connection import Connection
from forecaster.broker.retry import causes, describe
from forecaster.broker.tolerant_consumer import KafkaConsumer, UnreadableBatch
from forecaster.errors import BrokerUnavailable, Fenced, TransientBrokerError
from forecaster.records import PollResult

POLL_TIMEOUT_MS = 200
ANSWER_TIMEOUT_MS = 5_000
PROBE_SECONDS = 10.0
"""An idle consumer asks so often whether there still is a broker."""
_log = structlog.get_logger()


class GroupConsumer:
    """Reads one topic as a member of the group; owns its partitions cooperatively.

    Args:
        connection: how and as whom.
        topic: the input.
        outage_deadline_seconds: a consumer gives up that is idle and finds no broker, or cannot read on in one of its
            partitions, for so long.
    """

    def __init__(self, connection: Connection, topic: str, outage_deadline_seconds: float) -> None:
        self._topic = topic
        self._is_static = bool(connection.instance_id)
        self._heartbeat_ms = connection.heartbeat_ms
        self._outage_deadline = outage_deadline_seconds
        options = connection.consumer_options()
        self._max_records: int = options["max_poll_records"]
        self._heard = self._probed = time.monotonic()
        self._answered = True
        self._unreadable: dict[int, float] = {}
        self._client = KafkaConsumer(**options)
        self._changes = _Changes(self._client)
        try:
            self._client.subscribe([topic], listener=self._changes)
            # Who leads a group before it has seen the topic assigns nobody anything; a static member would be given
            # that empty assignment again at every start.
            self._client.partitions_for_topic(topic)
        except BaseException:
            self._client.close(autocommit=False, timeout_ms=ANSWER_TIMEOUT_MS)
            raise

    def poll(self, *, wait: bool = True, max_records: int | None = None) -> PollResult:
        """Returns new records and what happened to the assignment.

        Args:
            wait: for a while, when there is nothing.
            max_records: of this poll; None, or more than the client's `max_poll_records` = those.

        Records that come while the group is not stable are put back: nobody could commit them.

        Raises:
            Fenced: another process is the member with our instance id.
            TransientBrokerError: not this time.
            BrokerUnavailable: no broker was there for the outage deadline, or a batch could not be read for so long.
        """
        try:
            most = self._max_records if max_records is None else min(max_records, self._max_records)
            batches = self._client.poll(timeout_ms=POLL_TIMEOUT_MS if wait else 0, max_records=most)
            member = self._client.group_metadata()
        except KafkaError as error:
            if isinstance(error, UnreadableBatch):
                self._note_unreadable(error)
            raise _translated(error, f"polling {self._topic}") from error
        begin = {partition.partition: records[0].offset for partition, records in batches.items()}
        end = {
            partition.partition: max(records[-1].offset + 1, self.next_offset(partition.partition) or 0)
            for partition, records in batches.items()
        }
        stable = bool(member.state == MemberState.STABLE)
        if batches and not stable:
            self.seek(begin)
            batches, begin, end = {}, {}, {}
        self._listen(heard=bool(batches))
        closed, opened = self._changes.take()
        for partition in {*begin, *closed}:
            self._unreadable.pop(partition, None)
        records = [record for batch in batches.values() for record in batch]
        return PollResult(records, begin, end, member, closed, opened, stable=stable, answered=self._answered)

    def resume(self, partitions: Iterable[int]) -> None:
        """The partitions deliver records, those of them that still are ours."""
        self._client.resume(*self._mine(partitions))

    def pause(self, partitions: Iterable[int]) -> None:
        """The partitions deliver nothing until they are resumed."""
        self._client.pause(*self._mine(partitions))

    def seek(self, offsets: Mapping[int, int]) -> None:
        """The next records of the partitions are those at the offsets; partitions not ours any more are left out."""
        for partition in self._mine(offsets):
            self._client.seek(partition, offsets[partition.partition])

    def next_offset(self, partition: int) -> int | None:
        """Returns where the partition is read next: nothing before it is still to come; None = not known just now."""
        return self._client.next_offset(TopicPartition(self._topic, partition))

    def confirm_membership(self) -> None:
        """A static member is still the one with its instance id: two heartbeats went by without a word to the contrary.

        Raises:
            Fenced: another process is.
            TransientBrokerError: not this time.
        """
        if not self._is_static:
            return
        free = [one.partition for one in self._client.assignment() - self._client.paused()]
        self.pause(free)
        try:
            self._client.poll(timeout_ms=2 * self._heartbeat_ms)
        except KafkaError as error:
            raise _translated(error, "asking the group") from error
        finally:
            self.resume(free)

    def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        """Returns the group's committed offset of each partition; 0 where it has none.

        Raises:
            TransientBrokerError: the broker did not say in time.
        """
        try:
            return {
                partition: self._client.committed(TopicPartition(self._topic, partition), timeout_ms=ANSWER_TIMEOUT_MS)
                or 0
                for partition in partitions
            }
        except KafkaError as error:
            raise _translated(error, "reading committed offsets") from error

    def ends(self) -> dict[int, int]:
        """Returns the ends of our partitions' logs, as the last fetch told; those not fetched yet are left out."""
        found = {one.partition: self._client.highwater(one) for one in self._client.assignment()}
        return {partition: end for partition, end in found.items() if end is not None}

    def close(self) -> None:
        """The group knows that this member has left (a static one: stays away), within seconds."""
        self._client.close(autocommit=False, timeout_ms=ANSWER_TIMEOUT_MS)

    def _mine(self, partitions: Iterable[int]) -> list[TopicPartition]:
        wanted = set(partitions)
        return [partition for partition in self._client.assignment() if partition.partition in wanted]

    def _note_unreadable(self, error: UnreadableBatch) -> None:
        """Other partitions may go on meanwhile, so the deadline of this one is kept here."""
        now, partition = time.monotonic(), error.partition.partition
        if partition not in self._unreadable:
            self._unreadable[partition] = now
            _log.error("a batch cannot be read", topic=self._topic, partition=partition, offset=error.offset)
        silent = now - self._unreadable[partition]
        if silent > self._outage_deadline:
            raise BrokerUnavailable(f"{describe(error)}; it could not be read for {silent:.0f} s") from error

    def _listen(self, *, heard: bool) -> None:
        """Idleness and an outage look alike from here, so an idle consumer asks from time to time."""
        now = time.monotonic()
        if heard:
            self._hear()
        elif now - self._probed > PROBE_SECONDS:
            try:
                self.committed([0])
                self._hear()
            except TransientBrokerError as error:
                if now - self._heard > self._outage_deadline:
                    raise BrokerUnavailable(f"no broker for {now - self._heard:.0f} s: {error}") from error
                if self._answered:
                    self._answered = False
                    _log.warning("the broker does not answer", error=str(error), deadline=self._outage_deadline)
            self._probed = time.monotonic()

    def _hear(self) -> None:
        now = time.monotonic()
        if not self._answered:
            self._answered = True
            _log.info("the broker answers again", silent_seconds=round(now - self._heard, 1))
        self._heard = self._probed = now


def _translated(error: KafkaError, what: str) -> Fenced | TransientBrokerError:
    if any(isinstance(cause, FencedInstanceIdError) for cause in causes(error)):
        return Fenced(
            "another process runs with the same FORECASTER_KAFKA__INSTANCE_ID: give each its own, or leave it empty"
        )
    return TransientBrokerError(f"{what}: {describe(error)}")


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what happens to the assignment; it is acted upon after the poll that it happens in."""

    def __init__(self, client: KafkaConsumer) -> None:
        self._client = client
        self._closed: set[int] = set()
        self._opened: set[int] = set()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """New partitions wait until their rows are there."""
        self._client.pause(*assigned)
        self._opened |= {partition.partition for partition in assigned}

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Their rows are somebody else's now."""
        gone = {partition.partition for partition in revoked}
        self._closed |= gone
        self._opened -= gone

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """The same, without having been asked."""
        self.on_partitions_revoked(lost)

    def take(self) -> tuple[list[int], list[int]]:
        """Returns the partitions closed and opened since the last time; one in both is to be opened anew."""
        changes = sorted(self._closed), sorted(self._opened)
        self._closed, self._opened = set(), set()
        return changes
