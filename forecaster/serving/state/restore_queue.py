"""The queue of the partitions that wait to be restored: one after the other, in slices between the worker's batches."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from forecaster.clock import Clock, monotonic
from forecaster.errors import TransientBrokerError
from forecaster.serving.state.lifecycle import PartitionPhase, PartitionPhases
from forecaster.serving.state.progress import ProgressLog
from forecaster.serving.state.restore import Restored, Restorer, RestoreSlices

RETRY_SECONDS = 0.5
"""Pause after a restore that the broker interrupted."""
_log = structlog.get_logger()


class RestoreQueue:
    """Partitions that wait to be restored, one after the other, in slices of time.

    Args:
        restorer: takes the steps of a restore.
        phases: phase of each partition; the queue consists of the waiting ones.
        clock: measures the slices and pauses.
    """

    def __init__(self, restorer: Restorer, phases: PartitionPhases, clock: Clock = monotonic) -> None:
        self._restorer = restorer
        self._phases = phases
        self._clock = clock
        self._progress = ProgressLog(clock)
        self._partition_number = -1
        self._steps: RestoreSlices[Restored] | None = None
        self._not_before = 0.0

    @property
    def is_paused(self) -> bool:
        """Whether no step can be taken yet, after a restore that the broker interrupted."""
        return self._clock() < self._not_before

    def cancel(self, partition_numbers: Collection[int]) -> None:
        """Drop the present restore if it is of one of these partitions."""
        if self._partition_number in partition_numbers:
            self._steps = None

    def work(self, seconds: float) -> Restored | None:
        """Restore for about that long; return a partition as soon as it is restored.

        Raises:
            StateError: the state cannot be restored in full and the policy is `fail`, or a newer version wrote it.
            TopicError: the same, because of another partition count.
        """
        deadline = self._clock() + seconds
        while not self.is_paused and (steps := self._present_steps()) is not None:
            try:
                self._progress.report(next(steps), len(self._phases.numbers(PartitionPhase.WAITING)))
            except StopIteration as done:
                self._steps = None
                restored: Restored = done.value
                return restored
            except TransientBrokerError as error:
                self._postpone(error)
            if self._clock() >= deadline:
                break
        return None

    def _present_steps(self) -> RestoreSlices[Restored] | None:
        """Return the steps of the present restore, or of the next partition's; None = no partition waits."""
        if self._steps is None:
            waiting = self._phases.numbers(PartitionPhase.WAITING)
            if not waiting:
                return None
            self._partition_number = waiting[0]
            self._phases.move(self._partition_number, PartitionPhase.RESTORING)
            self._steps = self._restorer.steps(self._partition_number)
        return self._steps

    def _postpone(self, error: TransientBrokerError) -> None:
        """Put the partition at the end of the queue, so that one that cannot be read keeps no other waiting."""
        _log.warning("restore_postponed", partition=self._partition_number, error=str(error))
        self._steps = None
        self._phases.move(self._partition_number, PartitionPhase.WAITING)
        self._not_before = self._clock() + RETRY_SECONDS
