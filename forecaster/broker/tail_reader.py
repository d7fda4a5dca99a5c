"""A reader of all partitions of a topic that follows what is written, beside any group."""

from __future__ import annotations

from kafka import TopicPartition
from kafka.errors import KafkaError

from forecaster.broker.connection import Connection
from forecaster.broker.retry import describe
from forecaster.broker.tolerant_consumer import KafkaConsumer
from forecaster.errors import TransientBrokerError
from forecaster.records import SourceRecord

CLOSE_TIMEOUT_MS = 5_000


class TailReader:
    """Reads committed records from the beginning of what the topic still holds; never waits for one.

    Args:
        connection: how the broker is reached.
        topic: all of it.
        partitions: how many it has.
    """

    def __init__(self, connection: Connection, topic: str, partitions: int) -> None:
        self._topic = topic
        self._whole = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._backlog: dict[TopicPartition, int] = {}
        self._client = KafkaConsumer(**connection.tail_options())
        try:
            self._client.assign(self._whole)
            self._client.seek_to_beginning()
        except BaseException:
            self.close()
            raise

    def read(self) -> list[SourceRecord]:
        """Returns the next records that are here by now, of any partition; the client fetches more meanwhile.

        Raises:
            TransientBrokerError: not this time.
        """
        try:
            found = self._client.poll(timeout_ms=0)
        except KafkaError as error:
            raise TransientBrokerError(f"reading {self._topic}: {describe(error)}") from error
        return [record for records in found.values() for record in records]

    def mark_backlog(self) -> None:
        """The backlog is what the topic holds by now and was not read yet.

        Raises:
            TransientBrokerError: not this time.
        """
        try:
            self._backlog = self._client.end_offsets(self._whole)
        except KafkaError as error:
            raise TransientBrokerError(f"end of {self._topic}: {describe(error)}") from error

    def has_read_backlog(self) -> bool:
        """All of the backlog has been read.

        Raises:
            TransientBrokerError: not this time.
        """
        try:
            behind = [one for one, end in self._backlog.items() if (self._client.position(one) or 0) < end]
        except KafkaError as error:
            raise TransientBrokerError(f"reading {self._topic}: {describe(error)}") from error
        self._backlog = {one: self._backlog[one] for one in behind}
        return not behind

    def close(self) -> None:
        """The connection is closed."""
        self._client.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)
