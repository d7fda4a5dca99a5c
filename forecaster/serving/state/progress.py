"""Progress of the restores: what their steps report, and the log entries about it."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from forecaster.clock import Clock

PROGRESS_SECONDS = 5.0
"""Time between two log entries about the progress of restores."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """How far one step of a restore has come.

    Attributes:
        step: name of the step.
        partition: number of the partition.
        offset: next offset to read.
        end: offset at which the step ends.
    """

    step: str
    partition: int
    offset: int
    end: int


class ProgressLog:
    """Logs the progress of restores, but not too often.

    Args:
        clock: measures the time between two entries.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged_at = 0.0

    def report(self, progress: RestoreProgress | None, waiting: int = 0) -> None:
        """Log the progress, unless an entry was logged a moment ago.

        Args:
            progress: how far the step has come; None = not worth an entry.
            waiting: number of partitions that wait for their restore.
        """
        now = self._clock()
        if progress is None or now - self._logged_at <= PROGRESS_SECONDS:
            return
        self._logged_at = now
        _log.info(
            "restore_progress",
            step=progress.step,
            partition=progress.partition,
            offset=progress.offset,
            end=progress.end,
            partitions_waiting=waiting,
        )
