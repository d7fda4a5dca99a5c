"""Blocks: which rows lie together, up to which offset each block was written, and which blocks have changed since.

A block is the unit in which rows are stored. It consists of entire groups, since the replay of a row needs the rows of
its group as they were. The stored copy of a block is true until one of its rows changes, so that the block that changed
longest ago decides how far back a replay must begin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from forecaster.clock import Clock, monotonic
from forecaster.records import I64

NEVER = -1
"""Instead of an offset: never written, or not changed."""
NO_BLOCK = -1
LARGE_NUMBER = 10**9
"""New blocks continue above the largest number below this one, so that no stored number can use up all numbers."""
RECORD_BYTES = 1_000_000
"""A block must fit in a record of the broker's default size, with the names of its series, however long they are."""


@dataclass(frozen=True, slots=True)
class BlockLimits:
    """What fits in a block.

    Attributes:
        groups: largest number of groups.
        group_bytes: bytes of the rows of a full group.
        members: largest number of series in a group.
        member_bytes: largest number of bytes by which the name of a series exceeds the name of its group; 0 = each
            series is its own group.
    """

    groups: int
    group_bytes: int
    members: int
    member_bytes: int

    def allow(self, groups: Collection[str]) -> bool:
        """Return whether one record can hold the rows of these groups and the names of their series."""
        return len(groups) * self.group_bytes + sum(map(self.name_bytes, groups)) <= RECORD_BYTES

    def name_bytes(self, group: str) -> int:
        """Return the bytes that the names of a full group take at most: each series has its own and the group's."""
        size = len(group.encode())
        return self.members * (2 * size + self.member_bytes) if self.member_bytes else size


@dataclass(slots=True)
class Block:
    """Rows that are written together.

    Attributes:
        rows: rows of the table.
        groups: number of their groups.
        name_bytes: bytes that the names of these groups take at most.
        stored_to: the stored copy holds all readings before this offset; NEVER = there is no copy.
        dirty_since: first offset whose reading the stored copy lacks; NEVER = it lacks none.
        dirty_at: time of the clock at that change, seconds.
    """

    rows: list[int] = field(default_factory=list)
    groups: int = 0
    name_bytes: int = 0
    stored_to: int = NEVER
    dirty_since: int = NEVER
    dirty_at: float = 0.0


class Blocks:
    """The blocks of one partition.

    Args:
        limits: what fits in a block.
        clock: measures how long a block has been dirty.
    """

    def __init__(self, limits: BlockLimits, clock: Clock = monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._blocks: dict[int, Block] = {}
        self._of_row = np.full(64, NO_BLOCK, np.int64)
        self._of_group: dict[str, int] = {}
        self._group_of_row: dict[int, str] = {}
        self._not_full: list[int] = []
        self._reserved: set[int] = set()
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
        """Return the block of each row; NO_BLOCK = it has none."""
        return self._of_row[rows]

    def group(self, row: int, series_id: str) -> str:
        """Return the group of the row's series."""
        return self._group_of_row.get(row, series_id)

    def load(self, number: int, stored_to: int, groups: Iterable[str]) -> dict[str, int]:
        """Open blocks, without rows, for the groups of a stored block; return the block of each group.

        All groups go to block `number`, unless they are too large for one record: then they go to new blocks.

        Args:
            number: number of the stored block.
            stored_to: the stored copy holds all readings before this offset.
            groups: groups of its rows.
        """
        distinct, placed = list(dict.fromkeys(groups)), dict[str, int]()
        fits = self._limits.allow(distinct)
        for group in distinct:
            if not placed or not (fits or self._fits(self._blocks[number], group)):
                number = number if fits else self._new_number()
                self._open(number, stored_to)
            self._count(self._blocks[number], group, 1)
            placed[group] = number
        return placed

    def reserve(self, numbers: Iterable[int]) -> None:
        """Keep new blocks from getting these numbers, so that the stored blocks of these numbers stay as they are."""
        self._reserved.update(numbers)
        self._next = max([self._next, *(number + 1 for number in self._reserved if number < LARGE_NUMBER)])

    def add_row(self, row: int, series_id: str, group: str, number: int | None = None) -> None:
        """Put the row in the block of its group.

        A group that has no block yet goes to block `number`, if given, or to a block with space for it.
        """
        single = group == series_id
        block = NO_BLOCK if single else self._of_group.get(group, NO_BLOCK)
        if block == NO_BLOCK:
            block = self._block_with_space(group) if number is None else number
        if not single:
            self._of_group[group] = block
            self._group_of_row[row] = group
        if row >= len(self._of_row):
            self._of_row = np.concatenate([self._of_row, np.full(max(row, len(self._of_row)), NO_BLOCK, np.int64)])
        self._of_row[row] = block
        self._blocks[block].rows.append(row)

    def remove(self, rows: Mapping[int, str], offset: int) -> list[int]:
        """Remove rows from their blocks; return the blocks that are gone because they have become empty.

        Args:
            rows: rows, each with its series.
            offset: offset from which on the stored copies of their blocks are wrong.
        """
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
            elif number not in self._not_full:
                self._not_full.append(number)
        return gone

    def mark_rows_dirty(self, rows: I64, offset: int) -> None:
        """Note that the rows hold readings from `offset` on that no stored copy has."""
        for number in np.unique(self._of_row[rows]).tolist():
            self._mark_dirty(self._blocks[number], offset)

    def mark_dirty(self, number: int, offset: int) -> None:
        """Note that the stored copy of a block is wrong from `offset` on."""
        self._mark_dirty(self._blocks[number], offset)

    def mark_all_dirty(self, offset: int) -> None:
        """Discard all stored copies: count every block as changed at `offset` and never written."""
        for block in self._blocks.values():
            block.stored_to = block.dirty_since = NEVER
            self._mark_dirty(block, offset)

    def mark_stored(self, number: int, offset: int) -> None:
        """Note that the stored copy of a block now holds all readings before `offset`."""
        block = self._blocks[number]
        block.stored_to, block.dirty_since = offset, NEVER

    def dirty(self) -> list[int]:
        """Return the blocks that have changed since they were written, those that changed longest ago first."""
        numbers = [number for number, block in self._blocks.items() if block.dirty_since != NEVER]
        return sorted(numbers, key=lambda number: self._blocks[number].dirty_since)

    def _mark_dirty(self, block: Block, offset: int) -> None:
        if block.dirty_since == NEVER:
            block.dirty_since, block.dirty_at = offset, self._clock()

    def _count(self, block: Block, group: str, sign: int) -> None:
        block.groups += sign
        block.name_bytes += sign * self._limits.name_bytes(group)

    def _block_with_space(self, group: str) -> int:
        """Return a block that the group fits in, having counted the group in it."""
        while self._not_full:
            number = self._not_full[-1]
            if number in self._blocks and self._fits(self._blocks[number], group):
                break
            self._not_full.pop()
        else:
            number = self._new_number()
            self._open(number, NEVER)
        self._count(self._blocks[number], group, 1)
        return number

    def _new_number(self) -> int:
        """Return a number that no block has, here or on the topic; it grows from block to block."""
        while self._next in self._blocks or self._next in self._reserved:
            self._next += 1
        return self._next

    def _open(self, number: int, stored_to: int) -> None:
        self._blocks[number] = Block(stored_to=stored_to)
        if number < LARGE_NUMBER:
            self._next = max(self._next, number + 1)
        self._not_full.append(number)

    def _fits(self, block: Block, group: str) -> bool:
        limits = self._limits
        size = (block.groups + 1) * limits.group_bytes + block.name_bytes + limits.name_bytes(group)
        return block.groups < limits.groups and size <= RECORD_BYTES
