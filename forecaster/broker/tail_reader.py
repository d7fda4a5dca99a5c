"""A reader of all partitions of a topic that follows new records, outside of any group."""

from __future__ import annotations

from kafka import TopicPartition
from kafka.errors import KafkaError

from forecaster.broker.connection import Connection
from forecaster.broker.retry import describe
from forecaster.broker.tolerant_clients import TolerantConsumer
from forecaster.errors import TransientBrokerError
from forecaster.records import SourceRecord

CLOSE_TIMEOUT_MS = 5_000


class TailReader:
    """Reads committed records from the first one that the topic still has; it never waits for records.

    Args:
        connection: address of the broker.
        topic: name of the topic.
        partitions: partition count of the topic.
    """

    def __init__(self, connection: Connection, topic: str, partitions: int) -> None:
        self._topic = topic
        self._partitions = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._backlog_ends: dict[TopicPartition, int] = {}
        self._client = TolerantConsumer(**connection.tail_options())
        try:
            self._client.assign(self._partitions)
            self._client.seek_to_beginning()
        except BaseException:
            self.close()
            raise

    def read(self) -> list[SourceRecord]:
        """Return the next records that the client has fetched, of any partition; it fetches more in the meantime.

        Raises:
            TransientBrokerError: the read failed; the next one can succeed.
        """
        try:
            batches = self._client.poll(timeout_ms=0)
        except KafkaError as error:
            raise TransientBrokerError(f"reading topic {self._topic}: {describe(error)}") from error
        return [record for records in batches.values() for record in records]

    def mark_backlog(self) -> None:
        """Define the backlog: everything that the topic holds now and that was not read yet.

        Raises:
            TransientBrokerError: the broker did not answer.
        """
        try:
            self._backlog_ends = self._client.end_offsets(self._partitions)
        except KafkaError as error:
            raise TransientBrokerError(f"end of topic {self._topic}: {describe(error)}") from error

    def has_read_backlog(self) -> bool:
        """Return whether the whole backlog was read.

        Raises:
            TransientBrokerError: the broker did not answer.
        """
        ends = self._backlog_ends
        try:
            unread = [partition for partition, end in ends.items() if (self._client.position(partition) or 0) < end]
        except KafkaError as error:
            raise TransientBrokerError(f"position in topic {self._topic}: {describe(error)}") from error
        self._backlog_ends = {partition: ends[partition] for partition in unread}
        return not unread

    def close(self) -> None:
        """Close the connections."""
        self._client.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)
