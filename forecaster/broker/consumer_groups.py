"""Consumer groups from outside: partitions of keys, committed offsets and members."""

from __future__ import annotations

from typing import Any

from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2
from kafka.structs import ConsumerGroupMetadata

from forecaster.broker.connection import Connection
from forecaster.broker.log_reader import LogReader
from forecaster.broker.retry import describe
from forecaster.broker.tolerant_clients import TolerantAdminClient
from forecaster.errors import TransientBrokerError

UNKNOWN_GROUP = "Dead"
"""State in which a broker reports a group that never had a member."""


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that the default partitioner of Kafka's clients chooses for a key (murmur2)."""
    return (int(murmur2(key)) & 0x7FFFFFFF) % partitions


def standalone_member(group_id: str) -> ConsumerGroupMetadata:
    """Return the identity to commit offsets with from outside a group; brokers accept it while the group is empty."""
    return ConsumerGroupMetadata(group_id)


class ConsumerGroup:
    """Asks the broker about a group that this process is not a member of.

    Args:
        connection: address, and the name of the consumer group.
        reader: reads the committed offsets of the consumer group.
        topic: topic of the offsets.
        partitions: partition count of the topic.
    """

    def __init__(self, connection: Connection, reader: LogReader, topic: str, partitions: int) -> None:
        self._connection, self._reader, self._topic, self._partitions = connection, reader, topic, partitions

    def committed(self) -> dict[int, int]:
        """Return the committed offset of each partition that has one.

        Raises:
            TransientBrokerError: the broker did not answer in time.
        """
        offsets = {number: self._reader.committed(self._topic, number) for number in range(self._partitions)}
        return {number: offset for number, offset in offsets.items() if offset is not None}

    def members(self) -> int:
        """Return the present number of members.

        Raises:
            TransientBrokerError: the coordinator of the consumer group did not answer.
        """
        name = self._connection.group_id
        try:
            group = _describe_group(self._connection)
        except KafkaError as error:
            raise TransientBrokerError(f"members of group {name}: {describe(error)}") from error
        if group["error"] and group["group_state"] != UNKNOWN_GROUP:
            raise TransientBrokerError(f"members of group {name}: {group['error']}")
        return len(group["members"])


def _describe_group(connection: Connection) -> dict[str, Any]:
    """Return the coordinator's description of the connection's group."""
    admin = TolerantAdminClient(**connection.admin_options())
    try:
        group: dict[str, Any] = admin.describe_groups([connection.group_id])[connection.group_id]
    finally:
        admin.close()
    return group
