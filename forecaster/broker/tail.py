"""A reader of all partitions of a topic that follows what is written, beside any group."""

from __future__ import annotations

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from forecaster.broker.options import Connection
from forecaster.broker.patience import describe
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
        self._client = KafkaConsumer(**connection.tail())
        try:
            whole = [TopicPartition(topic, partition) for partition in range(partitions)]
            self._client.assign(whole)
            self._client.seek_to_beginning()
            self._backlog: dict[TopicPartition, int] = self._client.end_offsets(whole)
        except KafkaError:
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

    def has_read_backlog(self) -> bool:
        """All that the topic held at the beginning has been read.

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
