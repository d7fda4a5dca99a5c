"""The state of one partition: its rows, their blocks and the floor; how batches and transactions change them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from forecaster.clock import Clock, monotonic
from forecaster.core.arrays import take
from forecaster.core.checkpoint_ids import NO_CHECKPOINT, body_code
from forecaster.core.state import SeriesState
from forecaster.formats.state import FLOOR, Event, Floor, StoredBlock, Swap, encode
from forecaster.formats.state_log import StateLog
from forecaster.records import I64, Bools
from forecaster.serving.state.blocks import Blocks
from forecaster.serving.state.config import StateConfig
from forecaster.serving.state.floor import PartitionFloor
from forecaster.serving.state.idle import IdleSweep, names_to_free
from forecaster.serving.state.pacing import WritePacer
from forecaster.serving.state.swaps import NO_SLOT, RewarmProgress, hashes, new_swap
from forecaster.serving.state.table import Table
from forecaster.serving.state.writes import StateWrites, encoded_block, state_message


@dataclass(frozen=True, slots=True)
class PartitionCheckout:
    """The rows of one partition that a batch borrows.

    Attributes:
        rows: rows of the table, ascending.
        new_rows: the row that each new series gets when the batch is adopted.
        groups: the group of each new series.
        first_without_room: the first reading whose series can have no row, as an index among the readings given to
            `checkout`; `check_out` turns it into an index in the batch; -1 = none.
    """

    rows: I64
    new_rows: dict[str, int]
    groups: dict[str, str]
    first_without_room: int


@dataclass(frozen=True, slots=True)
class PartitionBatch:
    """Facts about a batch that decide what a partition writes.

    Attributes:
        readings: number of its readings.
        end: offset after the batch.
        checkout: rows that it borrows, none of which may be freed; None = it has no readings.
        refused_offset: offset of the first record with a series that can have no row; -1 = none.
    """

    readings: int
    end: int
    checkout: PartitionCheckout | None
    refused_offset: int


class Partition:
    """Rows, blocks and floor of one partition; serving and replay both use it.

    The floor is the smallest offset whose reading is not yet in its row's block: a replay begins there. The floor also
    lists the events above it (freed series, no more room for new ones) and the swaps of checkpoints.

    Args:
        number: number of the partition.
        config: how its rows are kept.
        position: offset of the next record.
        clock: measures for how long blocks and the floor have waited.
        state_log: log of the state topic as the restore has found it; None = there is no such topic yet.

    Attributes:
        position: offset of the next record: the rows hold all readings before it.
        pending_tombstones: stored blocks that the next write deletes.
        is_split: rows of one stored block lie in several blocks now; the stored one counts until all are written.
    """

    def __init__(
        self,
        number: int,
        config: StateConfig,
        position: int = 0,
        clock: Clock = monotonic,
        state_log: StateLog | None = None,
    ) -> None:
        self.number = number
        self.position = position
        self.table = Table(config.shape)
        self.blocks = Blocks(config.block_limits, clock)
        self.pending_tombstones: set[int] = set()
        self.is_split = False
        self.idle_sweep = IdleSweep(config.shape.observation.grid)
        self._config = config
        self._pacer = WritePacer(config, clock)
        self._floor = PartitionFloor(config.identity, position, clock, state_log)
        self._rewarm = RewarmProgress(Swap(-1, NO_CHECKPOINT), np.empty(0, np.int64))

    @property
    def floor(self) -> Floor:
        """The newest floor."""
        return self._floor.newest

    # Restore

    def load_block(self, block_number: int, block: StoredBlock, state: SeriesState) -> None:
        """Add the rows of a stored block; of a series that lies in two blocks, keep the row of the later one."""
        newest = [self._is_newest(name, block.offset) for name in block.series_ids]
        names = list(compress(block.series_ids, newest))
        if not names:
            self.pending_tombstones.add(block_number)
            return
        groups = list(compress(block.groups or block.series_ids, newest))
        block_of_group = self.blocks.load(block_number, block.offset, groups)
        if block_number not in self.blocks:
            self.is_split = True
        if block_number not in self.blocks or len(names) < len(newest):
            for block_with_rows in set(block_of_group.values()):
                self.mark_dirty(block_with_rows)
        rows, new_rows = self.table.find(names, len(names))
        self.table.put(rows, take(state, np.flatnonzero(newest)), new_rows)
        for name, group, row in zip(names, groups, rows.tolist(), strict=True):
            self.blocks.add_row(row, name, group, block_of_group[group])

    def mark_dirty(self, block_number: int) -> None:
        """Note that the stored copy of a loaded block must be replaced; it is true up to the floor at least."""
        self.blocks.mark_dirty(block_number, max(self.blocks[block_number].stored_to, self.position))

    def begin_replay(self, offset: int, floor: Floor) -> None:
        """Prepare to replay from `offset` on: until `end_replay`, the floor's events decide which series get rows."""
        self._floor.begin_replay(floor, offset)
        self.position = offset

    def move_to(self, offset: int) -> None:
        """Move the position during a replay, and apply the floor's events up to there."""
        for event in self._floor.events_up_to(offset):
            self.free([name for name in event.freed if self._is_freed_by(name, event.offset)], event.offset)
        self.position = offset

    def next_event_offset(self) -> int:
        """Return the offset of the first event after the position; sys.maxsize = there is none."""
        return self._floor.next_event_offset(self.position)

    def end_replay(self, *, floor_stored: bool) -> None:
        """End the replay: new series get rows while there is room, instead of as the floor's events say.

        Args:
            floor_stored: the state topic holds this partition's floor.
        """
        self._floor.end_replay(is_stored=floor_stored)

    def mark_full(self, offset: int) -> None:
        """Note that no new series has got a row from the record at `offset` on."""
        if not self._is_full():
            self._floor.mark_full(offset)

    def not_in_block(self, series_ids: Sequence[str], offsets: I64) -> Bools:
        """Return which readings are not yet in their row's block; (N,)."""
        rows = np.array([self.table.row(name) for name in series_ids], np.int64)
        block_numbers = np.where(rows >= 0, self.blocks.of(np.maximum(rows, 0)), -1).tolist()
        stored_to = {block_number: self.blocks[block_number].stored_to for block_number in set(block_numbers) - {-1}}
        seen_to = np.array([stored_to.get(block_number, 0) for block_number in block_numbers], np.int64)
        return np.asarray(seen_to <= offsets, np.bool_)

    # Batches

    def checkout(
        self, series_ids: Sequence[str], groups: Sequence[str] | None, records: I64
    ) -> tuple[I64, PartitionCheckout]:
        """Return the row of each series, -1 = it can have none, and the rows that a batch of them borrows.

        The new series of one record get their rows together or not at all.

        Args:
            series_ids: series of the N readings.
            groups: their groups; None = each series is its own.
            records: the record that each reading came in; (N,).
        """
        rows, new_rows = self.table.find(series_ids, self._room())
        distinct = np.unique(rows)
        first_without_room = int(np.argmax(rows < 0)) if len(distinct) and distinct[0] < 0 else -1
        if first_without_room >= 0 and groups is not None:
            # All new series of its record go without rows: search again, with room for those of the records before it.
            first_without_room = int(np.searchsorted(records, records[first_without_room]))
            before = set(series_ids[:first_without_room])
            rows, new_rows = self.table.find(series_ids, sum(name in before for name in new_rows))
            distinct = np.unique(rows)
        group_of = dict(zip(series_ids, groups, strict=True)) if groups is not None and new_rows else {}
        new_groups = {name: group_of.get(name, name) for name in new_rows}
        return rows, PartitionCheckout(distinct[distinct >= 0], new_rows, new_groups, first_without_room)

    def adopt(self, checkout: PartitionCheckout, state: SeriesState) -> None:
        """Replace the borrowed rows by those of a batch that begins at the position; the caller moves the position."""
        self.table.put(checkout.rows, state, checkout.new_rows)
        for name, row in checkout.new_rows.items():
            self.blocks.add_row(row, name, checkout.groups[name])
        self.blocks.mark_rows_dirty(checkout.rows, self.position)
        self.table.mark_active(checkout.rows)

    def free(self, series_ids: Sequence[str], offset: int) -> None:
        """Free the rows of the series from `offset` on."""
        if not series_ids:
            return
        rows = {self.table.row(name): name for name in series_ids}
        self.pending_tombstones |= set(self.blocks.remove(rows, offset))
        self.table.free(series_ids)
        self._rewarm.forget(list(rows))

    # Swaps

    def swaps_with(self, champion: str) -> list[Swap]:
        """Return the swaps from the floor on, and a new one to the champion if it can begin now."""
        swaps = self.floor.swaps
        if swaps[-1].checkpoint == champion or swaps[-1].end > self.position:
            return swaps
        context = self._config.shape.observation.context
        return [*swaps, new_swap(swaps[-1], champion, self.position, len(self.table), context)]

    def rows_to_rewarm(self) -> I64:
        """Return rows whose groups have switched by the newest swap, some tiles at a time; empty when there are none.

        Rows are returned once: the caller re-warms them.
        """
        swap = self.floor.swaps[-1]
        if swap != self._rewarm.swap and self._has_body_of(swap):
            self._rewarm = RewarmProgress(swap, np.empty(0, np.int64))
        elif swap != self._rewarm.swap:
            groups = [self.blocks.group(row, name) for row, name in enumerate(self.table.names)]
            slots = np.where(self.table.used, hashes(groups) % swap.slots, NO_SLOT)
            self._rewarm = RewarmProgress(swap, slots.astype(np.int64))
        return self._rewarm.next_rows(self.position)

    # Writes

    def batch_writes(self, batch: PartitionBatch, swaps: list[Swap], budget: int) -> StateWrites:
        """Return what the transaction of a batch writes: the state as it is before the batch.

        Args:
            batch: facts about the batch.
            swaps: checkpoints that serve in it.
            budget: bytes that blocks may take.
        """
        block_numbers = self._pacer.due(self.blocks, self.position, batch.readings, len(self.table), budget)
        freed = self._idle_series(batch)
        events = list(self.floor.events)
        if batch.refused_offset >= 0 and not self._is_full():
            events.append(Event(batch.refused_offset, full=True))
        if freed:
            events.append(Event(batch.end, full=False, freed=freed))
        grew = len(events) > len(self.floor.events) or len(swaps) > len(self.floor.swaps)
        moves = block_numbers or grew or not self._floor.is_stored or self._is_floor_overdue()
        return self._writes(block_numbers, freed, self._floor_after(block_numbers, events, swaps) if moves else None)

    def next_writes(self, budget: int, *, at_least_one: bool = True) -> StateWrites | None:
        """Return the next writes of dirty blocks, those that changed longest ago first; None = all is written.

        If the state topic does not hold this partition's floor, the last of the writes contains it: until then the
        stored floor and its blocks stay true.

        Args:
            budget: bytes that blocks may take.
            at_least_one: whether one block may exceed the budget; otherwise it waits.
        """
        dirty = self.blocks.dirty()
        block_numbers = self._pacer.within(self.blocks, dirty, budget)
        if len(block_numbers) == 1 and not at_least_one and self._pacer.size(self.blocks, block_numbers[0]) > budget:
            return None
        is_floor_current = self._floor.is_stored and self.floor.offset == self.position
        if is_floor_current and not block_numbers and not self.pending_tombstones:
            return None
        with_floor = self._floor.is_stored or len(block_numbers) == len(dirty)
        floor = self._floor_after(block_numbers, self.floor.events, self.floor.swaps) if with_floor else None
        return self._writes(block_numbers, [], floor)

    def has_lost_records(self, now: StateLog) -> bool:
        """Return whether the state topic has lost records that a stored floor may need.

        Args:
            now: log of the state topic as it is now.
        """
        before = self._floor.state_log
        return before is not None and bool(before.loss(now))

    def discard_stored(self, state_log: StateLog) -> None:
        """Note that the state topic has lost records of this partition: `next_writes` writes all blocks and the floor.

        The partition must have no batch before all of them are written.

        Args:
            state_log: log of the state topic that they are written to.
        """
        self.blocks.mark_all_dirty(self.position)
        self._floor.discard(state_log)

    def is_overdue(self) -> bool:
        """Return whether a block has been dirty, or the floor out of date, for longer than the snapshot interval."""
        return self._pacer.any_overdue(self.blocks) or self._is_floor_overdue()

    def mark_stored(self, writes: StateWrites) -> None:
        """Note that the writes are in the state topic; call it before the batch itself is adopted."""
        for block_number in writes.written:
            self.blocks.mark_stored(block_number, writes.position)
        self.pending_tombstones.difference_update(writes.tombstones, writes.written)  # never delete a new block
        if writes.floor is not None:
            self._floor.mark_stored(writes.floor)

    def _is_newest(self, name: str, offset: int) -> bool:
        """Return whether a block at `offset` has the newest row of the series; the row of an older block is freed."""
        row = self.table.row(name)
        if row < 0:
            return True
        stored_to = self._stored_to(row)
        if stored_to >= offset:
            return False
        self.free([name], stored_to)
        return True

    def _is_freed_by(self, name: str, offset: int) -> bool:
        """Return whether the series has a row, and it was stored before `offset`, where the series was freed."""
        row = self.table.row(name)
        return row >= 0 and self._stored_to(row) < offset

    def _stored_to(self, row: int) -> int:
        """Return the offset up to which the stored copy of the row's block is true."""
        return self.blocks[int(self.blocks.of(np.array([row]))[0])].stored_to

    def _room(self) -> int:
        """Return how many new series can get a row."""
        if self._floor.is_replaying:
            return 0 if self._is_full() else sys.maxsize
        left = self._config.max_series - len(self.table)
        return left if left >= self._config.group_size else 0  # after a group without room a smaller one has none, too

    def _is_full(self) -> bool:
        """Return whether new series get no row at the position."""
        return self._floor.is_full(self.position)

    def _has_body_of(self, swap: Swap) -> bool:
        return bool((self.table.state.body == body_code(swap.checkpoint)).all())

    def _idle_series(self, batch: PartitionBatch) -> list[str]:
        """Return the series that are freed at the end of the batch."""
        self.idle_sweep.readings += batch.readings
        if batch.checkout is None or not self.idle_sweep.is_due(len(self.table)):
            return []
        rows = self.idle_sweep.idle_rows(self.table, batch.checkout.rows, full=self._room() == 0)
        recorded = [name for event in self.floor.events for name in event.freed]
        return names_to_free(self.table.names, rows, recorded)

    def _is_floor_overdue(self) -> bool:
        """Return whether the floor is older than the snapshot interval, and a later one is possible."""
        return self._floor.is_older_than(self._config.snapshot_seconds) and self.floor.offset < self._lowest()

    def _lowest(self, written: Collection[int] = ()) -> int:
        """Return the first offset whose reading is in no stored block, once these blocks are written."""
        others = set(self.blocks.dirty()) - set(written)
        return min((self.blocks[block_number].dirty_since for block_number in others), default=self.position)

    def _floor_after(self, block_numbers: Collection[int], events: Sequence[Event], swaps: Sequence[Swap]) -> Floor:
        """Return the floor once these blocks are written."""
        return self._floor.moved_to(self._lowest(block_numbers), events, swaps)

    def _writes(self, block_numbers: list[int], freed: list[str], floor: Floor | None) -> StateWrites:
        may_delete = floor is not None or self._floor.is_stored  # the floor of another owner still needs its blocks
        tombstones = sorted(self.pending_tombstones - set(block_numbers)) if may_delete else []
        values: dict[int | str, bytes | None] = {}
        values |= {block_number: self._encoded_block(block_number) for block_number in block_numbers}
        values |= dict.fromkeys(tombstones)
        if floor is not None:
            values[FLOOR] = encode(floor)
        elif self._floor.is_discarded:
            values[FLOOR] = None
        messages = [state_message(self._config.key_prefix, self.number, name, value) for name, value in values.items()]
        return StateWrites(self.position, block_numbers, tombstones, freed, floor, messages)

    def _encoded_block(self, block_number: int) -> bytes:
        rows = self.blocks[block_number].rows
        names = [self.table.names[row] for row in rows]
        groups = [self.blocks.group(row, name) for row, name in zip(rows, names, strict=True)]
        state = take(self.table.state, np.array(rows, np.int64))
        return encoded_block(self._config.identity, self.position, names, groups, state)
