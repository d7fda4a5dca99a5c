"""The worker: one micro-batch is one Kafka transaction, fully committed before the next poll.

    1. poll           records, and who we are in the group right now
    2. decode         readings, and a dead letter for each bad record
    3. advance        on a copy of the touched rows
    4. commit         forecasts, dead letters and input offsets, together or not at all
    5. adopt          the rows, when and only when the transaction has committed

| what goes wrong | what is done |
|---|---|
| a bad record | a dead letter; over the limits its partition is held, or the worker ends |
| the transaction fails | the committed offsets say whether it happened: adopt the rows, or drop them and read again |
| somebody else went on meanwhile | the partition begins anew at the committed offset |
| the broker is away | waited for with back-off; past the outage deadline the worker ends with exit code 3 |
| another process has our identity | the worker ends with exit code 8 |
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog

from forecaster.broker.consumer import Polled
from forecaster.broker.patience import retry
from forecaster.broker.producer import Transaction
from forecaster.core.model import Model
from forecaster.errors import TooManyBadRecords
from forecaster.records import Decoded, Outcome, Outputs, SourceRecord
from forecaster.serving.dead_letters import DeadLetterGuard
from forecaster.serving.pipeline import Batch, PipelineConfig, advance
from forecaster.serving.table import Checkout, Partitions
from forecaster.wire import encode_dead_letter, encode_forecasts, partitions_of

Result = TypeVar("Result")
_log = structlog.get_logger()


class Consumer(Protocol):
    """What the worker asks of `GroupConsumer`; tests have their own."""

    def poll(self) -> Polled: ...
    def resume(self, partitions: Collection[int]) -> None: ...
    def hold(self, partitions: Collection[int]) -> None: ...
    def seek(self, offsets: dict[int, int]) -> None: ...
    def confirm_membership(self) -> None: ...
    def committed(self, partitions: Collection[int]) -> dict[int, int]: ...


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
        forecasts: topic.
        dead_letters: topic.
        stop_on_limit: too many bad records end the worker; else their partition is held until a restart.
        outage_deadline_seconds: how long a broker is waited for.
    """

    pipeline: PipelineConfig
    forecasts: str
    dead_letters: str
    stop_on_limit: bool = False
    outage_deadline_seconds: float = 1_800.0


@dataclass(slots=True)
class Counters:
    """What became of everything since the start: of each record a dead letter or readings, each with an outcome."""

    records: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    failed_transactions: int = 0

    def add(self, polled: Polled, decoded: Decoded, outputs: Outputs) -> None:
        """The counts include a committed batch."""
        self.records += len(polled.records)
        self.transactions += 1
        self.dead_letters.update(letter.reason.value for letter in decoded.dead_letters)
        for outcome in Outcome:
            count = int((outputs.outcomes == outcome).sum())
            if count:
                self.outcomes[outcome.name.lower()] += count


class Worker:
    """Serves the partitions that the group gives it.

    Args:
        config: plain values.
        model: what forecasts; None before any training.
        decoder: of the records.
        consumer: a member of the group.
        producer: of transactions.
        guard: of the limits of bad records.
    """

    def __init__(
        self,
        config: WorkerConfig,
        model: Model | None,
        decoder: RecordDecoder,
        consumer: Consumer,
        producer: Producer,
        guard: DeadLetterGuard,
    ) -> None:
        self._config = config
        self._model = model
        self._decoder = decoder
        self._consumer = consumer
        self._producer = producer
        self._guard = guard
        self._partitions = Partitions(config.pipeline.shape(model))
        self.counters = Counters()

    def run(self, stop: threading.Event, check_topics: Callable[[], object]) -> None:
        """Serves until `stop` is set; the batch at hand is finished.

        Args:
            stop: looked at between batches.
            check_topics: called when partitions are given to us; raises TopicError where topics do not fit.
        """
        while not stop.is_set():
            self.iterate(stop, check_topics)

    def iterate(self, stop: threading.Event, check_topics: Callable[[], object]) -> None:
        """One micro-batch has become one transaction, as the numbered steps of this module say."""
        polled = self._patiently(self._consumer.poll, "polling", stop)
        self._follow(polled, check_topics, stop)
        if not polled.records:
            return
        decoded = self._decoder.decode(polled.records)
        partitions = partitions_of(decoded.readings, polled.records)
        checkout = self._partitions.checkout(decoded.readings.series_ids, partitions)
        batch = Batch(decoded.readings, checkout.row)
        outputs = advance(self._config.pipeline, self._model, checkout.state, batch)
        if self._producer.commit(self._transaction(polled, decoded, outputs)):
            self._committed(polled, decoded, outputs, checkout)
        else:
            self._ask_what_happened(polled, checkout, stop)

    def _follow(self, polled: Polled, check_topics: Callable[[], object], stop: threading.Event) -> None:
        """Tables exist for exactly the partitions that are ours; new ones begin cold at the committed offset."""
        for partition in polled.closed:
            self._partitions.close(partition)
            self._guard.forget(partition)
        if not polled.opened:
            return
        self._patiently(check_topics, "asking about topics", stop)
        for partition in polled.opened:
            self._partitions.open(partition)
        self._consumer.resume(polled.opened)
        _log.info("partitions opened", partitions=polled.opened)

    def _transaction(self, polled: Polled, decoded: Decoded, outputs: Outputs) -> Transaction:
        levels = self._config.pipeline.quantile_levels
        forecasts = encode_forecasts(outputs.forecasts, decoded.readings, polled.records, levels)
        dead_letters = [encode_dead_letter(letter) for letter in decoded.dead_letters]
        messages = {self._config.forecasts: list(forecasts), self._config.dead_letters: dead_letters}
        return Transaction(messages, polled.end, polled.member)

    def _committed(self, polled: Polled, decoded: Decoded, outputs: Outputs, checkout: Checkout) -> None:
        self._partitions.adopt(checkout, polled.end)
        self.counters.add(polled, decoded, outputs)
        for partition, reason in self._guard.count(polled.records, decoded.dead_letters).items():
            message = f"partition {partition}: {reason}; the last: {decoded.dead_letters[-1].detail}"
            if self._config.stop_on_limit:
                raise TooManyBadRecords(f"{message}; see topic {self._config.dead_letters}")
            self._consumer.hold([partition])
            _log.error("partition held until a restart", detail=message, dead_letters=self._config.dead_letters)

    def _patiently(self, call: Callable[[], Result], what: str, stop: threading.Event) -> Result:
        return retry(call, what, self._config.outage_deadline_seconds, stop)

    def _ask_what_happened(self, polled: Polled, checkout: Checkout, stop: threading.Event) -> None:
        """After a failed transaction every partition stands where its committed offset says.

        Who was fenced asks the group first: of two processes with one identity, the one that the group knows goes on.
        """
        self.counters.failed_transactions += 1
        self._patiently(self._consumer.confirm_membership, "asking the group", stop)
        self._producer.restart()
        committed = self._patiently(lambda: self._consumer.committed(polled.end), "committed offsets", stop)
        happened = [partition for partition, end in polled.end.items() if committed[partition] == end]
        dropped = [partition for partition, begin in polled.begin.items() if committed[partition] <= begin]
        self._partitions.adopt(checkout, happened)
        for partition in polled.end.keys() - set(happened) - set(dropped):
            self._partitions.open(partition)
            _log.warning("partition begins anew", partition=partition, offset=committed[partition])
        again = {partition: polled.begin[partition] for partition in dropped}
        self._consumer.seek({**committed, **again})
        _log.info("after a failed transaction", happened=happened, dropped=dropped)
