"""The state of one partition: its rows, their blocks, the offset that they are true up to, and what bounds them."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from itertools import compress

import numpy as np
from msgspec.structs import replace

from forecaster.core.arrays import take
from forecaster.core.network.model import NO_CHECKPOINT, body_code
from forecaster.core.series.timeline import last_stamp, patience_ms
from forecaster.core.state import SeriesState
from forecaster.formats.state import FLOOR, Event, Floor, StoredBlock, Swap, encode, stored_arrays
from forecaster.records import I64, Message
from forecaster.serving.state.blocks import Blocks
from forecaster.serving.state.keeping import NAME_BYTES, PartitionBatch, PartitionCheckout, StateConfig, StateWrites
from forecaster.serving.state.swaps import NO_SLOT, RewarmProgress, folded, hashes, new_swap
from forecaster.serving.state.table import FREE, Table

READINGS_PER_SERIES = 10
LEAST_REPLAY = 100_000
YOUNGEST = 0.25
"""A block is not written again before it is this share of the replay limit old."""
FREED_AT_ONCE = 1_000
LEDGER_BYTES = 256 * 1024
"""So many bytes of names of freed series wait for the floor at most."""
QUORUM, FEWEST, MANY = 0.05, 3, 100
"""A smaller share of the series, within these numbers, is not believed against the others: clocks may be wrong."""


class Partition:
    """One partition's rows; serving and replay both go through it.

    Args:
        number: of the partition.
        config: how its rows are kept.
        position: the next offset.

    Where `is_split`, rows of a stored block lie in several now, and its copy counts until all of them are written.
    """

    def __init__(self, number: int, config: StateConfig, position: int = 0) -> None:
        self.number = number
        self.position = position
        self.table = Table(config.shape)
        self.blocks = Blocks(config.room)
        self.floor = Floor(config.identity, position, swaps=[Swap(position, NO_CHECKPOINT)])
        self.pending_tombstones: set[int] = set()
        self.is_split = False
        self._config = config
        self._floor_stored = False
        self._replays = False
        self._passed = position
        self._credit = 0.0
        self._rewarm = RewarmProgress(Swap(-1, NO_CHECKPOINT), np.empty(0, np.int64))
        self._since_sweep = 0
        self._floor_at = time.monotonic()

    def load(self, number: int, block: StoredBlock, state: SeriesState) -> None:
        """The rows of a stored block are ours; of a series that lies in two blocks, the row of the later one."""
        ours = [self._is_later(name, block.offset) for name in block.series_ids]
        names = list(compress(block.series_ids, ours))
        if not names:
            self.pending_tombstones.add(number)
            return
        groups = list(compress(block.groups or block.series_ids, ours))
        found = self.blocks.load(number, block.offset, groups)
        if number not in self.blocks:
            self.is_split = True
        if number not in self.blocks or len(names) < len(ours):
            for part in set(found.values()):
                self.mark_dirty(part)
        rows, fresh = self.table.find(names, len(names))
        self.table.put(rows, take(state, np.flatnonzero(ours)), fresh)
        for name, group, row in zip(names, groups, rows.tolist(), strict=True):
            self.blocks.place(row, name, group, found[group])

    def mark_dirty(self, number: int) -> None:
        """The topic's copy of a loaded block must be replaced; it is true up to the floor at least."""
        self.blocks.mark_dirty(number, max(self.blocks[number].flushed_to, self.position))

    def replay(self, offset: int, floor: Floor) -> None:
        """Readings from `offset` on are replayed: until `serving`, the floor's events decide who has a row."""
        self.floor, self._replays = floor, True
        self.position, self._passed = offset, offset - 1  # an event before the first reading is yet to come

    def move_to(self, offset: int) -> None:
        """The position is there, and what happened up to there has happened; while replaying."""
        for event in self.floor.events:
            if self._passed < event.offset <= offset:
                known = [name for name in event.freed if self._freed_by(name, event.offset)]
                self.free(known, event.offset)
        self._passed = max(self._passed, offset)
        self.position = offset

    def next_event(self) -> int:
        """Returns the offset of the first event after the position."""
        return min((event.offset for event in self.floor.events if event.offset > self.position), default=sys.maxsize)

    def serving(self, *, stored: bool) -> None:
        """From here on the rows decide who gets one; `stored` = the topic's floor is ours."""
        self._replays, self._floor_stored = False, stored

    def mark_full(self, offset: int) -> None:
        """From the record at `offset` on no new series has got a row."""
        if not self._is_full():
            self.floor = replace(self.floor, events=[*self.floor.events, Event(offset, full=True)])
            self._floor_stored = False

    def checkout(
        self, series_ids: Sequence[str], groups: Sequence[str] | None, records: I64
    ) -> tuple[I64, PartitionCheckout]:
        """Returns the row of each series, -1 where it can have none, and what is taken.

        The new series of one record get their rows together or not at all.
        """
        rows, fresh = self.table.find(series_ids, self._room())
        distinct = np.unique(rows)
        refused = int(np.argmax(rows < 0)) if len(distinct) and distinct[0] < 0 else -1
        if refused >= 0 and groups is not None:
            refused = int(np.searchsorted(records, records[refused]))
            before = set(series_ids[:refused])
            rows, fresh = self.table.find(series_ids, sum(name in before for name in fresh))
            distinct = np.unique(rows)
        named = dict(zip(series_ids, groups, strict=True)) if groups is not None and fresh else {}
        own = {name: named.get(name, name) for name in fresh}
        return rows, PartitionCheckout(self.number, distinct[distinct >= 0], fresh, own, refused)

    def adopt(self, part: PartitionCheckout, state: SeriesState) -> None:
        """The rows hold the readings of a batch that begins at the position; the position is the caller's to move."""
        self.table.put(part.rows, state, part.fresh)
        for name, row in part.fresh.items():
            self.blocks.place(row, name, part.groups[name])
        self.blocks.touch(part.rows, self.position)
        self.table.mark_active(part.rows)

    def swaps_with(self, champion: str) -> list[Swap]:
        """Returns which checkpoints serve from the floor on, with a swap to the champion where it can begin now."""
        swaps = self.floor.swaps
        if swaps[-1].checkpoint == champion or swaps[-1].end > self.position:
            return swaps
        context = self._config.shape.observation.context
        return [*swaps, new_swap(swaps[-1], champion, self.position, len(self.table), context)]

    def next_slot(self) -> I64:
        """Returns rows whose groups have switched by the newest swap, some tiles at most; empty = there are none."""
        swap = self.floor.swaps[-1]
        if swap != self._rewarm.swap and self._is_same_body(swap):
            self._rewarm = RewarmProgress(swap, np.empty(0, np.int64))
        elif swap != self._rewarm.swap:
            names = self.table.names
            groups = [self.blocks.group(row, name) for row, name in enumerate(names)]
            slots = np.where([name != FREE for name in names], hashes(groups) % swap.slots, NO_SLOT)
            self._rewarm = RewarmProgress(swap, slots.astype(np.int64))
        return self._rewarm.next_rows(self.position)

    def _is_same_body(self, swap: Swap) -> bool:
        return bool((self.table.state.body == body_code(swap.checkpoint)).all())

    def writes(self, batch: PartitionBatch, swaps: list[Swap], budget: int) -> StateWrites:
        """Returns what the transaction of a batch must write of the state as it is before the batch.

        Args:
            batch: what it does to the partition.
            swaps: which checkpoints served in it.
            budget: bytes that blocks may take.
        """
        numbers = self._due(batch.readings, budget)
        freed = self._idle(batch.readings, batch.part)
        events = list(self.floor.events)
        if batch.refused_offset >= 0 and not self._is_full():
            events.append(Event(batch.refused_offset, full=True))
        if freed:
            events.append(Event(batch.end, full=False, freed=freed))
        grew = len(events) > len(self.floor.events) or len(swaps) > len(self.floor.swaps)
        moves = numbers or grew or not self._floor_stored or self._is_floor_overdue()
        return self._writes(numbers, freed, self._floor_after(numbers, events, swaps) if moves else None)

    def flush(self, budget: int) -> StateWrites | None:
        """Returns changes that write what is dirty, those longest so first; None = nothing is, and the floor is here.

        Where the topic's floor is not ours, ours comes with the last of them: until then theirs stays true.
        """
        dirty = self.blocks.dirty()
        numbers = self._within(dirty, budget)
        if not numbers and not self.pending_tombstones and self._floor_stored and self.floor.offset == self.position:
            return None
        ends = self._floor_stored or len(numbers) == len(dirty)
        floor = self._floor_after(numbers, self.floor.events, self.floor.swaps) if ends else None
        return self._writes(numbers, [], floor)

    def overdue(self) -> bool:
        """Some block has been dirty, or the floor behind, for longer than the snapshot interval."""
        numbers = self.blocks.dirty()
        limit = time.monotonic() - self._config.snapshot_seconds
        return any(self.blocks[number].dirty_at <= limit for number in numbers) or self._is_floor_overdue()

    def committed(self, writes: StateWrites) -> None:
        """The changes are in the topic; to be said before the batch itself is adopted."""
        for number in writes.written:
            self.blocks.write(number, writes.position)
        self.pending_tombstones -= {
            *writes.tombstones,
            *writes.written,
        }  # what is written anew must not be ended after it
        if writes.floor is not None:
            self.floor, self._floor_stored, self._floor_at = writes.floor, True, time.monotonic()

    def free(self, series_ids: Sequence[str], offset: int) -> None:
        """The series have no rows any more, from `offset` on."""
        if not series_ids:
            return
        rows = {self.table.row(name): name for name in series_ids}
        self.pending_tombstones |= set(self.blocks.remove(rows, offset))
        self.table.free(series_ids)
        self._rewarm.forget(list(rows))

    def unseen(self, series_ids: Sequence[str], offsets: I64) -> np.ndarray:
        """Returns which readings are not in their row's block yet; (N,)."""
        rows = np.array([self.table.row(name) for name in series_ids], np.int64)
        numbers = np.where(rows >= 0, self.blocks.of(np.maximum(rows, 0)), -1)
        written = {number: self.blocks[number].flushed_to for number in set(numbers.tolist()) - {-1}}
        return np.array([written.get(number, 0) for number in numbers.tolist()], np.int64) <= offsets

    def _is_later(self, name: str, offset: int) -> bool:
        """The series has no row yet, or one of an older block, which it loses."""
        row = self.table.row(name)
        if row < 0:
            return True
        other = self.blocks[int(self.blocks.of(np.array([row]))[0])]
        if other.flushed_to >= offset:
            return False
        self.free([name], other.flushed_to)
        return True

    def _freed_by(self, name: str, offset: int) -> bool:
        """The series has a row from before it was freed at `offset`."""
        row = self.table.row(name)
        return row >= 0 and self.blocks[int(self.blocks.of(np.array([row]))[0])].flushed_to < offset

    def _room(self) -> int:
        if self._replays:
            return 0 if self._is_full() else sys.maxsize
        left = self._config.max_series - len(self.table)
        return left if left >= self._config.group_size else 0  # no group gets in after one that did not

    def _is_full(self) -> bool:
        """No new series gets a row at the position."""
        closed = self.floor.full
        for event in self.floor.events:
            if event.offset <= self.position or not self._replays:
                closed = event.full
        return closed

    def _is_floor_overdue(self) -> bool:
        """The floor is older than the snapshot interval, and behind: what came since it touched no row."""
        is_old = self._floor_at <= time.monotonic() - self._config.snapshot_seconds
        return is_old and self.floor.offset < self._lowest()

    def _lowest(self, written: Collection[int] = ()) -> int:
        """Returns the first offset that is not in its block's copy, once these blocks are written."""
        others = set(self.blocks.dirty()) - set(written)
        return min((self.blocks[number].dirty_since for number in others), default=self.position)

    def _due(self, readings: int, budget: int) -> list[int]:
        """Returns the blocks to be written with a batch, paced so that none is older than the replay limit."""
        limit = self._config.replay_limit or max(LEAST_REPLAY, READINGS_PER_SERIES * len(self.table))
        row = self._config.row_bytes + NAME_BYTES
        self._credit += readings * len(self.table) * row / (limit * (1.0 - YOUNGEST))
        self._credit = min(self._credit, 2.0 * budget)
        overdue = time.monotonic() - self._config.snapshot_seconds
        due: list[int] = []
        for number in self.blocks.dirty():
            block = self.blocks[number]
            size = len(block.rows) * row
            late = block.dirty_at <= overdue
            age = self.position - block.dirty_since
            old = age >= limit or (age >= YOUNGEST * limit and self._credit >= size)
            if not (late or old) or budget <= 0 or (due and budget < size):
                break
            self._credit = max(0.0, self._credit - size)
            budget -= size
            due.append(number)
        return due

    def _within(self, numbers: Sequence[int], budget: int) -> list[int]:
        row = self._config.row_bytes + NAME_BYTES
        sizes = np.cumsum([len(self.blocks[number].rows) * row for number in numbers])
        return list(numbers[: max(1, int(np.searchsorted(sizes, budget, side="right")))]) if numbers else []

    def _idle(self, readings: int, part: PartitionCheckout | None) -> list[str]:
        """Returns series to be freed: idle for longer than they may be, by the clock of the series that live.

        That is the lower median of the last stamps of those with readings since enough of them were heard.
        """
        self._since_sweep += readings
        if self._since_sweep < max(FREED_AT_ONCE, len(self.table)) or part is None:
            return []
        self._since_sweep = 0
        names, state = self.table.names, self.table.state.timeline
        used = np.array([name != FREE for name in names], np.bool_)
        stamps, heard = last_stamp(state), used & self.table.active()
        if not heard.any():
            return []
        clock = _lower_median(stamps[heard])
        if heard.sum() < min(max(QUORUM * used.sum(), FEWEST), MANY):  # more are waited for
            clock = min(clock, _lower_median(stamps[used]))
        else:
            self.table.clear_active()
        grid = self._config.shape.observation.grid
        limit = patience_ms(grid, state)
        if self._room() == 0:  # what has not shown its interval yet makes room for others
            limit[state.interval_ms == 0] = grid.ttl_ms
        idle = used & (clock - stamps > limit)
        idle[part.rows[part.rows < len(names)]] = False
        return self._freeable(names, np.flatnonzero(idle).tolist())

    def _freeable(self, names: Sequence[str], rows: Sequence[int]) -> list[str]:
        """Returns the series of the first of these rows: so many as can be freed at once, and noted in the floor."""
        held = sum(len(name) for event in self.floor.events for name in event.freed)
        freed: list[str] = []
        for row in rows[:FREED_AT_ONCE]:
            held += len(names[row].encode())
            if held > LEDGER_BYTES:
                break
            freed.append(names[row])
        return freed

    def _floor_after(self, numbers: Collection[int], events: Sequence[Event], swaps: Sequence[Swap]) -> Floor:
        """Returns the floor once these blocks are written; events below it are folded into it."""
        offset = self._lowest(numbers)
        closed = self.floor.full
        for event in events:
            if event.offset < offset:
                closed = event.full
        kept = [event for event in events if event.offset >= offset]
        return Floor(self._config.identity, offset, closed, kept, folded(swaps, offset))

    def _writes(self, numbers: list[int], freed: list[str], floor: Floor | None) -> StateWrites:
        blocks = {number: self._encoded(number) for number in numbers}
        ours = floor is not None or self._floor_stored  # else the topic's floor still needs what it names
        tombstones = sorted(self.pending_tombstones - set(numbers)) if ours else []
        messages = [self._message(number, value) for number, value in blocks.items()]
        messages += [self._message(number, None) for number in tombstones]
        if floor is not None:
            messages.append(self._message(FLOOR, encode(floor)))
        return StateWrites(self.position, numbers, tombstones, freed, floor, messages)

    def _message(self, name: int | str, value: bytes | None) -> Message:
        return Message(self.number, f"{self._config.key_prefix}/{self.number}/{name}".encode(), value, [])

    def _encoded(self, number: int) -> bytes:
        rows = self.blocks[number].rows
        names = [self.table.names[row] for row in rows]
        groups = [self.blocks.group(row, name) for row, name in zip(rows, names, strict=True)]
        arrays = stored_arrays(take(self.table.state, np.array(rows, np.int64)))
        block = StoredBlock(self._config.identity, self.position, names, [] if groups == names else groups, arrays)
        return encode(block)


def _lower_median(stamps: I64) -> int:
    """Returns the event time that more than half of the rows have reached."""
    middle = (len(stamps) - 1) // 2
    return int(np.partition(stamps, middle)[middle])
