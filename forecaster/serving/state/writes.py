"""What a transaction writes of a partition's state, as records of the state topic."""

from __future__ import annotations

from dataclasses import dataclass

from forecaster.core.state import SeriesState
from forecaster.formats.state import Floor, Identity, StoredBlock, encode, stored_arrays
from forecaster.records import Message


@dataclass(frozen=True, slots=True)
class StateWrites:
    """Records of the state topic in one transaction, and the changes to apply after its commit.

    Attributes:
        position: the written blocks hold all readings before this offset.
        written: blocks that are written.
        tombstones: blocks that are deleted from the state topic.
        freed: series that lose their rows at the end of the batch.
        floor: the new floor; None = the stored one stays.
        messages: records of the state topic; the floor's is the last one.
    """

    position: int
    written: list[int]
    tombstones: list[int]
    freed: list[str]
    floor: Floor | None
    messages: list[Message]

    @property
    def size(self) -> int:
        """Bytes of the messages' values."""
        return sum(len(message.value or b"") for message in self.messages)


def state_message(key_prefix: str, partition_number: int, name: int | str, value: bytes | None) -> Message:
    """Return a record of the state topic.

    Args:
        key_prefix: first part of the group's keys.
        partition_number: number of the partition.
        name: last part of the key: the number of a block, or the floor's name.
        value: value of the record; None = a tombstone.
    """
    return Message(partition_number, f"{key_prefix}/{partition_number}/{name}".encode(), value, [])


def encoded_block(identity: Identity, offset: int, names: list[str], groups: list[str], state: SeriesState) -> bytes:
    """Return the value of a block's record.

    Args:
        identity: identity of the stored state.
        offset: the rows hold all readings before this offset.
        names: series of the N rows.
        groups: groups of the rows.
        state: the rows; N.
    """
    return encode(StoredBlock(identity, offset, names, [] if groups == names else groups, stored_arrays(state)))
