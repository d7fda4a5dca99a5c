"""The state of the partitions that are assigned to this worker, and what each transaction writes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import structlog

from forecaster.clock import Clock, monotonic
from forecaster.core.state import SeriesState
from forecaster.formats.readings import partitions_of
from forecaster.formats.state_log import StateLog
from forecaster.pipeline import Batch, Models
from forecaster.records import I64, Decoded, PollResult
from forecaster.serving.state.champion import ChampionSwaps
from forecaster.serving.state.checkout import Checkout, adopt, check_out, partition_batches
from forecaster.serving.state.config import StateConfig
from forecaster.serving.state.lifecycle import PartitionPhase, PartitionPhases
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.recovery import Recovery, RecoveryPlan
from forecaster.serving.state.restore import Restored, Restorer
from forecaster.serving.state.restore_queue import RestoreQueue
from forecaster.serving.state.swaps import Checkpoints, assign_models
from forecaster.serving.state.transaction_writes import TransactionWrites
from forecaster.serving.state.writes import StateWrites

SLICE_SECONDS = 0.02
"""Longest slice of a restore while other partitions serve: their next batch waits for it."""
LONG_SLICE_SECONDS = 0.5
"""Longest slice of a restore while no partition serves: only the next poll waits for it."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """A batch ready to be computed, and what its transaction writes of the state.

    Attributes:
        checkout: the batch's own copy of the rows that it touches.
        models: models that serve in it.
        batch: its readings, each with its row and its model.
        partition_of_reading: the partition of each reading; (N,).
        writes: writes of the state as it is before the batch, by partition.
    """

    checkout: Checkout
    models: Models
    batch: Batch
    partition_of_reading: I64
    writes: dict[int, StateWrites]

    @property
    def state(self) -> SeriesState:
        """The copied rows."""
        return self.checkout.state


class StateStore:
    """Owns the state of the assigned partitions.

    - `phases`: the phase of each partition in its life cycle.
    - `partitions`: the open partitions, each with its rows, blocks, floor and swaps. They serve, or are held.
    - how each restored partition came back, until it is closed: `restore_result`.
    - the restores under way: `follow` queues assigned partitions, `restore` works on the queue for a slice of time, and
      `open` lets a restored partition serve.

    A batch borrows rows. `prepare` copies the rows that it touches, assigns the models, and determines the blocks that
    its transaction writes. Rows, blocks and floors stay as they are; only the pace of writing, the marks of idle series
    and the rotation of partitions advance. After the commit, `adopt` replaces the rows by the copy. If the transaction
    failed, nothing needs to be undone.

    Between batches, `overdue_writes` and `dirty_writes` return blocks for transactions of their own, and `mark_stored`
    notes their commit.

    `TransactionWrites` shares the bytes of a transaction among the partitions; `ChampionSwaps` begins their swaps.

    The store does not own the consumer's positions and the committed offsets, the transactions, the models and the
    choice of the champion, the limits of bad records, the counters, and the decision how a partition is restored.

    Args:
        restorer: restores partitions.
        checkpoints: the models, and which of them is the champion.
        clock: measures the slices of the restores.

    Attributes:
        config: how the rows of a partition are kept.
        phases: phase of each partition.
    """

    def __init__(self, restorer: Restorer, checkpoints: Checkpoints, clock: Clock = monotonic) -> None:
        self.config: StateConfig = restorer.config.state_config
        self.phases = PartitionPhases()
        self._restorer = restorer
        self._queue = RestoreQueue(restorer, self.phases, clock)
        self._checkpoints = checkpoints
        self._swaps = ChampionSwaps(checkpoints, self.config.shape.hidden)
        self._open: dict[int, Partition] = {}
        self._restored: dict[int, Restored] = {}
        self._writes = TransactionWrites(clock)

    @property
    def champion(self) -> str:
        """Id of the checkpoint that is to serve."""
        return self._checkpoints.champion

    @property
    def partitions(self) -> Mapping[int, Partition]:
        """Open partitions, by number: those that serve or are held."""
        return self._open

    @property
    def input_topic(self) -> str:
        """Name of the input topic."""
        return self._restorer.config.input_topic

    @property
    def input_id(self) -> str:
        """Id of the input topic that the restored partitions belong to; empty = none is restored."""
        return next((restored.identity.topic for restored in self._restored.values()), "")

    @property
    def series(self) -> int:
        """Number of series with a row."""
        return sum(len(partition.table) for partition in self._open.values())

    @property
    def unopened(self) -> list[int]:
        """Assigned partitions that are not open yet."""
        return self.phases.numbers(PartitionPhase.WAITING, PartitionPhase.RESTORING)

    @property
    def has_unopened(self) -> bool:
        """Whether an assigned partition is not open yet."""
        return bool(self.unopened)

    @property
    def can_restore(self) -> bool:
        """Whether a restore can take a step now."""
        return self.has_unopened and not self._queue.is_paused

    def has_work(self, ends: Mapping[int, int]) -> bool:
        """Return whether a partition is not open yet, or records of a serving one wait.

        Args:
            ends: end of the records that can be read now, by partition; those that are known.
        """
        serving = self.phases.numbers(PartitionPhase.SERVING)
        return self.has_unopened or any(self._open[number].position < ends.get(number, 0) for number in serving)

    def restore_result(self, partition_number: int) -> Restored:
        """Return the result of the restore of a partition."""
        return self._restored[partition_number]

    def follow(self, revoked: Collection[int], assigned: Collection[int]) -> None:
        """Drop the state of revoked partitions, and queue assigned ones to be restored."""
        self._close({*revoked, *assigned})
        for partition_number in assigned:
            self.phases.move(partition_number, PartitionPhase.WAITING)

    def restore_again(self, partition_numbers: Collection[int]) -> None:
        """Drop the state of partitions, and queue them to be restored."""
        self.follow((), partition_numbers)

    def restore(self) -> Restored | None:
        """Restore for a slice of time; return a partition as soon as it is restored.

        Raises:
            StateError: the state cannot be restored in full and ON_LOST_INPUT is `fail`, or a newer version wrote it.
            TopicError: the same, because of another partition count.
        """
        restored = self._queue.work(SLICE_SECONDS if self._open else LONG_SLICE_SECONDS)
        if restored is not None:
            self._restored[restored.partition.number] = restored
        return restored

    def initial_writes(self, restored: Restored) -> dict[int, StateWrites]:
        """Return the next writes that must be committed before a restored partition may serve; empty = none."""
        return self._writes.next_of(restored.partition) if restored.must_be_written else {}

    def open(self, restored: Restored) -> None:
        """Let a restored partition serve."""
        partition_number = restored.partition.number
        self.phases.move(partition_number, PartitionPhase.SERVING)
        self._open[partition_number] = restored.partition

    def first_offsets(self, begins: Mapping[int, int]) -> dict[int, int]:
        """Return those offsets at which a partition of a new group begins: nothing of it has been committed yet."""
        return {
            number: begin
            for number, begin in begins.items()
            if self._restored[number].plan == RecoveryPlan(Recovery.NEW, begin, begin)
        }

    def skip_to(self, partition_number: int, offset: int) -> None:
        """Move the position of an open partition over offsets that hold no records."""
        self._open[partition_number].position = offset

    def hold(self, partition_number: int) -> None:
        """Mark a serving partition as held until a restart: it keeps its rows and gets no more records."""
        self.phases.move(partition_number, PartitionPhase.HELD)

    def log_start(self, partition_number: int) -> int:
        """Return the first offset of a partition's input."""
        return self._restorer.log_start(partition_number)

    def refresh_models(self) -> None:
        """Refresh the champion, and evict models that no partition needs."""
        self._checkpoints.refresh()
        needed = {swap.checkpoint for partition in self._open.values() for swap in partition.floor.swaps}
        if not self.has_unopened:
            self._checkpoints.keep_only({*needed, self._checkpoints.champion})

    def rewarm_next_slot(self) -> None:
        """Re-warm a slot of rows that switch to another body, before their next readings come.

        Re-warmed rows are not written to the state topic; a restore computes them again.
        """
        self._swaps.rewarm_next_slot(self._open.values())

    def prepare(self, polled: PollResult, decoded: Decoded) -> PreparedBatch:
        """Return the batch with its copy of the rows, its models and its writes.

        Rows, blocks and floors stay as they are; pace of writing, marks of idle series and rotation advance.

        Args:
            polled: records of the batch.
            decoded: its readings.
        """
        readings = decoded.readings
        partition_of_reading = partitions_of(readings, polled.records)
        checkout = check_out(self._open, readings, partition_of_reading)
        swaps = self._swaps.of_batch(self._open, polled.end)
        offsets = np.array([record.offset for record in polled.records], np.int64)[readings.record_of_reading]
        assigned = assign_models(self._checkpoints, swaps, partition_of_reading, offsets, readings)
        batch = Batch(readings, checkout.row, assigned.which)
        batches = partition_batches(checkout, partition_of_reading, offsets, polled.end)
        writes = self._writes.of_batch(self._open, batches, swaps)
        return PreparedBatch(checkout, assigned.models, batch, partition_of_reading, writes)

    def adopt(self, prepared: PreparedBatch, ends: Mapping[int, int]) -> None:
        """Take over a committed batch: its writes are in the state topic, and its rows become the partitions' rows.

        Args:
            prepared: the batch.
            ends: offset after the batch, of each partition whose part of it was committed.
        """
        self.mark_stored({partition_number: prepared.writes[partition_number] for partition_number in ends})
        adopt(self._open, prepared.checkout, ends)
        for partition_number, end in ends.items():
            self._open[partition_number].position = end
            self._open[partition_number].free(prepared.writes[partition_number].freed, end)

    def overdue_writes(self, except_partitions: Collection[int]) -> dict[int, StateWrites]:
        """Return writes of partitions outside this batch whose blocks or floor are older than the snapshot interval.

        Args:
            except_partitions: partitions with a batch, whose transaction contains their writes.
        """
        others = (partition for number, partition in self._open.items() if number not in except_partitions)
        return self._writes.overdue(others, may_try=not except_partitions)

    def dirty_writes(self) -> dict[int, StateWrites]:
        """Return writes of one partition that has something to write; empty = no partition has."""
        return self._writes.next_of_any(self._open.values())

    def next_writes(self, partition_number: int) -> dict[int, StateWrites]:
        """Return the next writes of an open partition; empty = everything is stored."""
        return self._writes.next_of(self._open[partition_number])

    def discard_stored(self, state_logs: Mapping[int, StateLog]) -> None:
        """Note that the state topic has lost records of open partitions; they get no batch until all is written.

        Args:
            state_logs: logs of the state topic that they are written to, by partition.
        """
        for partition_number, state_log in state_logs.items():
            self._open[partition_number].discard_stored(state_log)

    def mark_stored(self, writes: Mapping[int, StateWrites]) -> None:
        """Note that the writes, by partition, are in the state topic."""
        for partition_number, written in writes.items():
            partition = self._restored[partition_number].partition
            before = partition.floor.swaps[-1]
            partition.mark_stored(written)
            self._writes.record_stored(written)
            swap = partition.floor.swaps[-1]
            if swap != before:
                _log.info(
                    "swap_started",
                    partition=partition_number,
                    checkpoint=swap.checkpoint,
                    offset=swap.offset,
                    complete_from=swap.end,
                )

    def limit_writes(self, size: int) -> None:
        """Let the blocks of later transactions have at most this many bytes."""
        self._writes.limit(size)

    def _close(self, partition_numbers: Collection[int]) -> None:
        self._queue.cancel(partition_numbers)
        for partition_number in partition_numbers:
            if self.phases[partition_number] is not PartitionPhase.CLOSED:
                self.phases.move(partition_number, PartitionPhase.CLOSED)
            self._open.pop(partition_number, None)
            self._restored.pop(partition_number, None)
