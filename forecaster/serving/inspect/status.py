"""The status of a worker between two batches, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from forecaster.serving.counters import Counters
from forecaster.serving.inspect.trouble import Trouble


class PartitionState(StrEnum):
    """State of an assigned partition as operators see it: RESTORING covers `PartitionPhase` WAITING and RESTORING."""

    RESTORING = "restoring"
    SERVING = "serving"
    HELD = "held"  # it had too many bad records


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """Status of an assigned partition.

    Attributes:
        partition: its number.
        state: whether it is restored, served or held.
        position: next offset of the input to read; None = not known yet.
        end: end of the input, as the last fetch reported it; None = not known yet.
        readable_end: end of the records that can be read: behind it, a transaction of the input is open; None = not
            known yet.
        series: number of series that have a row.
        blocks: number of blocks that the rows are stored in.
        replay: number of offsets that a new owner would replay now.
        checkpoint: id of the checkpoint that serves at the position; groups that have not switched yet are still
            served by the one before.
    """

    partition: int
    state: PartitionState
    position: int | None = None
    end: int | None = None
    readable_end: int | None = None
    series: int = 0
    blocks: int = 0
    replay: int = 0
    checkpoint: str = ""

    @property
    def lag(self) -> int | None:
        """Number of offsets up to the end, those of open transactions included; None = not known yet."""
        return None if self.position is None or self.end is None else max(0, self.end - self.position)

    @property
    def has_readable(self) -> bool:
        """Whether records wait that can be read now."""
        return self.position is not None and self.readable_end is not None and self.position < self.readable_end


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Status of a worker between two batches.

    Attributes:
        at_ms: time of the status, epoch milliseconds, UTC.
        member: member id in the consumer group.
        generation: generation of the consumer group.
        is_member: the worker is a member of the consumer group's current generation.
        answered: the broker answered the last request.
        champion: id of the checkpoint that is to be served.
        partitions: the assigned partitions, ascending.
        row_bytes: memory that the row of one series takes.
        levels: quantile levels, ascending.
        horizons: forecast horizons, ticks.
        counters: what has happened since the start.
        trouble: what keeps the worker from committing.
    """

    at_ms: int
    member: str
    generation: int
    is_member: bool
    answered: bool
    champion: str
    partitions: tuple[PartitionStatus, ...]
    row_bytes: int
    levels: tuple[float, ...]
    horizons: tuple[int, ...]
    counters: Counters
    trouble: Trouble = field(default_factory=Trouble)

    @property
    def nominal_coverage(self) -> float:
        """Share of the truths that should lie between the outermost quantiles."""
        return self.levels[-1] - self.levels[0]

    @property
    def unready(self) -> str:
        """Reason why the worker does not serve all its partitions, or commits nothing; empty = it serves all."""
        if not self.answered:
            return "the broker does not answer"
        if self.trouble.reason:
            return self.trouble.reason
        if not self.is_member:
            return "not a member of the consumer group yet"
        for state in (PartitionState.RESTORING, PartitionState.HELD):
            numbers = [str(status.partition) for status in self.partitions if status.state == state]
            if numbers:
                return f"partitions {state.value}: {', '.join(numbers)}"
        return ""
