"""A reader of single partitions outside of the consumer group: for stored state, and for input that is replayed."""

from __future__ import annotations

from kafka import TopicPartition
from kafka.errors import KafkaError

from forecaster.broker.connection import Connection
from forecaster.broker.renewal import follow_brokers
from forecaster.broker.retry import describe
from forecaster.broker.silence import SilenceWatch
from forecaster.broker.tolerant_clients import TolerantConsumer
from forecaster.broker.topics import TopicAdmin
from forecaster.clock import Clock, monotonic
from forecaster.errors import TransientBrokerError
from forecaster.records import SourceRecord, TopicFacts

ANSWER_TIMEOUT_MS = 5_000
READ_TIMEOUT_MS = 20


class LogReader:
    """Reads committed records of one partition at a time; it is not a member of the consumer group.

    A new client, made from the bootstrap servers, replaces one whose brokers are silent, and continues at its position.

    Args:
        connection: address, and the group whose committed offsets can be read.
        topics: asks the broker about offsets.
        clock: seconds; for the silence of the brokers.
    """

    def __init__(self, connection: Connection, topics: TopicAdmin, clock: Clock = monotonic) -> None:
        self._topics = topics
        self._options = connection.reader_options()
        self._silence = SilenceWatch(clock)
        self._client = TolerantConsumer(**self._options)
        self._partition: TopicPartition | None = None

    def committed(self, topic: str, partition: int) -> int | None:
        """Return the consumer group's committed offset; None = there is none.

        Raises:
            TransientBrokerError: the broker did not answer in time.
        """
        try:
            offset: int | None = self._client.committed(TopicPartition(topic, partition), timeout_ms=ANSWER_TIMEOUT_MS)
        except KafkaError as error:
            self._follow_brokers(has_failed=True)
            raise TransientBrokerError(
                f"committed offset of topic {topic}, partition {partition}: {describe(error)}"
            ) from error
        return offset

    def facts(self, topic: str) -> TopicFacts:
        """Return what the input topic is now.

        Raises:
            InputMissing: the topic does not exist.
            TransientBrokerError: the broker did not answer in time.
        """
        try:
            return self._topics.facts(topic)
        except KafkaError as error:
            raise TransientBrokerError(f"id of topic {topic}: {describe(error)}") from error

    def topic_id(self, topic: str) -> str:
        """Return the id of a topic, as `SeenTopic` has it.

        Raises:
            TransientBrokerError: the broker did not answer in time, or does not know the topic just now.
        """
        try:
            seen = self._topics.seen([topic])
        except KafkaError as error:
            raise TransientBrokerError(f"id of topic {topic}: {describe(error)}") from error
        if topic not in seen:
            raise TransientBrokerError(f"topic {topic}: does not exist just now")
        return seen[topic].topic_id

    def is_compacted(self, topic: str) -> bool:
        """Return whether Kafka compacts a topic; false if this user may not ask.

        Raises:
            TransientBrokerError: the broker did not answer in time.
        """
        try:
            return "compact" in self._topics.settings([topic])[topic].get("cleanup.policy", "")
        except KafkaError as error:
            raise TransientBrokerError(f"settings of topic {topic}: {describe(error)}") from error

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
            self._follow_brokers(has_failed=True)
            raise TransientBrokerError(f"reading {self._name()}: {describe(error)}") from error
        if batches:
            self._silence.record_answer()
        else:
            self._follow_brokers()
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
            self._follow_brokers(has_failed=True)
            raise TransientBrokerError(f"position in {self._name()}: {describe(error)}") from error
        if position is None:
            self._follow_brokers(has_failed=True)
            raise TransientBrokerError(f"position in {self._name()}: not known yet")
        return position

    def close(self) -> None:
        """Close the connections."""
        self._client.close(autocommit=False, timeout_ms=ANSWER_TIMEOUT_MS)

    def _follow_brokers(self, *, has_failed: bool = False) -> None:
        """Ask the brokers something if they have sent nothing for a while; replace the client if they stay silent."""
        name = f"reader of {self._name()}"
        self._client = follow_brokers(self._client, self._silence, self._connect_again, name, has_failed=has_failed)

    def _connect_again(self) -> TolerantConsumer:
        """Return a client that continues where the present one is."""
        client = TolerantConsumer(**self._options)
        if self._partition is not None:
            client.assign([self._partition])
            if (offset := self._client.next_offset(self._partition)) is not None:
                client.seek(self._partition, offset)
        return client

    def _name(self) -> str:
        if self._partition is None:
            return "no partition"
        return f"topic {self._partition.topic}, partition {self._partition.partition}"
