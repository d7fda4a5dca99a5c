"""The floor of a partition in use: its events, whether new series get rows, and whether the state topic holds it."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

from msgspec.structs import replace

from forecaster.clock import Clock, monotonic
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.formats.state import Event, Floor, Identity, Swap
from forecaster.formats.state_log import StateLog
from forecaster.serving.state.swaps import drop_ended

_OFFSET = attrgetter("offset")


class PartitionFloor:
    """The newest floor of a partition.

    During a replay, the events of the stored floor say which series get rows. Before and after it, new series get rows
    while there is room.

    Args:
        identity: identity of the stored state.
        offset: offset of the first floor, which has no events.
        clock: measures how old the floor is.
        state_log: log of the state topic as the restore has found it; None = there is no such topic yet.

    Attributes:
        newest: the newest floor.
        state_log: log of the state topic when it began to hold all blocks that a stored floor needs. It stays as it is
            when the topic loses records, until all blocks are to be written again: a floor that is written in between
            shows the next restore that blocks may be missing.
        is_stored: the state topic holds a floor that this partition has written or restored.
        is_discarded: the state topic may hold a floor that is wrong, since blocks of it are gone.
        is_replaying: a replay is under way, and the floor's events say which series get rows.
    """

    def __init__(
        self, identity: Identity, offset: int, clock: Clock = monotonic, state_log: StateLog | None = None
    ) -> None:
        self.newest = Floor(identity, offset, swaps=[Swap(offset, NO_CHECKPOINT)])
        self.is_stored = self.is_discarded = False
        self.is_replaying = False
        self.state_log = state_log
        self._identity = identity
        self._clock = clock
        self._stored_at = clock()
        self._applied_to = offset

    def begin_replay(self, floor: Floor, offset: int) -> None:
        """Use the events of a floor in a replay from `offset` on."""
        self.newest, self.is_replaying = floor, True
        self._applied_to = offset - 1  # an event at the first offset is still to be applied

    def end_replay(self, *, is_stored: bool) -> None:
        """End the replay: new series get rows while there is room, instead of as the floor's events say.

        Args:
            is_stored: the state topic holds this floor.
        """
        self.is_replaying, self.is_stored = False, is_stored

    def events_up_to(self, offset: int) -> list[Event]:
        """Return the events up to `offset`, without those that earlier calls have returned."""
        events = self.newest.events
        begin, end = (bisect_right(events, at, key=_OFFSET) for at in (self._applied_to, offset))
        self._applied_to = max(self._applied_to, offset)
        return events[begin:end]

    def next_event_offset(self, position: int) -> int:
        """Return the offset of the first event after the position; sys.maxsize = there is none."""
        events = self.newest.events
        index = bisect_right(events, position, key=_OFFSET)
        return events[index].offset if index < len(events) else sys.maxsize

    def is_full(self, position: int) -> bool:
        """Return whether new series get no row at the position."""
        events = self.newest.events
        count = bisect_right(events, position, key=_OFFSET) if self.is_replaying else len(events)
        return events[count - 1].full if count else self.newest.full

    def mark_full(self, offset: int) -> None:
        """Add the event that new series get no row from the record at `offset` on."""
        self.newest = replace(self.newest, events=[*self.newest.events, Event(offset, full=True)])
        self.is_stored = False

    def moved_to(self, offset: int, events: Sequence[Event], swaps: Sequence[Swap]) -> Floor:
        """Return a floor at the offset, which the partition may store; events and swaps before it are folded into it.

        Args:
            offset: offset of the new floor.
            events: events of the newest floor and later ones, ascending.
            swaps: swaps of the newest floor and later ones, ascending.
        """
        full = self.newest.full
        for event in events:
            if event.offset < offset:
                full = event.full
        kept = [event for event in events if event.offset >= offset]
        return Floor(self._identity, offset, full, kept, drop_ended(swaps, offset), self.state_log)

    def is_older_than(self, seconds: float) -> bool:
        """Return whether the floor has not been stored for that long."""
        return self._stored_at <= self._clock() - seconds

    def mark_stored(self, floor: Floor) -> None:
        """Replace the floor by one that is in the state topic now."""
        self.newest, self.is_stored, self._stored_at = floor, True, self._clock()
        self.is_discarded = False

    def discard(self, state_log: StateLog) -> None:
        """Note that the stored floor must be deleted, and written again once all blocks are.

        Args:
            state_log: log of the state topic that the blocks are written to.
        """
        self.is_stored, self.is_discarded = False, True
        self.state_log = state_log
