"""A reader of single partitions outside of the consumer group: for stored state, and for input that is replayed."""

from __future__ import annotations

from kafka import TopicPartition
from kafka.errors import KafkaError

from forecaster.broker.connection import Connection
from forecaster.broker.retry import describe
from forecaster.broker.tolerant_clients import TolerantConsumer
from forecaster.broker.topics import TopicAdmin
from forecaster.errors import TransientBrokerError
from forecaster.records import SourceRecord

ANSWER_TIMEOUT_MS = 5_000
READ_TIMEOUT_MS = 20


class LogReader:
    """Reads committed records of one partition at a time; it is not a member of the consumer group.

    Args:
        connection: address, and the group whose committed offsets can be read.
        topics: asks the broker about offsets.
    """

    def __init__(self, connection: Connection, topics: TopicAdmin) -> None:
        self._topics = topics
        self._client = TolerantConsumer(**connection.reader_options())
        self._partition: TopicPartition | None = None

    def committed(self, topic: str, partition: int) -> int | None:
        """Return the consumer group's committed offset; None = there is none.

        Raises:
            TransientBrokerError: the broker did not answer in time.
        """
        try:
            offset: int | None = self._client.committed(TopicPartition(topic, partition), timeout_ms=ANSWER_TIMEOUT_MS)
        except KafkaError as error:
            raise TransientBrokerError(
                f"committed offset of topic {topic}, partition {partition}: {describe(error)}"
            ) from error
        return offset

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset of the log, and the one after its last: the high watermark.

        Raises:
            TransientBrokerError: the broker did not answer in time.
        """
        return self._topics.bounds(topic, partition)

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose record has this timestamp (epoch ms) or a later one.

        If there is none, return the high watermark.

        Raises:
            TransientBrokerError: the broker did not answer in time.
        """
        return self._topics.offset_at(topic, partition, timestamp_ms)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Continue at an offset of a partition: the next record is the one there, or the first after it."""
        self._partition = TopicPartition(topic, partition)
        self._client.assign([self._partition])
        self._client.seek(self._partition, offset)

    def read(self, *, wait: bool = True) -> list[SourceRecord]:
        """Return the next records; an empty list if none arrived within a moment.

        Args:
            wait: whether to wait that moment for records that are not fetched yet.

        Raises:
            TransientBrokerError: the read failed, or retention has deleted the offset.
        """
        try:
            batches = self._client.poll(timeout_ms=READ_TIMEOUT_MS if wait else 0)
        except KafkaError as error:
            raise TransientBrokerError(f"reading {self._name()}: {describe(error)}") from error
        return [record for records in batches.values() for record in records]

    @property
    def position(self) -> int:
        """Offset of the next record, after all records and transaction markers that were read.

        Raises:
            TransientBrokerError: the client does not know it yet.
        """
        try:
            position: int | None = self._client.position(self._partition, timeout_ms=ANSWER_TIMEOUT_MS)
        except KafkaError as error:
            raise TransientBrokerError(f"position in {self._name()}: {describe(error)}") from error
        if position is None:
            raise TransientBrokerError(f"position in {self._name()}: not known yet")
        return position

    def close(self) -> None:
        """Close the connections."""
        self._client.close(autocommit=False, timeout_ms=ANSWER_TIMEOUT_MS)

    def _name(self) -> str:
        if self._partition is None:
            return "no partition"
        return f"topic {self._partition.topic}, partition {self._partition.partition}"
