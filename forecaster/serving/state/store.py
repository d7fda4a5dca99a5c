"""Which partitions are ours, which of them are whole and serve, and what each transaction writes of their state."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass

import numpy as np
import structlog

from forecaster.core.network.model import NO_CHECKPOINT, NO_NETWORK
from forecaster.core.network.rewarm import switch
from forecaster.core.state import SeriesState
from forecaster.errors import TransientBrokerError
from forecaster.formats.readings import partitions_of
from forecaster.formats.state import Swap
from forecaster.pipeline import Batch, Models
from forecaster.records import I64, Decoded, PollResult
from forecaster.serving.state.keeping import PartitionBatch, StateWrites
from forecaster.serving.state.partitions import Checkout, Partitions
from forecaster.serving.state.restore import Restored, Restorer
from forecaster.serving.state.swaps import Checkpoints, assign_models, can_serve

BLOCK_BYTES_PER_TRANSACTION = 1_500_000
SLICE_SECONDS = 0.02
"""So long a restore holds up the partitions that serve ..."""
LONG_SLICE_SECONDS = 0.5
"""... and where none does, the next poll."""


_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """What a batch works on, and what its transaction writes of the state.

    Attributes:
        checkout: the batch's own copy of the rows that it touches.
        models: that serve in it.
        batch: its readings, and which rows and models they meet.
        numbers: the partition of each reading; (N,).
        changes: of the state as it is before the batch, by partition.
    """

    checkout: Checkout
    models: Models
    batch: Batch
    numbers: I64
    writes: dict[int, StateWrites]

    @property
    def state(self) -> SeriesState:
        """The copied rows."""
        return self.checkout.state


class StateStore:
    """Partitions are restored, served, written and forgotten here.

    Args:
        partitions: those that serve; none yet.
        restorer: of those that shall.
        checkpoints: what serves.
    """

    def __init__(self, partitions: Partitions, restorer: Restorer, checkpoints: Checkpoints) -> None:
        self.partitions = partitions
        self._restorer = restorer
        self._checkpoints = checkpoints
        self._rotation = 0
        self._refused = ""
        self._restored: dict[int, Restored] = {}

    @property
    def champion(self) -> str:
        """Id of the checkpoint that is to be served."""
        return self._checkpoints.champion

    @property
    def waiting(self) -> list[int]:
        """Partitions of ours that are not whole yet."""
        return self._restorer.waiting

    def restored(self, number: int) -> Restored:
        """Returns how an open partition became whole."""
        return self._restored[number]

    def open(self, restored: Restored) -> None:
        """The partition serves."""
        self._restored[restored.partition.number] = restored
        self.partitions.open(restored.partition)

    @property
    def restoring(self) -> bool:
        """Some partition of ours is not whole yet."""
        return len(self._restorer) > 0

    def follow(self, closed: Collection[int], opened: Collection[int]) -> None:
        """Partitions that are not ours any more, or anew, are forgotten; those opened are to be restored."""
        self._restorer.cancel(closed)
        for number in {*closed, *opened}:
            self.partitions.close(number)
            self._restored.pop(number, None)
        self._restorer.add(opened)

    def look(self) -> None:
        """What is to be served is known as of now; models that no partition needs are in memory no more."""
        self._checkpoints.look()
        needed = {swap.checkpoint for partition in self.partitions for swap in partition.floor.swaps}
        if not self.restoring:
            self._checkpoints.keep({*needed, self._checkpoints.champion})

    def rewarm_next_slot(self) -> None:
        """Rows that switch to another body hold its hidden states before their next readings come: a slot at a time.

        Nothing of it is written: a restore does it again.
        """
        for partition in self.partitions:
            rows = partition.next_slot()
            if not len(rows):
                continue
            checkpoint, state = partition.floor.swaps[-1].checkpoint, partition.table.state
            model = self._checkpoints.model(checkpoint)
            code = NO_NETWORK if model is None else model.body_code
            if model is not None or checkpoint == NO_CHECKPOINT:
                switch(model, state, rows[state.body[rows] != code])
            return

    def restore(self) -> Restored | None:
        """A slice of the restoring has been done; returns a partition that became whole by it."""
        return self._restorer.work(SLICE_SECONDS if len(self.partitions) else LONG_SLICE_SECONDS)

    def log_start(self, number: int) -> int:
        """Returns the first offset of a partition's input."""
        return self._restorer.log_start(number)

    def prepare(self, polled: PollResult, decoded: Decoded) -> PreparedBatch:
        """Returns what a batch works on; the partitions stay as they are.

        Args:
            polled: the batch's records.
            decoded: its readings.
        """
        readings = decoded.readings
        numbers = partitions_of(readings, polled.records)
        checkout = self.partitions.checkout(readings, numbers)
        champion = self._checkpoints.champion
        is_there = self._can_serve(champion)
        swaps = {
            number: self.partitions[number].swaps_with(champion) if is_there else self.partitions[number].floor.swaps
            for number in polled.end
        }
        offsets = np.array([record.offset for record in polled.records], np.int64)[readings.records]
        serving = assign_models(self._checkpoints, swaps, numbers, offsets, readings)
        batch = Batch(readings, checkout.row, serving.which)
        return PreparedBatch(
            checkout, serving.models, batch, numbers, self._writes(polled, checkout, numbers, offsets, swaps)
        )

    def _can_serve(self, champion: str) -> bool:
        """Returns whether swaps to the champion may begin; says once why not."""
        why = "it cannot be read, or its hidden state is larger than the rows have room for until a restart"
        try:
            can = can_serve(self._checkpoints, champion, self.partitions.config.shape.hidden)
        except TransientBrokerError as error:
            can, why = False, str(error)
        if not can and self._refused != champion:
            _log.warning("the champion does not serve here: what served before goes on", checkpoint=champion, why=why)
        self._refused = "" if can else champion
        return can

    def _writes(
        self,
        polled: PollResult,
        checkout: Checkout,
        numbers: I64,
        offsets: I64,
        swaps: Mapping[int, list[Swap]],
    ) -> dict[int, StateWrites]:
        budget = BLOCK_BYTES_PER_TRANSACTION
        found: dict[int, StateWrites] = {}
        for number in self._in_rotation(polled.end):
            part = checkout.parts.get(number)
            refused = int(offsets[part.refused]) if part is not None and part.refused >= 0 else -1
            batch = PartitionBatch(int((numbers == number).sum()), polled.end[number], part, refused)
            writes = self.partitions[number].writes(batch, swaps[number], budget)
            budget -= writes.size
            found[number] = writes
        return found

    def overdue(self, but: Container[int]) -> dict[int, StateWrites]:
        """Returns changes of partitions that have had nothing to do for long, and were not written since.

        Args:
            but: partitions that have a batch, whose transaction writes what is due of them.
        """
        budget = BLOCK_BYTES_PER_TRANSACTION
        found: dict[int, StateWrites] = {}
        for partition in self.partitions:
            if budget > 0 and partition.number not in but and partition.overdue():
                writes = partition.flush(budget)
                if writes is not None:
                    budget -= writes.size
                    found[partition.number] = writes
        return found

    def dirty(self) -> dict[int, StateWrites]:
        """Returns changes of one partition that has something to write; empty = none has."""
        for partition in self.partitions:
            writes = partition.flush(BLOCK_BYTES_PER_TRANSACTION)
            if writes is not None:
                return {partition.number: writes}
        return {}

    def committed(self, prepared: PreparedBatch, ends: Mapping[int, int]) -> None:
        """The topic holds the changes, and the rows of the partitions in `ends` hold the batch."""
        self.written({number: one for number, one in prepared.writes.items() if number in ends})
        self.partitions.adopt(prepared.checkout, ends, ends)
        for number in ends:
            self.partitions[number].free(prepared.writes[number].freed, ends[number])

    def written(self, writes: Mapping[int, StateWrites]) -> None:
        """The topic holds the changes."""
        for number, one in writes.items():
            before = self.partitions[number].floor.swaps[-1]
            self.partitions[number].committed(one)
            swap = self.partitions[number].floor.swaps[-1]
            if swap != before:
                _log.info("swap", partition=number, to=swap.checkpoint, offset=swap.offset, whole_from=swap.end)

    def _in_rotation(self, numbers: Collection[int]) -> list[int]:
        """Returns the partitions, each time beginning with another: the budget reaches all of them in turn."""
        ordered = sorted(numbers)
        self._rotation = (self._rotation + 1) % len(ordered)
        return ordered[self._rotation :] + ordered[: self._rotation]
