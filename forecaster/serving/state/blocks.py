"""Which rows lie together in a block, up to which offset each block was written, and what has changed since.

A block is the unit of snapshot: whole groups, since a row's replay needs the rows of its group as they were. It stays
true until one of its rows changes; how far back a replay must go is decided by the block that changed longest ago.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from forecaster.records import I64

NEVER = -1
"""Written never, or not changed."""
NO_BLOCK = -1
RECORD_BYTES = 1_000_000
"""A record of the broker's default size must hold a block, with the names of its series, however long."""


@dataclass(frozen=True, slots=True)
class Room:
    """What fits in a block.

    Attributes:
        groups: so many at most.
        group_bytes: what the rows of a whole group take.
        members: series in a group at most.
        member_bytes: the name of a series of a group is longer than the group's by so many at most; 0 = no groups.
    """

    groups: int
    group_bytes: int
    members: int
    member_bytes: int

    def holds(self, groups: Collection[str]) -> bool:
        """One record is enough for the rows of these groups, and for their names."""
        return len(groups) * self.group_bytes + sum(map(self.needed, groups)) <= RECORD_BYTES

    def needed(self, group: str) -> int:
        """Returns how many bytes the names of a whole group take at most: each series has its own, and the group's."""
        size = len(group.encode())
        return self.members * (2 * size + self.member_bytes) if self.member_bytes else size


@dataclass(slots=True)
class Block:
    """Some rows that are written together.

    Attributes:
        rows: of the table.
        groups: how many groups they are.
        name_bytes: what the names of these groups take at most.
        flushed_to: the topic's copy holds all readings before this offset; NEVER = there is no copy.
        dirty_since: offset from which on readings are missing in the copy; NEVER = none is.
        dirty_at: seconds of the clock then.
    """

    rows: list[int] = field(default_factory=list)
    groups: int = 0
    name_bytes: int = 0
    flushed_to: int = NEVER
    dirty_since: int = NEVER
    dirty_at: float = 0.0


class Blocks:
    """The blocks of one partition.

    Args:
        room: of a block.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._blocks: dict[int, Block] = {}
        self._of_row = np.full(64, NO_BLOCK, np.int64)
        self._of_group: dict[str, int] = {}
        self._group_of_row: dict[int, str] = {}
        self._with_room: list[int] = []
        self._next = 0

    def __getitem__(self, number: int) -> Block:
        return self._blocks[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._blocks)

    def __contains__(self, number: int) -> bool:
        return number in self._blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def of(self, rows: I64) -> I64:
        """Returns the block of each row; NO_BLOCK where it has none."""
        return self._of_row[rows]

    def group(self, row: int, series_id: str) -> str:
        """Returns the group of the row's series."""
        return self._group_of_row.get(row, series_id)

    def load(self, number: int, flushed_to: int, groups: Iterable[str]) -> dict[str, int]:
        """There are blocks for these groups, without rows, of which the topic has a copy; returns the one of each.

        All are in block `number`, but where one record does not hold them any more: then they are in new ones.

        Args:
            number: of the copy.
            flushed_to: it holds all readings before this offset.
            groups: of its rows.
        """
        distinct, found = list(dict.fromkeys(groups)), dict[str, int]()
        whole = self._room.holds(distinct)
        for group in distinct:
            if not found or not (whole or self._fits(self._blocks[number], group)):
                number = number if whole else self._next
                self._open(number, flushed_to)
            self._count(self._blocks[number], group, 1)
            found[group] = number
        return found

    def reserve(self, numbers: Iterable[int]) -> None:
        """New blocks have other numbers than these: what the topic holds under them stays as it is."""
        self._next = max([self._next, *(number + 1 for number in numbers)])

    def place(self, row: int, series_id: str, group: str, number: int | None = None) -> None:
        """The row lies in the block of its group; a new group where there is room, or in block `number`, if loaded."""
        own = group == series_id
        block = NO_BLOCK if own else self._of_group.get(group, NO_BLOCK)
        if block == NO_BLOCK:
            block = self._roomy(group) if number is None else number
        if not own:
            self._of_group[group] = block
            self._group_of_row[row] = group
        if row >= len(self._of_row):
            self._of_row = np.concatenate([self._of_row, np.full(max(row, len(self._of_row)), NO_BLOCK, np.int64)])
        self._of_row[row] = block
        self._blocks[block].rows.append(row)

    def remove(self, rows: Mapping[int, str], offset: int) -> list[int]:
        """The rows of these series lie in no block; returns the blocks that are gone: those were their last ones."""
        gone: list[int] = []
        for row, series_id in rows.items():
            number = int(self._of_row[row])
            self._of_row[row] = NO_BLOCK
            block = self._blocks[number]
            block.rows.remove(row)
            group = self._group_of_row.pop(row, None)
            if group is None:
                self._count(block, series_id, -1)
            elif group not in {self._group_of_row.get(other) for other in block.rows}:
                self._count(block, group, -1)
                del self._of_group[group]
            self._mark_dirty(block, offset)
            if not block.rows:
                gone.append(number)
                del self._blocks[number]
            elif number not in self._with_room:
                self._with_room.append(number)
        return gone

    def touch(self, rows: I64, offset: int) -> None:
        """The rows hold readings from `offset` on that no copy has."""
        for number in np.unique(self._of_row[rows]).tolist():
            self._mark_dirty(self._blocks[number], offset)

    def write(self, number: int, offset: int) -> None:
        """The topic's copy holds all readings before `offset`."""
        block = self._blocks[number]
        block.flushed_to, block.dirty_since = offset, NEVER

    def mark_dirty(self, number: int, offset: int) -> None:
        """The topic's copy is not what the block is from `offset` on."""
        self._mark_dirty(self._blocks[number], offset)

    def mark_all_dirty(self, offset: int) -> None:
        """No copy counts, whatever it was written at: every block has changed at `offset`."""
        for block in self._blocks.values():
            block.flushed_to = block.dirty_since = NEVER
            self._mark_dirty(block, offset)

    def dirty(self) -> list[int]:
        """Returns the blocks whose copy is not true any more, those that changed longest ago first."""
        numbers = [number for number, block in self._blocks.items() if block.dirty_since != NEVER]
        return sorted(numbers, key=lambda number: self._blocks[number].dirty_since)

    def _mark_dirty(self, block: Block, offset: int) -> None:
        if block.dirty_since == NEVER:
            block.dirty_since, block.dirty_at = offset, time.monotonic()

    def _count(self, block: Block, group: str, sign: int) -> None:
        block.groups += sign
        block.name_bytes += sign * self._room.needed(group)

    def _roomy(self, group: str) -> int:
        """Returns a block that a group fits in, and is counted in."""
        while self._with_room:
            number = self._with_room[-1]
            if number in self._blocks and self._fits(self._blocks[number], group):
                break
            self._with_room.pop()
        else:
            number = self._next
            self._open(number, NEVER)
        self._count(self._blocks[number], group, 1)
        return number

    def _open(self, number: int, flushed_to: int) -> None:
        self._blocks[number] = Block(flushed_to=flushed_to)
        self._next = max(self._next, number + 1)
        self._with_room.append(number)

    def _fits(self, block: Block, group: str) -> bool:
        room = self._room
        size = (block.groups + 1) * room.group_bytes + block.name_bytes + room.needed(group)
        return block.groups < room.groups and size <= RECORD_BYTES
