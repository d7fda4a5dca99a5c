"""What keeps a worker from committing: transactions that fail, topics that do not fit, partitions that stand still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

FAILURES_IN_A_ROW = 3
"""Failed transactions in a row at which a worker is not ready."""
FAILING_SECONDS = 10.0
"""Time after the first of several failed transactions at which a worker is not ready."""
STANDSTILL_SECONDS = 60.0
"""Time for which records may wait in a serving partition without a commit before a worker is not ready."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a worker from committing.

    Attributes:
        failed_in_a_row: failed transactions since the last one that was committed.
        failing_seconds: time since the first of them failed.
        failure: why the last of them failed.
        topics: what is wrong with the topics, for people; empty = nothing.
        waiting_seconds: time for which records have waited in a serving partition without a commit, by partition.
    """

    failed_in_a_row: int = 0
    failing_seconds: float = 0.0
    failure: str = ""
    topics: str = ""
    waiting_seconds: Mapping[int, float] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Reason why the worker is not ready, for people; empty = nothing keeps it from committing."""
        return "; ".join(filter(None, [self.topics, self._failing, self._standing_still]))

    @property
    def _failing(self) -> str:
        number = self.failed_in_a_row
        if number < FAILURES_IN_A_ROW and (not number or self.failing_seconds < FAILING_SECONDS):
            return ""
        plural = "s in a row have" if number > 1 else " has"
        return f"{number} transaction{plural} failed, for {self.failing_seconds:.0f} s; the last: {self.failure}"

    @property
    def _standing_still(self) -> str:
        standing = {number: time for number, time in self.waiting_seconds.items() if time >= STANDSTILL_SECONDS}
        if not standing:
            return ""
        numbers = ", ".join(map(str, sorted(standing)))
        return f"partitions {numbers}: records wait, but none was committed for {max(standing.values()):.0f} s"


class TroubleLog:
    """Logs the beginning and the end of trouble."""

    def __init__(self) -> None:
        self._is_logged = False

    def note(self, reason: str) -> None:
        """Log when there is trouble that was not there before, or none any more.

        Args:
            reason: reason why the worker is not ready; empty = there is none.
        """
        if reason and not self._is_logged:
            _log.error("worker_not_ready", reason=reason)
        elif self._is_logged and not reason:
            _log.info("worker_ready_again")
        self._is_logged = bool(reason)
