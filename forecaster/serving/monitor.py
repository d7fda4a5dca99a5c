"""The window between the worker's thread and those who ask: answers and copies are made between two batches."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from forecaster.broker.consumer import Member
from forecaster.errors import ForecasterError
from forecaster.serving.counting import Counters
from forecaster.serving.keeper import StateKeeper
from forecaster.serving.partition import Partition
from forecaster.serving.pipeline import PipelineConfig

STATUS_SECONDS = 1.0
"""A copy is not made more often."""
ANSWER_SECONDS = 3.0
MOST_WAITING, MOST_AT_ONCE = 32, 4
"""More questions are refused, and so many are answered between two batches."""
RATE_SECONDS = 10.0
"""Span of the rate of forecasts, or the time since the start where that is shorter."""
Answer = TypeVar("Answer")


class Unanswered(ForecasterError):
    """The worker has no time for the question: asking again can help."""


class PartitionState(StrEnum):
    """What a partition of ours does."""

    RESTORING = "restoring"
    SERVING = "serving"
    HELD = "held"  # too many bad records


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition of ours.

    Attributes:
        partition: its number.
        state: what it does.
        position: next offset of the input; None = not known yet.
        end: of the input, as the last fetch told; None = not known yet.
        series: that have a row.
        blocks: that the rows are stored in.
        replay: offsets that whoever took over now would read again.
        checkpoint: that serves at the position; groups that have not switched yet are served by the one before.
    """

    partition: int
    state: PartitionState
    position: int | None = None
    end: int | None = None
    series: int = 0
    blocks: int = 0
    replay: int = 0
    checkpoint: str = ""

    @property
    def lag(self) -> int | None:
        """Records that wait; None = not known yet."""
        return None if self.position is None or self.end is None else max(0, self.end - self.position)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker between two batches.

    Attributes:
        at_ms: wall clock, epoch ms.
        member: our id in the group.
        generation: of the group.
        is_member: the group counts us in.
        answered: the broker did when it was last asked.
        champion: checkpoint that is to be served.
        partitions: of ours, ascending.
        row_bytes: of a series in memory.
        levels: of the quantiles.
        horizons: ticks ahead.
        counters: since the start.
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

    @property
    def nominal_coverage(self) -> float:
        """Share of the truths that should be between the outermost quantiles."""
        return self.levels[-1] - self.levels[0]

    @property
    def unready(self) -> str:
        """Why it does not serve all that it should; empty = it does."""
        if not self.answered:
            return "the broker does not answer"
        if not self.is_member:
            return "not a member of the group yet"
        for state in (PartitionState.RESTORING, PartitionState.HELD):
            numbers = [str(one.partition) for one in self.partitions if one.state == state]
            if numbers:
                return f"partitions {state.value}: {', '.join(numbers)}"
        return ""


@dataclass(frozen=True, slots=True)
class Inside:
    """What the worker shows of itself; its own thread alone may look.

    Attributes:
        pipeline: what is forecast.
        keeper: of the rows.
        counters: since the start.
        member: who we are in the group.
        is_member: the group counts us in.
        answered: the broker did when it was last asked.
        held: partitions with too many bad records.
        ends: of the input's partitions, as far as they are known.
    """

    pipeline: PipelineConfig
    keeper: StateKeeper
    counters: Counters
    member: Member
    is_member: bool
    answered: bool = True
    held: frozenset[int] = frozenset()
    ends: Mapping[int, int] = field(default_factory=dict)

    def status(self) -> WorkerStatus:
        """Returns a copy."""
        keeper = self.keeper
        serving = [self._of(partition) for partition in keeper.partitions]
        waiting = [PartitionStatus(number, PartitionState.RESTORING) for number in keeper.waiting]
        return WorkerStatus(
            at_ms=time.time_ns() // 1_000_000,
            member=str(self.member.member_id),
            generation=self.member.generation_id,
            is_member=self.is_member,
            answered=self.answered,
            champion=keeper.champion,
            partitions=tuple(sorted([*serving, *waiting], key=lambda one: one.partition)),
            row_bytes=keeper.partitions.config.row_bytes,
            levels=self.pipeline.quantile_levels,
            horizons=self.pipeline.horizons,
            counters=self.counters.copy(),
        )

    def _of(self, partition: Partition) -> PartitionStatus:
        number = partition.number
        return PartitionStatus(
            partition=number,
            state=PartitionState.HELD if number in self.held else PartitionState.SERVING,
            position=partition.position,
            end=self.ends.get(number),
            series=len(partition.table),
            blocks=len(partition.blocks),
            replay=max(0, partition.position - partition.floor.offset),
            checkpoint=partition.floor.swaps[-1].checkpoint,
        )


class Monitor:
    """Holds the newest copy, and the questions that wait."""

    def __init__(self) -> None:
        self.status: WorkerStatus | None = None
        self._due, self._made = 0.0, time.monotonic()
        self._counts = deque([(self._made, 0)])
        self._waiting: queue.Queue[tuple[Callable[[Inside], Any], Future[Any]]] = queue.Queue(MOST_WAITING)

    def ask(self, question: Callable[[Inside], Answer]) -> Answer:
        """Returns the worker's answer; raises what the question raises; for other threads.

        Raises:
            Unanswered: it has no time, or too many wait already.
        """
        answer: Future[Answer] = Future()
        try:
            self._waiting.put_nowait((question, answer))
        except queue.Full:
            raise Unanswered("too many questions wait for the worker") from None
        try:
            return answer.result(ANSWER_SECONDS)
        except NoAnswer:
            answer.cancel()
            raise Unanswered(
                f"the worker did not answer within {ANSWER_SECONDS:.0f} s (large batch, or broker down?)"
            ) from None

    @property
    def age_seconds(self) -> float:
        """Since the newest copy was made."""
        return time.monotonic() - self._made

    @property
    def forecasts_per_second(self) -> float | None:
        """Forecasts a second over the last RATE_SECONDS, as of the newest copy; None = there is no copy yet."""
        (before, first), (now, last) = self._counts[0], self._counts[-1]
        return (last - first) / (now - before) if now > before else None

    @property
    def is_due(self) -> bool:
        """The copy is old, or a question waits."""
        return time.monotonic() >= self._due or not self._waiting.empty()

    def turn(self, inside: Inside) -> None:
        """The copy is new where it was old, and questions are answered; for the worker's thread."""
        if time.monotonic() >= self._due:
            self.status = inside.status()
            self._made = time.monotonic()
            self._due = self._made + STATUS_SECONDS
            self._count(self.status.counters.forecasts)
        for _ in range(MOST_AT_ONCE):
            try:
                question, answer = self._waiting.get_nowait()
            except queue.Empty:
                return
            if answer.set_running_or_notify_cancel():
                _answer(question, answer, inside)

    def _count(self, forecasts: int) -> None:
        """Add the newest count, and drop those that the rate does not need."""
        self._counts.append((self._made, forecasts))
        while self._counts[1][0] <= self._made - RATE_SECONDS:
            self._counts.popleft()


def _answer(question: Callable[[Inside], Any], answer: Future[Any], inside: Inside) -> None:
    """The answer is there, or the error is: nothing that others ask ends the worker."""
    try:
        answer.set_result(question(inside))
    except Exception as error:
        answer.set_exception(error)
