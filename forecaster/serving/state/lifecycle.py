"""The life cycle of a partition on this worker, from its assignment to its revocation."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from forecaster.lifecycle import next_phase


class PartitionPhase(StrEnum):
    """Phase in the life cycle of a partition.

        CLOSED ──▶ WAITING ◀──▶ RESTORING ──▶ SERVING ──▶ HELD

    Every phase leads back to CLOSED.
    """

    CLOSED = "closed"  # not assigned, or about to be restored again
    WAITING = "waiting"  # in the queue of restores
    RESTORING = "restoring"  # its rows are being restored, or are restored and not yet open
    SERVING = "serving"  # its rows are open
    HELD = "held"  # its rows are open, but it is paused until a restart: too many bad records


ALLOWED: Mapping[PartitionPhase, frozenset[PartitionPhase]] = {
    PartitionPhase.CLOSED: frozenset({PartitionPhase.WAITING}),
    PartitionPhase.WAITING: frozenset({PartitionPhase.RESTORING, PartitionPhase.CLOSED}),
    PartitionPhase.RESTORING: frozenset({PartitionPhase.WAITING, PartitionPhase.SERVING, PartitionPhase.CLOSED}),
    PartitionPhase.SERVING: frozenset({PartitionPhase.HELD, PartitionPhase.CLOSED}),
    PartitionPhase.HELD: frozenset({PartitionPhase.CLOSED}),
}
"""The phases that each phase leads to."""


class PartitionPhases:
    """The phase of every partition; those that were never moved are closed."""

    def __init__(self) -> None:
        self._phases: dict[int, PartitionPhase] = {}

    def __getitem__(self, partition_number: int) -> PartitionPhase:
        return self._phases.get(partition_number, PartitionPhase.CLOSED)

    def numbers(self, *phases: PartitionPhase) -> list[int]:
        """Return the partitions in any of these phases, in the order in which they entered them."""
        return [partition_number for partition_number, phase in self._phases.items() if phase in phases]

    def move(self, partition_number: int, phase: PartitionPhase) -> None:
        """Move a partition to a phase.

        Raises:
            InvalidTransition: its present phase does not lead there.
        """
        next_phase(f"partition {partition_number}", self[partition_number], phase, ALLOWED)
        self._phases.pop(partition_number, None)
        self._phases[partition_number] = phase
