"""A plain producer and a plain consumer, for everything outside of the daemon: the demo, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from forecaster.broker.tolerant_clients import TolerantConsumer

POLL_TIMEOUT_MS = 200


@dataclass(frozen=True, slots=True)
class CommittedRecord:
    """A committed record of one topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def create_topic(address: str, name: str, partitions: int) -> None:
    """Create a topic, and return when its partitions have leaders."""
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        admin.create_topics([NewTopic(name, partitions, 1)], timeout_ms=10_000)
        admin.wait_for_topics([name])
    finally:
        admin.close()


class RecordWriter:
    """Writes records as a fleet of sensors does: with keys, without transactions."""

    def __init__(self, address: str, topic: str) -> None:
        self._topic = topic
        self._client = KafkaProducer(bootstrap_servers=address, linger_ms=5, batch_size=262_144)

    def send(self, key: bytes | None, value: bytes | None, **options: Any) -> None:
        """Hand a record to the client; `options` are the client's: partition, headers, timestamp_ms."""
        self._client.send(self._topic, value, key, **options)

    def flush(self) -> None:
        """Wait until the broker has every record."""
        self._client.flush(timeout=30)

    def close(self) -> None:
        """Wait until the broker has every record, then close the connection."""
        self._client.close(timeout=30)


class RecordReader:
    """Reads the committed records of all partitions of a topic from their beginning."""

    def __init__(self, address: str, topic: str, partitions: int) -> None:
        self._client = TolerantConsumer(
            bootstrap_servers=address,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_poll_records=5_000,
        )
        self._client.assign([TopicPartition(topic, partition) for partition in range(partitions)])
        self._client.seek_to_beginning()

    def poll(self) -> Iterator[CommittedRecord]:
        """Yield the records that have arrived since the last call; none if there are none within a moment."""
        for partition, records in self._client.poll(timeout_ms=POLL_TIMEOUT_MS).items():
            for record in records:
                yield CommittedRecord(
                    partition.partition, record.offset, record.key, record.value, dict(record.headers or ())
                )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
