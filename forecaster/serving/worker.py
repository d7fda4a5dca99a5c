"""The worker: one micro-batch is one Kafka transaction, fully committed before the next poll.

    1. poll           as many records as take a fraction of a second, and who we are in the group right now
    2. follow         partitions taken from us are forgotten, those given to us are restored, a slice each time; what is
                      to be served may have changed
    3. decode         readings, and a dead letter for each bad record
    4. advance        on a copy of the touched rows
    5. commit         forecasts, dead letters, blocks of state, the trainer's history and input offsets, together or
                      not at all
    6. adopt          the rows, when and only when the transaction has committed
    7. write          blocks that no reading has touched for too long, in a transaction of their own; some rows are
                      re-warmed for a network that is to come
    8. show           who asks over HTTP is answered

| what goes wrong | what is done |
|---|---|
| a bad record | a dead letter; over the limits its partition is held, or the worker ends |
| the transaction fails | the committed offsets say whether it happened: adopt the rows, or drop them and read again |
| somebody else went on meanwhile | the partition is restored again |
| input is gone before it was read | the same; the restore does as ON_LOST_INPUT says |
| a batch of the input is corrupt | fetched again; the others go on; past the outage deadline: exit code 3 |
| the same in a restore | the partition is restored again, after the others |
| the broker is away | waited for with back-off; past the outage deadline the worker ends with exit code 3 |
| another process has our identity | the worker ends with exit code 8 |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import structlog

from forecaster.broker.retry import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, retry
from forecaster.errors import BrokerUnavailable, TooManyBadRecords
from forecaster.formats.history import encode_history
from forecaster.formats.models import drift_message
from forecaster.pipeline import PipelineConfig, advance
from forecaster.records import Decoded, Member, Message, Outputs, PollResult, SourceRecord, Transaction
from forecaster.serving.batch_size import BatchLimit
from forecaster.serving.counters import Counters, Stage
from forecaster.serving.dead_letter_limits import DeadLetterGuard, Limits
from forecaster.serving.drift import DriftWatch
from forecaster.serving.history_sampling import HistoryChoice
from forecaster.serving.inspect.monitor import Monitor, WorkerView
from forecaster.serving.publisher import OutputTopics, PublishConfig, Publisher
from forecaster.serving.state.keeping import StateWrites
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.store import BLOCK_BYTES_PER_TRANSACTION, PreparedBatch, StateStore

FLUSH_SECONDS = 8.0
"""So long what is dirty is written when the worker is told to end; the rest is replayed by who goes on."""
Result = TypeVar("Result")
_log = structlog.get_logger()


class Consumer(Protocol):
    """What the worker asks of `GroupConsumer`; tests have their own."""

    def poll(self, *, wait: bool, max_records: int | None = None) -> PollResult: ...
    def resume(self, partitions: Collection[int]) -> None: ...
    def hold(self, partitions: Collection[int]) -> None: ...
    def seek(self, offsets: dict[int, int]) -> None: ...
    def confirm_membership(self) -> None: ...
    def committed(self, partitions: Collection[int]) -> dict[int, int]: ...
    def ends(self) -> dict[int, int]: ...
    def next_offset(self, partition: int) -> int | None: ...


class Producer(Protocol):
    """What the worker asks of `TransactionalProducer`; tests have their own."""

    def commit(self, transaction: Transaction) -> bool: ...
    def restart(self) -> None: ...


class RecordDecoder(Protocol):
    """What the worker asks of `wire.Decoder`."""

    def decode(self, records: list[SourceRecord]) -> Decoded: ...


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Plain values of a worker.

    Attributes:
        pipeline: what is forecast, from what.
        topics: where it is written.
        publish: what is published of the outputs.
        limits: of bad records.
        history: which readings are written for the trainer.
        stop_on_limit: too many bad records end the worker; else their partition is held until a restart.
        outage_deadline_seconds: how long a broker is waited for.
    """

    pipeline: PipelineConfig
    topics: OutputTopics
    publish: PublishConfig
    limits: Limits
    history: HistoryChoice
    stop_on_limit: bool = False
    outage_deadline_seconds: float = 1_800.0


class Worker:
    """Serves the partitions that the group gives it.

    Args:
        config: plain values.
        decoder: of the records.
        consumer: a member of the group.
        producer: of transactions.
        keeper: of the partitions' rows.
    """

    def __init__(
        self,
        config: WorkerConfig,
        decoder: RecordDecoder,
        consumer: Consumer,
        producer: Producer,
        store: StateStore,
    ) -> None:
        self._config = config
        self._decoder = decoder
        self._consumer = consumer
        self._producer = producer
        self._guard = DeadLetterGuard(config.limits)
        self._publisher = Publisher(config.publish, config.topics, lambda: time.time_ns() // 1_000_000)
        self._store = store
        self._drift = DriftWatch(max(config.pipeline.horizons))
        self._has_drifted = False
        self._failures, self._failing_since = 0, 0.0
        self._limit = BatchLimit()
        self._held: set[int] = set()
        self.counters = Counters()
        self.monitor = Monitor()

    def run(self, stop: threading.Event, check_topics: Callable[[], object]) -> None:
        """Serves until `stop` is set; the batch at hand is finished, and what is dirty is written.

        Args:
            stop: looked at between batches.
            check_topics: called when partitions are given to us; raises TopicError where topics do not fit.
        """
        while not stop.is_set():
            self.iterate(stop, check_topics)
        self.flush(stop)

    def iterate(self, stop: threading.Event, check_topics: Callable[[], object]) -> None:
        """One micro-batch has become one transaction, as the numbered steps of this module say."""
        wait = not self._store.restoring
        max_records = self._limit.records
        polled = self._retry(lambda: self._consumer.poll(wait=wait, max_records=max_records), "polling", stop)
        self._follow(polled, check_topics, stop)
        if polled.stable:
            self._restore(polled.member, stop)
            if self._align_positions(polled, stop) and polled.records:
                self._serve(polled, stop)
            self._write(self._store.overdue(but=polled.end), polled.member, stop)
            self._store.rewarm_next_slot()
        self._publish_status(polled)

    def flush(self, stop: threading.Event) -> None:
        """What is dirty is written, as far as it goes in the time there is, so that who goes on need not replay it."""
        deadline = time.monotonic() + FLUSH_SECONDS
        polled = self._retry(lambda: self._consumer.poll(wait=False), "polling", stop)
        self._store.follow(polled.closed, ())
        while polled.stable and time.monotonic() < deadline and (writes := self._store.dirty()):
            if not self._commit(self._state_transaction(writes, polled.member)):
                return
            self._store.written(writes)

    def _serve(self, polled: PollResult, stop: threading.Event) -> None:
        """Steps 3 to 6."""
        timed = self.counters.timed
        begin = time.perf_counter()
        with timed(Stage.DECODE):
            decoded = self._decoder.decode(polled.records)
        with timed(Stage.TAKE):
            prepared = self._store.prepare(polled, decoded)
        with timed(Stage.ADVANCE):
            outputs = advance(self._config.pipeline, prepared.models, prepared.state, prepared.batch)
        with timed(Stage.ENCODE):
            transaction = self._transaction(polled, decoded, outputs, prepared)
        self._limit = self._limit.after(len(polled.records), time.perf_counter() - begin)
        if not self._commit(transaction):
            self._resolve_failed_transaction(polled, prepared, stop)
            return
        with timed(Stage.ADOPT):
            self._store.committed(prepared, polled.end)
        self.counters.add(polled, decoded, outputs, len(transaction.messages[self._config.topics.forecasts]))
        self._record(polled, decoded, outputs, prepared)

    def _publish_status(self, polled: PollResult) -> None:
        """Those who ask are answered."""
        if self.monitor.is_due:
            held, ends = frozenset(self._held), self._consumer.ends()
            self.monitor.refresh(
                WorkerView(
                    pipeline=self._config.pipeline,
                    store=self._store,
                    counters=self.counters,
                    member=polled.member,
                    is_member=polled.stable,
                    answered=polled.answered,
                    held=held,
                    ends=ends,
                )
            )

    def _follow(self, polled: PollResult, check_topics: Callable[[], object], stop: threading.Event) -> None:
        """Partitions not ours are forgotten, and those that are new to us wait for their rows."""
        for partition in polled.closed:
            self._guard.forget(partition)
            self._held.discard(partition)
        if polled.opened:
            self._retry(check_topics, "asking about topics", stop)
        self._store.follow(polled.closed, polled.opened)
        self._store.look()

    def _restore(self, member: Member, stop: threading.Event) -> None:
        """A slice of the restoring has been done; a partition that became whole by it serves."""
        restored = self._store.restore() if self._store.restoring else None
        if restored is None:
            return
        partition = restored.partition
        while restored.must_be_written and (writes := partition.flush(BLOCK_BYTES_PER_TRANSACTION)):
            if not self._commit(self._state_transaction({partition.number: writes}, member)):
                self._restart_producer(stop)
                self._store.follow((), [partition.number])
                return
            partition.committed(writes)
        self._store.open(restored)
        self.counters.add_restored(restored)
        self._consumer.seek({partition.number: partition.position})
        self._consumer.resume([partition.number])
        _log.info("partitions opened", partitions=[partition.number], generation=member.generation_id)

    def _align_positions(self, polled: PollResult, stop: threading.Event) -> bool:
        """What was read goes on where all its partitions stand, who serve; else the batch is put back.

        Before the next record there may be markers of transactions, aborted records, and what was compacted: where the
        input still began at the position or before it when that was passed, nothing else can have been there.
        """
        positions: dict[int, int] = {}
        broken: list[int] = []
        for number, begin in self._reached(polled).items():
            if number not in self._store.partitions:
                broken.append(number)
                continue
            partition = self._store.partitions[number]
            if begin < partition.position or (begin > partition.position and self._is_lost(partition, stop)):
                _log.error("input is gone, or has jumped back", partition=number, offset=partition.position, next=begin)
                broken.append(number)
            else:
                partition.position = begin
            positions[number] = partition.position
        if broken:
            self._consumer.hold(broken)
            self._consumer.seek({**polled.begin, **positions})
            self._store.follow((), [number for number in broken if number in positions])
        return not broken

    def _reached(self, polled: PollResult) -> dict[int, int]:
        """Returns the offset of the first record of the batch's partitions, and where others are read next."""
        reached = dict(polled.begin)
        for number, end in self._consumer.ends().items():
            if number in self._store.partitions and number not in reached:
                position = self._store.partitions[number].position
                offset = self._consumer.next_offset(number) if end > position else None
                if offset is not None and offset > position:
                    reached[number] = offset
        return reached

    def _is_lost(self, partition: Partition, stop: threading.Event) -> bool:
        begin = self._retry(lambda: self._store.log_start(partition.number), "asking where the input begins", stop)
        return partition.position < begin

    def _transaction(
        self, polled: PollResult, decoded: Decoded, outputs: Outputs, prepared: PreparedBatch
    ) -> Transaction:
        topics = self._config.topics
        messages = self._publisher.messages(polled.records, decoded, outputs)
        messages[topics.state] = _messages(prepared.writes)
        if topics.history:
            messages[topics.history] = self._history(outputs, prepared)
        if self._has_drifted:
            messages[topics.models] = [drift_message(min(polled.end))]
        return Transaction(messages, polled.end, polled.member)

    def _history(self, outputs: Outputs, prepared: PreparedBatch) -> list[Message]:
        """Returns what the trainer gets of a batch."""
        messages: list[Message] = []
        for number in prepared.checkout.parts:
            of_partition = np.flatnonzero(prepared.numbers == number)
            series = len(self._store.partitions[number].table)
            readings = prepared.batch.readings
            chosen = self._config.history.chosen(readings, of_partition, outputs.outcomes, series)
            messages += encode_history(number, readings, chosen, outputs.masked[chosen])
        return messages

    def _state_transaction(self, writes: Mapping[int, StateWrites], member: Member) -> Transaction:
        """Returns a transaction of nothing but state; the offsets in it let no zombie through."""
        offsets = {number: one.position for number, one in writes.items()}
        return Transaction({self._config.topics.state: _messages(writes)}, offsets, member)

    def _write(self, writes: Mapping[int, StateWrites], member: Member, stop: threading.Event) -> None:
        """The changes are in the topic, or will be tried again: written twice they are as good."""
        if not writes:
            return
        if self._commit(self._state_transaction(writes, member)):
            self._store.written(writes)
        else:
            self._restart_producer(stop)

    def _record(self, polled: PollResult, decoded: Decoded, outputs: Outputs, prepared: PreparedBatch) -> None:
        """What a committed batch tells is known, and partitions with too many bad records are held."""
        self.counters.scores.add(outputs.scores, self._config.pipeline.quantile_levels)
        self._has_drifted = bool(self._config.topics.history) and self._drift.add(
            outputs.scores, self._store.partitions.series
        )
        self.counters.freed_series += sum(len(one.freed) for one in prepared.writes.values())
        for partition, reason in self._guard.count(polled.records, decoded.dead_letters).items():
            last = next(one for one in reversed(decoded.dead_letters) if one.record.partition == partition)
            message = f"partition {partition}: {reason}; the last: {last.detail}"
            if self._config.stop_on_limit:
                raise TooManyBadRecords(f"{message}; see topic {self._config.topics.dead_letters}")
            self._consumer.hold([partition])
            self._held.add(partition)
            _log.error("partition held until a restart", detail=message, dead_letters=self._config.topics.dead_letters)

    def _commit(self, transaction: Transaction) -> bool:
        with self.counters.timed(Stage.TRANSACTION):
            committed = self._producer.commit(transaction)
        if committed:
            self._failures = 0
        return committed

    def _retry(self, call: Callable[[], Result], what: str, stop: threading.Event) -> Result:
        return retry(call, what, self._config.outage_deadline_seconds, stop)

    def _restart_producer(self, stop: threading.Event) -> None:
        """Who was fenced asks the group first: of two processes with one identity, the one that it knows goes on.

        Raises:
            BrokerUnavailable: no transaction has gone through for the outage deadline.
        """
        self.counters.failed_transactions += 1
        self._failures += 1
        if self._failures == 1:
            self._failing_since = time.monotonic()
        if time.monotonic() - self._failing_since > self._config.outage_deadline_seconds:
            raise BrokerUnavailable(f"{self._failures} transactions in a row have failed: see the warnings before")
        stop.wait(
            min(FIRST_WAIT_SECONDS * 2.0 ** (self._failures - 1), LONGEST_WAIT_SECONDS) if self._failures > 1 else 0
        )
        self._retry(self._consumer.confirm_membership, "asking the group", stop)
        self._producer.restart()

    def _resolve_failed_transaction(self, polled: PollResult, prepared: PreparedBatch, stop: threading.Event) -> None:
        """After a failed transaction every partition stands where its committed offset says."""
        self._restart_producer(stop)
        committed = self._retry(lambda: self._consumer.committed(polled.end), "committed offsets", stop)
        happened = {partition: end for partition, end in polled.end.items() if committed[partition] == end}
        dropped = {
            partition: begin
            for partition, begin in polled.begin.items()
            if committed[partition] <= begin and partition not in happened
        }
        self._store.committed(prepared, happened)
        others = [partition for partition in polled.end if partition not in happened and partition not in dropped]
        self._consumer.hold(others)
        self._store.follow((), others)
        self._consumer.seek({**happened, **dropped})
        _log.info("after a failed transaction", happened=list(happened), dropped=list(dropped), restored_again=others)


def _messages(writes: Mapping[int, StateWrites]) -> list[Message]:
    return [message for one in writes.values() for message in one.messages]
