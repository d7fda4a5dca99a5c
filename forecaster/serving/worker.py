"""The worker: one micro-batch is one Kafka transaction, committed before the next poll.

    1. poll       records that take about 200 ms to compute, and this process' membership in the consumer group
    2. follow     drop revoked partitions, queue assigned ones for restoring, refresh the champion
    3. restore    one slice of the next queued partition; it serves as soon as its rows are complete
    4. align      check that the records of each partition continue at its position
    5. compute    decode the records, advance a copy of the rows that they touch, encode the transaction
    6. commit     forecasts, dead letters, state blocks, training history and input offsets, all or nothing
    7. adopt      the advanced rows, only after the commit
    8. maintain   write blocks that no reading has touched for long, and state that the topic has lost; re-warm rows
    9. answer     questions from HTTP, and once a second a status

| failure | response |
|---|---|
| a record is bad | write a dead letter; above the limits, hold its partition or end the worker |
| a transaction fails | read the committed offsets: adopt the batch if it was committed, else drop it and read again |
| another process has committed other offsets | restore the partition |
| input was deleted before it was read | restore the partition, as ON_LOST_INPUT says |
| the input topic was created again | restore all partitions, as ON_LOST_INPUT says |
| the input or an output topic is missing | wait for it; past the outage deadline, exit code 4 |
| a batch of the input is corrupt | fetch it again, other partitions continue; past the outage deadline, exit code 3 |
| a batch is corrupt during a restore | restore the partition again, after the others |
| the state topic lost records | write the state of the open partitions again from memory |
| the broker does not answer | retry with back-off; past the outage deadline, exit code 3 |
| another process has the same identity | exit code 8 |
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog

from forecaster.broker.retry import retry
from forecaster.errors import InputMissing, TooManyBadRecords, TransientBrokerError
from forecaster.formats.history import encode_history
from forecaster.formats.models import drift_message
from forecaster.pipeline import PipelineConfig, advance
from forecaster.records import Decoded, Member, Message, Outputs, PollResult, Transaction
from forecaster.serving.alignment import PositionAligner
from forecaster.serving.batch_size import BatchLimit
from forecaster.serving.committer import Committer
from forecaster.serving.counters import Counters, Stage
from forecaster.serving.dead_letter_limits import DeadLetterGuard, Limits
from forecaster.serving.dependencies import WorkerDependencies
from forecaster.serving.drift import DriftWatch
from forecaster.serving.failed_batch import resolve
from forecaster.serving.history_sampling import HistorySampling
from forecaster.serving.input_topic import InputTopic
from forecaster.serving.inspect.monitor import Monitor, WorkerView
from forecaster.serving.network_overflows import count_network_overflows
from forecaster.serving.publisher import OutputTopics, PublishConfig, Publisher
from forecaster.serving.rewriting import StateRewriter
from forecaster.serving.state.store import PreparedBatch
from forecaster.serving.state.writes import StateWrites

FLUSH_SECONDS = 8.0
"""Time budget for writing dirty blocks at shutdown; the next owner replays what is left."""
Result = TypeVar("Result")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How a worker computes, publishes and limits its batches.

    Attributes:
        pipeline: how readings become forecasts.
        topics: names of the output topics.
        publish: which forecasts are published.
        limits: how many bad records a partition may have.
        history: which readings are written for training.
        stop_on_limit: too many bad records end the worker; otherwise their partition is held until a restart.
        outage_deadline_seconds: how long the worker waits for a broker before it ends.
    """

    pipeline: PipelineConfig
    topics: OutputTopics
    publish: PublishConfig
    limits: Limits
    history: HistorySampling
    stop_on_limit: bool = False
    outage_deadline_seconds: float = 1_800.0


@dataclass(frozen=True, slots=True)
class _Batch:
    """A micro-batch and the results of its stages, from the poll to the transaction to commit."""

    polled: PollResult
    decoded: Decoded
    prepared: PreparedBatch
    outputs: Outputs
    transaction: Transaction


class Worker:
    """Serves the partitions that the consumer group assigns to it.

    Args:
        config: how batches are computed, published and limited.
        dependencies: Kafka, the rows and the clocks.
        stop: ends the loop when it is set.

    Attributes:
        counters: what has happened since the start.
        monitor: answers questions of other threads between batches.
    """

    def __init__(self, config: WorkerConfig, dependencies: WorkerDependencies, stop: threading.Event) -> None:
        self._config = config
        self._decoder = dependencies.decoder
        self._consumer = dependencies.consumer
        self._store = dependencies.store
        self._check_topics = dependencies.check_topics
        self._clock, self._wall_clock = dependencies.clock, dependencies.wall_clock
        self._stop = stop
        self._publisher = Publisher(config.publish, config.topics, dependencies.wall_clock)
        self._guard = DeadLetterGuard(config.limits)
        self._input = InputTopic(self._store, self._consumer, self._clock, config.outage_deadline_seconds)
        self._aligner = PositionAligner(self._store, self._consumer, config.outage_deadline_seconds, stop)
        self._drift = DriftWatch(max(config.pipeline.horizons))
        self._has_drifted = self._can_commit = False
        self._limit = BatchLimit()
        self.counters = Counters()
        self._committer = Committer(dependencies, self.counters, config.outage_deadline_seconds, stop)
        self._topic_watch = dependencies.topic_watch
        self._rewriter = StateRewriter(self._store, self._consumer, self._write_state)
        self.monitor = Monitor(dependencies.clock)

    def run(self) -> None:
        """Serve until the worker is told to stop; finish the batch at hand, and write the dirty blocks."""
        while not self._stop.is_set():
            self.iterate()
        self.flush()

    def iterate(self) -> None:
        """Turn at most one micro-batch into one transaction; the module's docstring lists the numbered steps."""
        polled = self._poll()  # 1
        self._follow(polled)  # 2
        is_same_input = self._input.follow(polled.input_id)
        self._can_commit = polled.stable and is_same_input  # a member of the consumer group's current generation
        if self._can_commit:
            self._restore(polled.member)  # 3
            if self._aligner.align(polled) and polled.records:  # 4
                batch = self._compute(polled)  # 5
                if self._committer.commit(batch.transaction, len(polled.records)):  # 6
                    self._adopt(batch)  # 7
                else:
                    self._resolve_failed_transaction(batch)
            self._maintain(polled)  # 8
        self._watch_topics(polled)  # with no batch at hand: a partition whose state is lost must have none
        self._committer.end_row_of_failures()
        self._answer_questions(polled)  # 9

    def flush(self) -> None:
        """Write dirty blocks until none is left or the time is up, so that the next owner replays less."""
        deadline = self._clock() + FLUSH_SECONDS
        polled = self._retry(lambda: self._consumer.poll(wait=False), "polling")
        self._store.follow(polled.revoked, ())
        while polled.stable and self._clock() < deadline and (writes := self._store.dirty_writes()):
            if not self._committer.commit(self._state_transaction(writes, polled.member)):
                return
            self._store.mark_stored(writes)

    def _poll(self) -> PollResult:
        has_next_step = self._can_commit and (self._store.can_restore or self._rewriter.is_busy)
        max_records = min(self._limit.records, self._committer.limit.records)
        return self._retry(lambda: self._consumer.poll(wait=not has_next_step, max_records=max_records), "polling")

    def _follow(self, polled: PollResult) -> None:
        """Drop revoked partitions, queue assigned ones for restoring, and refresh the champion."""
        for partition_number in polled.revoked:
            self._guard.forget(partition_number)
        if polled.assigned:
            try:
                self._retry(self._check_topics, "checking the topics")
            except InputMissing:  # it was deleted a moment ago
                self._input.note_missing()
        self._store.follow(polled.revoked, polled.assigned)
        if polled.reconnected:  # the producer knows former addresses only
            self._committer.replace_producer()
        self._store.refresh_models()

    def _watch_topics(self, polled: PollResult) -> None:
        """Look at the topics, after an assignment at once; begin to write state again that the topic has lost."""
        if polled.assigned:
            with suppress(TransientBrokerError):  # the next look that is due logs it
                self._rewriter.begin(self._topic_watch.look())
                return
        self._rewriter.begin(self._topic_watch.look_if_due())

    def _restore(self, member: Member) -> None:
        """Restore for one slice of time; serve the partition that is complete after it, if there is one."""
        try:
            restored = self._store.restore() if self._store.has_unopened else None
        except InputMissing:
            self._input.note_missing()
            return
        if restored is None:
            return
        if restored.identity.topic != self._store.input_id:
            self._input.restore_all_again()
            return
        partition = restored.partition
        # A position that only the outputs have shown is committed by these writes, before any batch builds on it.
        while writes := self._store.initial_writes(restored):
            if not self._write_state(writes, member):
                self._store.restore_again([partition.number])
                return
        self._store.open(restored)
        self.counters.add_restored(restored)
        self._consumer.read_from(restored.identity.topic)
        self._consumer.seek({partition.number: partition.position})
        self._consumer.resume([partition.number])
        _log.info("partitions_opened", partitions=[partition.number], generation=member.generation_id)

    def _compute(self, polled: PollResult) -> _Batch:
        """Return the decoded and computed batch with its transaction; the rows stay as they are."""
        begin = self._clock()
        with self._timed(Stage.DECODE):
            decoded = self._decoder.decode(polled.records)
        with self._timed(Stage.PREPARE):
            prepared = self._store.prepare(polled, decoded)
        with self._timed(Stage.ADVANCE):
            outputs = advance(self._config.pipeline, prepared.models, prepared.state, prepared.batch)
        with self._timed(Stage.ENCODE):
            transaction = self._transaction(polled, decoded, outputs, prepared)
        self._limit = self._limit.after(len(polled.records), self._clock() - begin)
        return _Batch(polled, decoded, prepared, outputs, transaction)

    def _transaction(
        self, polled: PollResult, decoded: Decoded, outputs: Outputs, prepared: PreparedBatch
    ) -> Transaction:
        topics = self._config.topics
        messages = self._publisher.messages(polled.records, decoded, outputs, self._input.short_id)
        messages[topics.state] = _messages(prepared.writes)
        if topics.history:
            messages[topics.history] = self._training_history(outputs, prepared)
        if self._has_drifted:
            messages[topics.models] = [drift_message(min(polled.end))]
        return Transaction(messages, polled.end, polled.member)

    def _training_history(self, outputs: Outputs, prepared: PreparedBatch) -> list[Message]:
        """Return the readings of the batch that are written for training."""
        messages: list[Message] = []
        for partition_number in prepared.checkout.borrowed:
            of_partition = np.flatnonzero(prepared.partition_of_reading == partition_number)
            series = len(self._store.partitions[partition_number].table)
            readings = prepared.batch.readings
            selected = self._config.history.select(readings, of_partition, outputs.outcomes, series)
            messages += encode_history(partition_number, readings, selected, outputs.masked[selected])
        return messages

    def _adopt(self, batch: _Batch) -> None:
        """Adopt the rows of a committed batch; add it to counters, scores, drift and the limits of bad records.

        Raises:
            TooManyBadRecords: a partition is above a limit of bad records, and `stop_on_limit` is set.
        """
        with self._timed(Stage.ADOPT):
            self._store.adopt(batch.prepared, batch.polled.end)
        forecasts = len(batch.transaction.messages[self._config.topics.forecasts])
        self.counters.add(batch.polled, batch.decoded, batch.outputs, forecasts)
        prepared, outputs = batch.prepared, batch.outputs
        count_network_overflows(self.counters.network_overflows, prepared.models, prepared.batch, outputs.forecasts)
        self.counters.scores.add(batch.outputs.matured, self._config.pipeline.quantile_levels)
        self.counters.freed_series += sum(len(writes.freed) for writes in batch.prepared.writes.values())
        self._has_drifted = bool(self._config.topics.history) and self._drift.add(
            batch.outputs.matured, self._store.series
        )
        self._enforce_limits(batch)

    def _enforce_limits(self, batch: _Batch) -> None:
        """Hold partitions with too many bad records, or raise TooManyBadRecords."""
        dead_letters, topic = batch.decoded.dead_letters, self._config.topics.dead_letters
        for partition_number, reason in self._guard.count(batch.polled.records, dead_letters).items():
            last = next(letter for letter in reversed(dead_letters) if letter.record.partition == partition_number)
            if self._config.stop_on_limit:
                raise TooManyBadRecords(
                    f"partition {partition_number}: {reason}; the last: {last.detail}; see topic {topic}"
                )
            self._consumer.pause([partition_number])
            self._store.hold(partition_number)
            _log.error(
                "partition_held", partition=partition_number, reason=reason, last=last.detail, dead_letter_topic=topic
            )

    def _resolve_failed_transaction(self, batch: _Batch) -> None:
        """Bring every partition of the batch to its committed offset: adopt, drop or restore it.

        Raises:
            TooManyBadRecords: as for `_adopt`.
        """
        polled = batch.polled
        self._committer.recover()
        committed = self._retry(lambda: self._consumer.committed(polled.end), "reading committed offsets")
        resolution = resolve(polled.begin, polled.end, self._store.first_offsets(polled.begin) | committed)
        if resolution.is_committed:  # the broker did not say so
            self._adopt(batch)
        else:  # other workers may have committed these offsets, and count the records themselves
            self._store.adopt(batch.prepared, resolution.adopted)
        self._consumer.pause(resolution.restoring)
        self._store.restore_again(resolution.restoring)
        self._consumer.seek({**resolution.adopted, **resolution.dropped})
        _log.info(
            "failed_transaction_resolved",
            adopted=list(resolution.adopted),
            dropped=list(resolution.dropped),
            restoring=resolution.restoring,
        )

    def _maintain(self, polled: PollResult) -> None:
        """Write blocks that are overdue, in a transaction of their own; re-warm a few rows for a coming checkpoint.

        After a failed transaction, the blocks count as not written, and a later transaction writes them. If the broker
        has committed it all the same, the same blocks are written twice, which does no harm.
        """
        writes = self._store.overdue_writes(except_partitions=polled.end)
        if writes:
            self._write_state(writes, polled.member)
        self._rewriter.work(polled.member)
        self._store.rewarm_next_slot()

    def _write_state(self, writes: Mapping[int, StateWrites], member: Member) -> bool:
        """Commit state alone, and note that it is stored; return whether it was committed."""
        committed = self._committer.commit(self._state_transaction(writes, member))
        if committed:
            self._store.mark_stored(writes)
        else:
            self._committer.recover()
        return committed

    def _state_transaction(self, writes: Mapping[int, StateWrites], member: Member) -> Transaction:
        """Return a transaction of state alone; it carries offsets so that the broker fences a former owner."""
        offsets = {partition_number: write.position for partition_number, write in writes.items()}
        return Transaction({self._config.topics.state: _messages(writes)}, offsets, member)

    def _answer_questions(self, polled: PollResult) -> None:
        """Answer questions that wait, and refresh the status when it is due."""
        if self.monitor.is_due:
            self.monitor.refresh(
                WorkerView(
                    pipeline=self._config.pipeline,
                    store=self._store,
                    counters=self.counters,
                    member=polled.member,
                    is_member=polled.stable,
                    answered=polled.answered,
                    ends=self._consumer.ends(),
                    readable_ends=self._consumer.readable_ends(),
                    at_ms=self._wall_clock(),
                    failures=self._committer.failures,
                    topics=self._topic_watch.problem,
                )
            )

    def _retry(self, call: Callable[[], Result], what: str) -> Result:
        return retry(call, what, self._config.outage_deadline_seconds, self._stop)

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        """Count the time that the block takes to a stage; nothing is counted if it raises."""
        begin = self._clock()
        yield
        self.counters.stages[stage].add(self._clock() - begin)


def _messages(writes: Mapping[int, StateWrites]) -> list[Message]:
    return [message for write in writes.values() for message in write.messages]
