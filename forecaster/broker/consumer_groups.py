"""Where a key goes, and what a group is like from the outside."""

from __future__ import annotations

from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2
from kafka.structs import ConsumerGroupMetadata

from forecaster.broker.connection import Connection
from forecaster.broker.log_reader import LogReader
from forecaster.broker.retry import describe
from forecaster.errors import TransientBrokerError

NO_GROUP = "Dead"
"""The state of a group that nobody has ever been in."""


def partition_of(key: bytes, partitions: int) -> int:
    """Returns the partition that the default partitioner of Kafka's clients chooses for a key (murmur2)."""
    return (int(murmur2(key)) & 0x7FFFFFFF) % partitions


def standalone_member(group_id: str) -> ConsumerGroupMetadata:
    """Returns who commits offsets for a group without being in it; brokers take them while nobody else is."""
    return ConsumerGroupMetadata(group_id)


class ConsumerGroup:
    """Asks the coordinator about a group that we are not in.

    Args:
        connection: names the group.
        reader: tells its offsets.
        topic: whose offsets.
        partitions: how many it has.
    """

    def __init__(self, connection: Connection, reader: LogReader, topic: str, partitions: int) -> None:
        self._connection, self._reader, self._topic, self._partitions = connection, reader, topic, partitions

    def committed(self) -> dict[int, int]:
        """Returns the committed offsets of the partitions that have one.

        Raises:
            TransientBrokerError: the broker did not say in time.
        """
        offsets = {number: self._reader.committed(self._topic, number) for number in range(self._partitions)}
        return {number: offset for number, offset in offsets.items() if offset is not None}

    def members(self) -> int:
        """Returns how many members it has now.

        Raises:
            TransientBrokerError: its coordinator did not say.
        """
        name = self._connection.group_id
        try:
            found = _described(self._connection)
        except KafkaError as error:
            raise TransientBrokerError(f"members of group {name}: {describe(error)}") from error
        if found["error"] and found["group_state"] != NO_GROUP:
            raise TransientBrokerError(f"members of group {name}: {found['error']}")
        return len(found["members"])


def _described(connection: Connection) -> dict[str, Any]:
    """Returns what the coordinator tells of the group.

    The client always asks what we may do to it, too, and fails where the broker names an operation that the client does
    not know: that part of the answer is left as it comes.
    """
    admin: Any = KafkaAdminClient(**connection.admin_options())
    try:
        admin._process_acl_operations = lambda group: group  # noqa: SLF001 - see above
        described: dict[str, Any] = admin.describe_groups([connection.group_id])[connection.group_id]
    finally:
        admin.close()
    return described
