"""Swaps: which checkpoint forecasts at which reading, decided by offsets alone, so that a replay decides the same.

A swap is recorded in the floor of its partition: another checkpoint serves from an offset on. If that checkpoint has
another body, each row must be re-warmed from its context. The groups therefore switch one slot after another: a group
switches at its first reading at or after `offset + (hash(group) mod slots) x stride`. From that offset on, its rows can
be re-warmed at any time with the same result: the worker re-warms entire slots between batches, and a row that it has
not reached yet is re-warmed at its reading. The next swap begins after the end of the present one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forecaster.core.checkpoint_ids import NO_CHECKPOINT, body_of
from forecaster.core.hashing import group_hash
from forecaster.core.network.model import TILE, Model
from forecaster.formats.state import Swap
from forecaster.records import I64, Readings

STRIDE = 256
"""Readings between the re-warming of two tiles of rows, with a context of STRIDE_CONTEXT ticks."""
STRIDE_CONTEXT = 96
"""Length of the context that STRIDE is meant for; a longer context is re-warmed less often, in proportion."""
NO_SLOT = -1
ROWS_AT_ONCE = 4 * TILE
"""Rows that are re-warmed at a time: after a restore that changes the body, all rows are due at once."""


@dataclass(slots=True)
class RewarmProgress:
    """Progress of re-warming the rows of a partition for a swap: the slots before `slot` are done.

    Attributes:
        swap: the newest swap.
        slots: slot of each row when the swap began; NO_SLOT = no series, or done, or another series since; (N,).
        slot: the next slot.
    """

    swap: Swap
    slots: I64
    slot: int = 0

    def next_rows(self, position: int) -> I64:
        """Return rows of the next slot, and count them as done; none if the position is before the slot's offset."""
        if self.slot >= self.swap.slots or position < self.swap.offset + self.slot * self.swap.stride:
            return np.empty(0, np.int64)
        rows = np.flatnonzero(self.slots == self.slot)
        if len(rows) <= ROWS_AT_ONCE:
            self.slot += 1
        self.slots[rows[:ROWS_AT_ONCE]] = NO_SLOT
        return rows[:ROWS_AT_ONCE]

    def forget(self, rows: Sequence[int]) -> None:
        """Skip rows that were freed: the next series in such a row switches at its reading, by its own slot."""
        for row in rows:
            if row < len(self.slots):
                self.slots[row] = NO_SLOT


class Checkpoints(Protocol):
    """The part of `RegistryFollower` that serving needs; tests use a fake."""

    @property
    def champion(self) -> str:
        """Id of the checkpoint that is to serve."""

    def refresh(self) -> None:
        """Read new records of the models topic, without waiting for any."""

    def catch_up(self) -> None:
        """Read the models topic up to its present end."""

    def keep_only(self, checkpoint_ids: Collection[str]) -> None:
        """Evict all other models from memory."""

    def model(self, checkpoint_id: str) -> Model | None:
        """Return the model of a checkpoint; None if it cannot be loaded."""


@dataclass(frozen=True, slots=True)
class ModelAssignment:
    """The models that serve in a batch of N readings.

    Attributes:
        models: the models; None = no network, before any training.
        which: index into `models` for each reading; (N,).
    """

    models: list[Model | None]
    which: I64


def can_serve(checkpoints: Checkpoints, checkpoint_id: str, hidden: int) -> bool:
    """Return whether a checkpoint is available, and its hidden state fits in rows with that many columns."""
    if checkpoint_id == NO_CHECKPOINT:
        return True
    model = checkpoints.model(checkpoint_id)
    return model is not None and model.state_size <= hidden


def new_swap(before: Swap, checkpoint: str, offset: int, series: int, context: int) -> Swap:
    """Return a swap that begins at the offset, with a tile of rows in a slot.

    Args:
        before: the swap before it, which has ended.
        checkpoint: the checkpoint that will serve.
        offset: offset of the next reading.
        series: number of series in the partition.
        context: ticks that a row is re-warmed from.
    """
    if body_of(before.checkpoint) == body_of(checkpoint) or checkpoint == NO_CHECKPOINT:
        return Swap(offset, checkpoint)
    slots = max(1, -(-series // TILE))
    return Swap(offset, checkpoint, slots, max(1, round(STRIDE * context / STRIDE_CONTEXT)) if slots > 1 else 0)


def drop_ended(swaps: Sequence[Swap], floor: int) -> list[Swap]:
    """Return the swaps that a replay from the floor on needs: without those that another ended swap follows."""
    ended = [index for index, swap in enumerate(swaps) if swap.end <= floor]
    return list(swaps[ended[-1] :]) if ended else list(swaps)


def active_swap(swaps: Sequence[Swap], offsets: I64, groups: Sequence[str]) -> I64:
    """Return which swap decides about each reading, as an index into `swaps`; (N,).

    Args:
        swaps: swaps of the partition, ascending; the first holds from the beginning.
        offsets: offsets of the readings; (N,).
        groups: groups of the N readings.
    """
    active = np.zeros(len(offsets), np.int64)
    if not len(offsets):
        return active
    first, slots = int(offsets.min()), None
    for index, swap in enumerate(swaps[1:], 1):
        if swap.end <= first:
            active[:] = index
            continue
        if slots is None:
            slots = hashes(groups)
        active[offsets >= swap.offset + slots % swap.slots * swap.stride] = index
    return active


def hashes(groups: Sequence[str]) -> I64:
    """Return the hash of each group, which determines its slot."""
    return np.array([group_hash(group) for group in groups], np.int64)


def assign_models(
    checkpoints: Checkpoints,
    swaps: Mapping[int, Sequence[Swap]],
    partition_of_reading: I64,
    offsets: I64,
    readings: Readings,
) -> ModelAssignment:
    """Return which model forecasts at each reading.

    Args:
        checkpoints: source of the models; those that the swaps name are available.
        swaps: swaps of each partition.
        partition_of_reading: the partition of each reading; (N,).
        offsets: offsets of the readings; (N,).
        readings: N readings.
    """
    groups = readings.groups or readings.series_ids
    ids: dict[str, int] = {}
    which = np.zeros(len(partition_of_reading), np.int64)
    for partition_number in np.unique(partition_of_reading).tolist():
        indices = np.flatnonzero(partition_of_reading == partition_number)
        partition_swaps = swaps[partition_number]
        checkpoint = np.array([ids.setdefault(swap.checkpoint, len(ids)) for swap in partition_swaps], np.int64)
        partition_groups = [groups[index] for index in indices.tolist()]
        which[indices] = checkpoint[active_swap(partition_swaps, offsets[indices], partition_groups)]
    names, (used, which) = list(ids), np.unique(which, return_inverse=True)
    serving = [names[index] for index in used.tolist()]
    return ModelAssignment([None if name == NO_CHECKPOINT else checkpoints.model(name) for name in serving], which)
