"""A reader of single partitions beside the group: for stored state, and for input that is replayed."""

from __future__ import annotations

from kafka import TopicPartition
from kafka.errors import KafkaError

from forecaster.broker.connection import Connection
from forecaster.broker.retry import describe
from forecaster.broker.tolerant_consumer import KafkaConsumer
from forecaster.broker.topics import TopicAdmin
from forecaster.errors import TransientBrokerError
from forecaster.records import SourceRecord

ANSWER_TIMEOUT_MS = 5_000
READ_TIMEOUT_MS = 20


class LogReader:
    """Reads committed records of one partition at a time; never a member of the group whose offsets it can tell.

    Args:
        connection: how the broker is reached, and of which group offsets are asked.
        topics: asks the broker about offsets.
    """

    def __init__(self, connection: Connection, topics: TopicAdmin) -> None:
        self._topics = topics
        self._client = KafkaConsumer(**connection.reader_options())
        self._at: TopicPartition | None = None

    def committed(self, topic: str, partition: int) -> int | None:
        """Returns the group's committed offset; None where it has none.

        Raises:
            TransientBrokerError: the broker did not say in time.
        """
        try:
            offset: int | None = self._client.committed(TopicPartition(topic, partition), timeout_ms=ANSWER_TIMEOUT_MS)
        except KafkaError as error:
            raise TransientBrokerError(f"committed offset of {topic}: {describe(error)}") from error
        return offset

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Returns the first offset of the log and the next: its high watermark.

        Raises:
            TransientBrokerError: the broker did not say in time.
        """
        return self._topics.bounds(topic, partition)

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """Returns the first offset written at a time (epoch ms) or later; the high watermark where there is none.

        Raises:
            TransientBrokerError: the broker did not say in time.
        """
        return self._topics.offset_at(topic, partition, timestamp_ms)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """The next record read is the one at the offset, or the first after it."""
        self._at = TopicPartition(topic, partition)
        self._client.assign([self._at])
        self._client.seek(self._at, offset)

    def read(self, *, wait: bool = True) -> list[SourceRecord]:
        """Returns the next records; none where they take longer than a moment.

        Args:
            wait: for that moment; else what the client has fetched since the last read is returned.

        Raises:
            TransientBrokerError: not this time, or the offset is not in the log any more.
        """
        try:
            found = self._client.poll(timeout_ms=READ_TIMEOUT_MS if wait else 0)
        except KafkaError as error:
            raise TransientBrokerError(f"reading {self._at}: {describe(error)}") from error
        return [record for records in found.values() for record in records]

    @property
    def position(self) -> int:
        """Offset after everything read, markers of transactions included.

        Raises:
            TransientBrokerError: the client does not know.
        """
        try:
            position: int | None = self._client.position(self._at, timeout_ms=ANSWER_TIMEOUT_MS)
        except KafkaError as error:
            raise TransientBrokerError(f"position in {self._at}: {describe(error)}") from error
        if position is None:
            raise TransientBrokerError(f"no position in {self._at}")
        return position

    def close(self) -> None:
        """The connection is closed."""
        self._client.close(autocommit=False, timeout_ms=ANSWER_TIMEOUT_MS)
