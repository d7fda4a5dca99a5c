"""The life cycle of the training coordinator of a process."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from forecaster.lifecycle import next_phase


class CoordinatorPhase(StrEnum):
    """Phase in the life cycle of a training coordinator.

        NOT_ELECTED ──▶ IDLE ◀──▶ BACKING_OFF
                          │            │
                          └▶ RUNNING ◀─┘
                                │
                                ▼
                        AWAITING_DECISION

    A run that publishes nothing, and a decision that was read back, lead to IDLE, or to BACKING_OFF while the pause
    after a failed training lasts. Every phase leads back to NOT_ELECTED.
    """

    NOT_ELECTED = "not_elected"
    IDLE = "idle"
    BACKING_OFF = "backing_off"  # a training has failed: until the pause is over, only scheduled runs start
    RUNNING = "running"  # a child process trains
    AWAITING_DECISION = "awaiting_decision"  # the decision is published, and not read back from the topic yet

    def to(self, phase: CoordinatorPhase) -> CoordinatorPhase:
        """Return the next phase.

        Raises:
            InvalidTransition: this phase does not lead there.
        """
        return next_phase("the training coordinator", self, phase, ALLOWED)


_BETWEEN_RUNS = frozenset({CoordinatorPhase.IDLE, CoordinatorPhase.BACKING_OFF})
ALLOWED: Mapping[CoordinatorPhase, frozenset[CoordinatorPhase]] = {
    CoordinatorPhase.NOT_ELECTED: _BETWEEN_RUNS,
    CoordinatorPhase.IDLE: frozenset(
        {CoordinatorPhase.RUNNING, CoordinatorPhase.BACKING_OFF, CoordinatorPhase.NOT_ELECTED}
    ),
    CoordinatorPhase.BACKING_OFF: frozenset(
        {CoordinatorPhase.RUNNING, CoordinatorPhase.IDLE, CoordinatorPhase.NOT_ELECTED}
    ),
    CoordinatorPhase.RUNNING: _BETWEEN_RUNS | {CoordinatorPhase.AWAITING_DECISION, CoordinatorPhase.NOT_ELECTED},
    CoordinatorPhase.AWAITING_DECISION: _BETWEEN_RUNS | {CoordinatorPhase.NOT_ELECTED},
}
"""The phases that each phase leads to."""
