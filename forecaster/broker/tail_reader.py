"""A reader of all partitions of a topic that follows new records, outside of any group."""

from __future__ import annotations

from collections.abc import Mapping

from kafka import TopicPartition
from kafka.errors import KafkaError

from forecaster.broker.connection import Connection
from forecaster.broker.renewal import follow_brokers
from forecaster.broker.retry import describe
from forecaster.broker.silence import SilenceWatch
from forecaster.broker.tolerant_clients import TolerantConsumer
from forecaster.clock import Clock, monotonic
from forecaster.errors import TransientBrokerError
from forecaster.records import SourceRecord

CLOSE_TIMEOUT_MS = 5_000


class TailReader:
    """Reads committed records from the first one that the topic still has; it never waits for records.

    A new client, made from the bootstrap servers, replaces one whose brokers are silent, and continues at its position.

    Args:
        connection: address of the broker.
        topic: name of the topic.
        partitions: partition count of the topic.
        clock: seconds; for the silence of the brokers.
    """

    def __init__(self, connection: Connection, topic: str, partitions: int, clock: Clock = monotonic) -> None:
        self._topic = topic
        self._options = connection.tail_options()
        self._silence = SilenceWatch(clock)
        self._partitions = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._backlog_ends: dict[TopicPartition, int] = {}
        self._client = self._connect({})

    def read(self) -> list[SourceRecord]:
        """Return the next records that the client has fetched, of any partition; it fetches more in the meantime.

        Raises:
            TransientBrokerError: the read failed; the next one can succeed.
        """
        try:
            batches = self._client.poll(timeout_ms=0)
        except KafkaError as error:
            self._follow_brokers(has_failed=True)
            raise TransientBrokerError(f"reading topic {self._topic}: {describe(error)}") from error
        if batches:
            self._silence.record_answer()
        else:
            self._follow_brokers()
        return [record for records in batches.values() for record in records]

    def mark_backlog(self) -> None:
        """Define the backlog: everything that the topic holds now and that was not read yet.

        Raises:
            TransientBrokerError: the broker did not answer.
        """
        try:
            self._backlog_ends = self._client.end_offsets(self._partitions)
        except KafkaError as error:
            self._follow_brokers(has_failed=True)
            raise TransientBrokerError(f"end of topic {self._topic}: {describe(error)}") from error

    def has_read_backlog(self) -> bool:
        """Return whether the whole backlog was read."""
        ends = self._backlog_ends
        unread = [partition for partition, end in ends.items() if (self._client.next_offset(partition) or 0) < end]
        self._backlog_ends = {partition: ends[partition] for partition in unread}
        return not unread

    def close(self) -> None:
        """Close the connections."""
        self._client.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)

    def _connect(self, positions: Mapping[TopicPartition, int]) -> TolerantConsumer:
        """Return a client that reads each partition from its position, or from the beginning where there is none."""
        client = TolerantConsumer(**self._options)
        try:
            client.assign(self._partitions)
            for partition, offset in positions.items():
                client.seek(partition, offset)
            unknown = [partition for partition in self._partitions if partition not in positions]
            if unknown:
                client.seek_to_beginning(*unknown)
        except BaseException:
            client.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)
            raise
        return client

    def _follow_brokers(self, *, has_failed: bool = False) -> None:
        """Ask the brokers something if they have sent nothing for a while; replace the client if they stay silent."""
        name = f"reader of topic {self._topic}"
        self._client = follow_brokers(self._client, self._silence, self._connect_again, name, has_failed=has_failed)

    def _connect_again(self) -> TolerantConsumer:
        """Return a client that continues where the present one is."""
        offsets = {partition: self._client.next_offset(partition) for partition in self._partitions}
        return self._connect({partition: offset for partition, offset in offsets.items() if offset is not None})
