"""Which checkpoint forecasts at which reading: decided by offsets alone, so that a replay decides the same.

A swap is a record in the floor of its partition: from an offset on another checkpoint serves. Where its body is another
one, each row must be re-warmed from its context, so that the groups switch one slot after another: a group switches at
its first reading at or after `offset + (hash(group) mod slots) x stride`. Between the two, its rows may be re-warmed at
any time with the same result: the keeper does so for a whole slot at once, and what it has not come to is done when
the reading comes. The next swap waits for the end of this one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forecaster.core.network.model import NO_CHECKPOINT, TILE, Model, body_of
from forecaster.formats.history import group_hash
from forecaster.formats.state import Swap
from forecaster.records import I64, Readings

STRIDE = 256
"""A tile of rows is re-warmed every so many readings, with a context of so many ticks; more ticks, less often."""
CONTEXT_OF_THAT = 96


NO_SLOT = -1
MOST_ROWS = 4 * TILE
"""So many rows are re-warmed at a time: after a restore that changes the body, all of them are due at once."""


@dataclass(slots=True)
class RewarmProgress:
    """How far the rows of a partition have been re-warmed for a swap: slots before `slot` have.

    Attributes:
        swap: the newest one.
        slots: of the rows when it began; NO_SLOT = no series, or done, or another one since; (N,).
        slot: the next one.
    """

    swap: Swap
    slots: I64
    slot: int = 0

    def next_rows(self, position: int) -> I64:
        """Returns rows of the next slot, which are done then, once the position is there; else none."""
        if self.slot >= self.swap.slots or position < self.swap.offset + self.slot * self.swap.stride:
            return np.empty(0, np.int64)
        rows = np.flatnonzero(self.slots == self.slot)
        if len(rows) <= MOST_ROWS:
            self.slot += 1
        self.slots[rows[:MOST_ROWS]] = NO_SLOT
        return rows[:MOST_ROWS]

    def forget(self, rows: Sequence[int]) -> None:
        """The rows are freed: the series that has one of them next switches by its own slot, at its reading."""
        for row in rows:
            if row < len(self.slots):
                self.slots[row] = NO_SLOT


class Checkpoints(Protocol):
    """What serving asks of `RegistryFollower`; tests have their own."""

    @property
    def champion(self) -> str: ...
    def look(self) -> None: ...
    def catch_up(self) -> None: ...
    def keep(self, checkpoint_ids: Collection[str]) -> None: ...
    def model(self, checkpoint_id: str) -> Model | None: ...


@dataclass(frozen=True, slots=True)
class ModelAssignment:
    """The models that serve in a batch, None = before any training, and which of them at each reading; (N,)."""

    models: list[Model | None]
    which: I64


def can_serve(checkpoints: Checkpoints, checkpoint_id: str, hidden: int) -> bool:
    """Returns whether a checkpoint is there, and rows with hidden states of so many columns can hold its."""
    if checkpoint_id == NO_CHECKPOINT:
        return True
    model = checkpoints.model(checkpoint_id)
    return model is not None and model.state_size <= hidden


def new_swap(before: Swap, checkpoint: str, offset: int, series: int, context: int) -> Swap:
    """Returns a swap that begins at the offset, a tile of rows a slot.

    Args:
        before: the swap that has ended.
        checkpoint: what is to serve.
        offset: of the next reading.
        series: of the partition.
        context: ticks that a row is re-warmed from.
    """
    if body_of(before.checkpoint) == body_of(checkpoint) or checkpoint == NO_CHECKPOINT:
        return Swap(offset, checkpoint)
    slots = max(1, -(-series // TILE))
    return Swap(offset, checkpoint, slots, max(1, round(STRIDE * context / CONTEXT_OF_THAT)) if slots > 1 else 0)


def folded(swaps: Sequence[Swap], floor: int) -> list[Swap]:
    """Returns the swaps that a replay from the floor on needs."""
    ended = [number for number, swap in enumerate(swaps) if swap.end <= floor]
    return list(swaps[ended[-1] :]) if ended else list(swaps)


def active_swap(swaps: Sequence[Swap], offsets: I64, groups: Sequence[str]) -> I64:
    """Returns which of the swaps each reading falls under; (N,).

    Args:
        swaps: of the partition, ascending, the first in force from the beginning.
        offsets: of the readings; (N,).
        groups: of the readings; N of them.
    """
    found = np.zeros(len(offsets), np.int64)
    if not len(offsets):
        return found
    first, slots = int(offsets.min()), None
    for number, swap in enumerate(swaps[1:], 1):
        if swap.end <= first:
            found[:] = number
            continue
        if slots is None:
            slots = hashes(groups)
        found[offsets >= swap.offset + slots % swap.slots * swap.stride] = number
    return found


def hashes(groups: Sequence[str]) -> I64:
    """Returns the hash of each group, which decides about its slot."""
    return np.array([group_hash(group) for group in groups], np.int64)


def assign_models(
    checkpoints: Checkpoints,
    swaps: Mapping[int, Sequence[Swap]],
    numbers: I64,
    offsets: I64,
    readings: Readings,
) -> ModelAssignment:
    """Returns who forecasts at each reading.

    Args:
        checkpoints: where the models come from; those of the swaps are there.
        swaps: of each partition.
        numbers: the partition of each reading; (N,).
        offsets: of the readings; (N,).
        readings: N of them.
    """
    groups = readings.groups or readings.series_ids
    ids: dict[str, int] = {}
    which = np.zeros(len(numbers), np.int64)
    for number in np.unique(numbers).tolist():
        rows = np.flatnonzero(numbers == number)
        own = swaps[number]
        named = np.array([ids.setdefault(swap.checkpoint, len(ids)) for swap in own], np.int64)
        which[rows] = named[active_swap(own, offsets[rows], [groups[row] for row in rows.tolist()])]
    names, (used, which) = list(ids), np.unique(which, return_inverse=True)
    serving = [names[number] for number in used.tolist()]
    return ModelAssignment([None if name == NO_CHECKPOINT else checkpoints.model(name) for name in serving], which)
