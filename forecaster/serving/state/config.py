"""How the rows of a partition are kept: plain values."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from forecaster.core.arrays import bytes_per_row
from forecaster.core.state import StateShape
from forecaster.errors import UsageError
from forecaster.formats.readings import MAX_SERIES_ID_BYTES
from forecaster.formats.state import Identity
from forecaster.serving.state.blocks import RECORD_BYTES, BlockLimits
from forecaster.serving.state.idle import MAX_FREED_NAME_BYTES

BLOCK_BYTES = 512 * 1024
"""Size of a block of several groups, at most."""
LARGEST_BLOCK_BYTES = 900 * 1024
"""Size of a block of a single group, at most, with names of usual length."""
NAME_BYTES = 64
"""Estimate of what the name of a series takes in a block."""
UNSTORED = Identity("", "", 1, "", 0)
"""Identity of rows that are never stored."""


@dataclass(frozen=True, slots=True)
class StateConfig:
    """Plain values of the state of a partition.

    Attributes:
        shape: arrays that a row consists of.
        identity: identity of the stored state.
        key_prefix: first part of the keys in the state topic: the id of the consumer group.
        max_series: largest number of series with a row in one partition.
        group_size: largest number of series in a group.
        member_bytes: largest number of bytes by which the name of a series exceeds the name of its group; 0 = each
            series is its own group.
        replay_limit: largest number of readings above the floor; 0 = 10 for each series, at least 100,000.
        snapshot_seconds: a changed block is written after this time at the latest (STATE__SNAPSHOT_INTERVAL).
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
        """Bytes of a row, the same in memory as in its block, without the name of its series."""
        return bytes_per_row(self.shape.empty(1))

    @property
    def block_limits(self) -> BlockLimits:
        """Limits of a block.

        Raises:
            UsageError: a record of the state topic cannot hold even one group.
        """
        group = self.group_size * (self.row_bytes + NAME_BYTES)
        if group > LARGEST_BLOCK_BYTES or self.longest_id < 1:
            raise UsageError(
                f"FORECASTER_FORECAST__HORIZON: {self.group_size} series of {self.row_bytes} bytes in a group "
                f"are too much for one block of state ({LARGEST_BLOCK_BYTES} bytes): ask for a smaller horizon, fewer "
                "quantile levels, a smaller FORECASTER_NETWORK__CONTEXT, or name fewer fields, or shorter ones"
            )
        groups = max(1, BLOCK_BYTES // group)
        return BlockLimits(groups, self.group_size * self.row_bytes, self.group_size, self.member_bytes)

    @property
    def longest_id(self) -> int:
        """Largest number of bytes of a series_id in the input with which one group always fits in a block."""
        names = RECORD_BYTES // self.group_size - self.row_bytes
        return min(MAX_SERIES_ID_BYTES, (names - self.member_bytes) // 2 if self.member_bytes else names)

    @property
    def record_bytes(self) -> int:
        """Size of a record of the state topic, at most, without the names of its arrays.

        Raises:
            UsageError: a record of the state topic cannot hold even one group.
        """
        limits = self.block_limits
        names = self.group_size * (2 * self.longest_id + self.member_bytes) if self.member_bytes else self.longest_id
        block = min(RECORD_BYTES, limits.groups * (limits.group_bytes + names))
        return max(block, 2 * MAX_FREED_NAME_BYTES)  # a floor with the shortest names takes twice their bytes
