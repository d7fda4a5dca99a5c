"""Questions of other threads, which the worker's own thread answers between two batches."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from forecaster.clock import Clock, monotonic
from forecaster.errors import ForecasterError
from forecaster.pipeline import PipelineConfig
from forecaster.records import Member
from forecaster.serving.committer import FailureStatus
from forecaster.serving.counters import Counters
from forecaster.serving.inspect.status import PartitionState, PartitionStatus, WorkerStatus
from forecaster.serving.inspect.trouble import Trouble, TroubleLog
from forecaster.serving.inspect.waiting import WaitingRecords
from forecaster.serving.state.lifecycle import PartitionPhase
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.store import StateStore

STATUS_SECONDS = 1.0
"""Age at which the status is made again."""
ANSWER_SECONDS = 3.0
"""Time that a question waits for its answer."""
MOST_WAITING = 64
"""Number of questions that may wait; more are refused."""
MOST_AT_ONCE = 8
"""Number of questions that are answered between two batches."""
BETWEEN_BATCHES_SECONDS = 0.005
"""Time after which no further question is answered before the next batch."""
RATE_SECONDS = 10.0
"""Span of the rate of forecasts, or the time since the start if that is shorter."""
Answer = TypeVar("Answer")


class WorkerBusy(ForecasterError):
    """The worker did not answer a question in time; asking again can help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """View of a worker between two batches; only the worker's own thread may use it.

    Attributes:
        pipeline: how readings become forecasts.
        store: the partitions and their rows.
        counters: what has happened since the start.
        member: the worker in its consumer group.
        is_member: the worker is a member of the consumer group's current generation.
        answered: the broker answered the last request.
        ends: end of the input by partition; those that are known.
        readable_ends: end of the records that can be read now, by partition; those that are known.
        at_ms: time of the view, epoch milliseconds, UTC.
        failures: failed transactions since the last one that was committed, or since nothing was left to commit.
        topics: what is wrong with the topics, for people; empty = nothing.
    """

    pipeline: PipelineConfig
    store: StateStore
    counters: Counters
    member: Member
    is_member: bool
    answered: bool
    ends: Mapping[int, int]
    readable_ends: Mapping[int, int]
    at_ms: int
    failures: FailureStatus = field(default_factory=FailureStatus)
    topics: str = ""

    def status(self) -> WorkerStatus:
        """Return a copy of what the view shows, for other threads."""
        store = self.store
        serving = [self._partition_status(partition) for partition in store.partitions.values()]
        restoring = [PartitionStatus(partition_number, PartitionState.RESTORING) for partition_number in store.unopened]
        return WorkerStatus(
            at_ms=self.at_ms,
            member=str(self.member.member_id),
            generation=self.member.generation_id,
            is_member=self.is_member,
            answered=self.answered,
            champion=store.champion,
            partitions=tuple(sorted([*serving, *restoring], key=lambda status: status.partition)),
            row_bytes=store.config.row_bytes,
            levels=self.pipeline.quantile_levels,
            horizons=self.pipeline.horizons,
            counters=self.counters.copy(),
        )

    def _partition_status(self, partition: Partition) -> PartitionStatus:
        partition_number = partition.number
        is_held = self.store.phases[partition_number] is PartitionPhase.HELD
        return PartitionStatus(
            partition=partition_number,
            state=PartitionState.HELD if is_held else PartitionState.SERVING,
            position=partition.position,
            end=self.ends.get(partition_number),
            readable_end=self.readable_ends.get(partition_number),
            series=len(partition.table),
            blocks=len(partition.blocks),
            replay=max(0, partition.position - partition.floor.offset),
            checkpoint=partition.floor.swaps[-1].checkpoint,
        )


class Monitor:
    """Holds the newest status of a worker, and the questions that wait for it.

    Args:
        clock: for the age of the status.

    Attributes:
        status: the newest status; None = the worker has not made one yet.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        self.status: WorkerStatus | None = None
        self._clock = clock
        self._waiting_records, self._log = WaitingRecords(clock), TroubleLog()
        self._due, self._made = 0.0, clock()
        self._counts = deque([(self._made, 0)])
        self._waiting: queue.Queue[tuple[Callable[[WorkerView], Any], Future[Any]]] = queue.Queue(MOST_WAITING)

    def ask(self, question: Callable[[WorkerView], Answer]) -> Future[Answer]:
        """Return a future for the answer of the worker's thread; for other threads.

        Raises:
            WorkerBusy: too many questions wait.
        """
        answer: Future[Answer] = Future()
        try:
            self._waiting.put_nowait((question, answer))
        except queue.Full:
            raise WorkerBusy(f"{MOST_WAITING} questions wait for the worker already: ask again later") from None
        return answer

    @property
    def age_seconds(self) -> float:
        """Time since the newest status was made, or since the start if there is none."""
        return self._clock() - self._made

    @property
    def forecasts_per_second(self) -> float | None:
        """Forecasts a second over the last RATE_SECONDS, as of the newest status; None = there is no status yet."""
        (before, first), (now, last) = self._counts[0], self._counts[-1]
        return (last - first) / (now - before) if now > before else None

    @property
    def is_due(self) -> bool:
        """Whether the status is old, or a question waits."""
        return self._clock() >= self._due or not self._waiting.empty()

    def refresh(self, view: WorkerView) -> None:
        """Make a new status if the last one is old, and answer a few questions; for the worker's thread."""
        if self._clock() >= self._due:
            self.status = self._with_trouble(view.status(), view)
            self._log.note(self.status.trouble.reason)
            self._made = self._clock()
            self._due = self._made + STATUS_SECONDS
            self._count(self.status.counters.forecasts)
        deadline = self._clock() + BETWEEN_BATCHES_SECONDS
        for _ in range(MOST_AT_ONCE):
            try:
                question, answer = self._waiting.get_nowait()
            except queue.Empty:
                return
            if answer.set_running_or_notify_cancel():
                _answer(question, answer, view)
            if self._clock() >= deadline:
                return

    def _with_trouble(self, status: WorkerStatus, view: WorkerView) -> WorkerStatus:
        """Return the status with what keeps the worker from committing."""
        failures = view.failures
        trouble = Trouble(
            failed_in_a_row=failures.in_a_row,
            failing_seconds=0.0 if failures.since is None else self._clock() - failures.since,
            failure=failures.reason,
            topics=view.topics,
            waiting_seconds=self._waiting_records.seconds(status.partitions),
        )
        return replace(status, trouble=trouble)

    def _count(self, forecasts: int) -> None:
        """Add the newest count, and drop those that the rate does not need."""
        self._counts.append((self._made, forecasts))
        while self._counts[1][0] <= self._made - RATE_SECONDS:
            self._counts.popleft()


def no_answer() -> WorkerBusy:
    """Return the error for a question that waited for too long."""
    return WorkerBusy(f"the worker did not answer within {ANSWER_SECONDS:.0f} s (large batch, or broker down?)")


def _answer(question: Callable[[WorkerView], Any], answer: Future[Any], view: WorkerView) -> None:
    """Set the answer, or the error of the question: a question never ends the worker."""
    try:
        answer.set_result(question(view))
    except Exception as error:
        answer.set_exception(error)
