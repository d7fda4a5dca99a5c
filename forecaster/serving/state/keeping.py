"""How the rows of a partition are kept, and what a batch and its transaction do to them: plain values."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from forecaster.core.arrays import bytes_per_row
from forecaster.core.state import StateShape
from forecaster.errors import UsageError
from forecaster.formats.readings import MAX_SERIES_ID_BYTES
from forecaster.formats.state import Floor, Identity
from forecaster.records import I64, Message
from forecaster.serving.state.blocks import RECORD_BYTES, Room

BLOCK_BYTES = 512 * 1024
LARGEST_BLOCK_BYTES = 900 * 1024
"""A single group may take so much, with names of usual length."""
NAME_BYTES = 64
"""What the name of a series takes in a block, about."""
UNSTORED = Identity("", "", 1, "", 0)
"""Of rows that are never stored."""


@dataclass(frozen=True, slots=True)
class StateConfig:
    """How the rows of a partition are kept.

    Attributes:
        shape: of the rows.
        identity: what stored state belongs to.
        key_prefix: of the keys in the state topic: the group's id.
        max_series: a partition has rows for so many at most.
        group_size: series in a group at most.
        member_bytes: the name of a series of a group is longer than the group's by so many at most; 0 = no groups.
        replay_limit: readings above the floor at most; 0 = 10 for each series, at least 100,000.
        snapshot_seconds: a changed block is written at the latest after this.
    """

    shape: StateShape
    identity: Identity = UNSTORED
    key_prefix: str = ""
    max_series: int = sys.maxsize
    group_size: int = 1
    member_bytes: int = 0
    replay_limit: int = 0
    snapshot_seconds: float = 21_600.0

    @property
    def row_bytes(self) -> int:
        """What a row takes, in memory as in its block, beside the name of its series."""
        return bytes_per_row(self.shape.empty(1))

    @property
    def room(self) -> Room:
        """What fits in a block.

        Raises:
            UsageError: not even one group fits in a record of the state topic.
        """
        group = self.group_size * (self.row_bytes + NAME_BYTES)
        if group > LARGEST_BLOCK_BYTES or self.longest_id < 1:
            raise UsageError(
                f"FORECASTER_FORECAST__HORIZON: {self.group_size} series of {self.row_bytes} bytes in a group "
                f"are too much for one block of state ({LARGEST_BLOCK_BYTES} bytes): ask for a smaller horizon, fewer "
                "quantile levels, a smaller FORECASTER_NETWORK__CONTEXT, or name fewer fields, or shorter ones"
            )
        groups = max(1, BLOCK_BYTES // group)
        return Room(groups, self.group_size * self.row_bytes, self.group_size, self.member_bytes)

    @property
    def longest_id(self) -> int:
        """How many bytes a series_id of the input may have, so that one group always fits in a block."""
        names = RECORD_BYTES // self.group_size - self.row_bytes
        return min(MAX_SERIES_ID_BYTES, (names - self.member_bytes) // 2 if self.member_bytes else names)


@dataclass(frozen=True, slots=True)
class StateWrites:
    """What a transaction writes of a partition's state, and what the partition is once it has committed.

    Attributes:
        position: the blocks are true up to here.
        written: the blocks in it.
        tombstones: the blocks that it ends.
        freed: series that lose their rows at the end of its batch.
        floor: the new floor; None = the topic's stays.
        messages: to the state topic; the floor's is the last one.
    """

    position: int
    written: list[int]
    tombstones: list[int]
    freed: list[str]
    floor: Floor | None
    messages: list[Message]

    @property
    def size(self) -> int:
        """Returns the bytes of the messages' values."""
        return sum(len(message.value or b"") for message in self.messages)


@dataclass(frozen=True, slots=True)
class PartitionCheckout:
    """What a checkout took from one partition.

    Attributes:
        rows: of the table, ascending.
        fresh: the rows that new series would get.
        groups: of the new series.
        refused: position in the batch of the first reading that may have no row; -1 = none.
    """

    partition: int
    rows: I64
    fresh: dict[str, int]
    groups: dict[str, str]
    refused: int


@dataclass(frozen=True, slots=True)
class PartitionBatch:
    """What a batch does to a partition.

    Attributes:
        readings: how many.
        end: offset after the batch.
        part: the rows it touches; none of them is freed; None = none.
        refused_offset: of the first record in it whose series may have no row; -1 = none.
    """

    readings: int
    end: int
    part: PartitionCheckout | None
    refused_offset: int
