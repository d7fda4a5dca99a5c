"""The transactional producer: one micro-batch is one transaction, which commits as a whole or not at all."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import KafkaProducer, TopicPartition
from kafka.errors import FencedInstanceIdError, InvalidProducerEpochError, KafkaError, ProducerFencedError
from kafka.structs import OffsetAndMetadata

from forecaster.broker.connection import TRANSACTION_TIMEOUT_MS, Connection
from forecaster.broker.retry import causes, describe, retry
from forecaster.clock import Clock, monotonic
from forecaster.errors import Fenced, TransientBrokerError
from forecaster.records import FailureReason, Transaction, TransactionFailure

DEADLINE_SECONDS = TRANSACTION_TIMEOUT_MS / 1000 + 3.0
"""Time after which the broker has aborted the transaction."""
RIVAL_SECONDS = 60.0
"""Fenced twice within this time, a producer has a rival; fenced once, it was only too slow, as in an outage."""
CLOSE_SECONDS = 5.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProducerConfig:
    """Identity and limits of a transactional producer.

    Attributes:
        transactional_id: a newer producer with the same id fences this one.
        source: topic whose offsets are committed with the transactions.
        unique: whether no other process can have the transactional id. Then being fenced only means being too slow.
        outage_deadline_seconds: time to wait for a broker.
    """

    transactional_id: str
    source: str
    unique: bool
    outage_deadline_seconds: float


class TransactionalProducer:
    """Writes transactions; after one that failed, `restart` must replace the client before the next.

    Args:
        connection: address and security.
        config: identity and limits.
        stop: set when the process is to end.
        clock: monotonic seconds; they tell a rival from an outage.

    Attributes:
        failure: why the last transaction that failed did.

    Raises:
        KafkaError: no broker answered.
        TransientBrokerError: the broker did not answer in time.
    """

    def __init__(
        self, connection: Connection, config: ProducerConfig, stop: threading.Event, clock: Clock = monotonic
    ) -> None:
        self._options = connection.producer_options(config.transactional_id)
        self._config = config
        self._stop = stop
        self._clock = clock
        self._fenced_at = -RIVAL_SECONDS
        self.failure = TransactionFailure(FailureReason.OTHER, "no transaction has failed")
        self._connect()

    def commit(self, transaction: Transaction) -> bool:
        """Write a transaction, and return whether the broker has confirmed it.

        If it has not, the transaction may still have been committed: `restart`, then compare the committed offsets.

        Raises:
            Fenced: another process has this instance id, or has fenced this producer twice within a minute.
        """
        try:
            self._calls.run(lambda: self._write(transaction), DEADLINE_SECONDS)
        except (KafkaError, TransientBrokerError) as error:
            self.failure = TransactionFailure(FailureReason.OTHER, describe(error))
            _log.warning("transaction_failed", error=describe(error), offsets=dict(transaction.offsets))
            self._refuse_rival(error)
            return False
        return True

    def restart(self) -> None:
        """Replace the client by a new one with the same identity; the broker then ends an open transaction.

        Raises:
            BrokerUnavailable: no broker answered within the outage deadline.
        """
        self._discard()
        retry(self._connect, "starting a new producer", self._config.outage_deadline_seconds, self._stop, self._clock)

    def close(self) -> None:
        """Close the connections within seconds; a transaction that is not committed is aborted."""
        self._calls.end()
        with suppress(KafkaError):
            self._client.close(timeout=CLOSE_SECONDS)

    def _connect(self) -> None:
        """Create the client; `init_transactions` ends every transaction of an older client with this identity."""
        self._client = KafkaProducer(**self._options)
        self._calls = _CallThread()
        try:
            self._calls.run(self._client.init_transactions, DEADLINE_SECONDS)
        except (KafkaError, TransientBrokerError):
            self._discard()
            raise

    def _discard(self) -> None:
        """Close the client in its own thread, and do not wait for it: its last call may take long."""
        client = self._client
        self._calls.end(lambda: client.close(timeout=DEADLINE_SECONDS))

    def _write(self, transaction: Transaction) -> None:
        client: Any = self._client
        client.begin_transaction()
        results = [
            client.send(topic, message.value, message.key, list(message.headers), message.partition)
            for topic, messages in transaction.messages.items()
            for message in messages
        ]
        client.flush(timeout=DEADLINE_SECONDS)
        _raise_if_unwritten(results)
        offsets = {
            TopicPartition(self._config.source, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in transaction.offsets.items()
        }
        if offsets:
            client.send_offsets_to_transaction(offsets, transaction.member)
        client.commit_transaction()

    def _refuse_rival(self, error: Exception) -> None:
        """Raise Fenced if the error shows that another process has this identity."""
        if any(isinstance(cause, FencedInstanceIdError) for cause in causes(error)):
            raise Fenced(
                "another process runs with the same FORECASTER_KAFKA__INSTANCE_ID: give each its own, or leave it "
                f"empty ({describe(error)})"
            ) from error
        fenced = any(isinstance(cause, ProducerFencedError | InvalidProducerEpochError) for cause in causes(error))
        if self._config.unique or not fenced:
            return
        now = self._clock()
        if now - self._fenced_at < RIVAL_SECONDS:
            raise Fenced(
                f"the producer {self._config.transactional_id} was fenced twice within {RIVAL_SECONDS:.0f} s: another "
                "process runs with the same FORECASTER_KAFKA__INSTANCE_ID and group: give each its own, or leave it "
                "empty"
            ) from error
        self._fenced_at = now


def _raise_if_unwritten(results: Sequence[Any]) -> None:
    """Raise TransientBrokerError if a record was not written.

    A client that takes a new epoch in the middle of a transaction, as after a restart of the broker, may lose records
    and still commit the others with the offsets, so that every result must be looked at.
    """
    lost = [result for result in results if not result.succeeded()]
    if lost:
        raise TransientBrokerError(f"{len(lost)} of {len(results)} records were not written: {lost[0].exception}")


class _CallThread:
    """Runs calls that may never return in a thread of its own, which can be abandoned."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._errors: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="transactions", daemon=True).start()

    def run(self, call: Callable[[], None], deadline_seconds: float) -> None:
        """Make a call, and return when it has.

        Raises:
            TransientBrokerError: the call takes longer than the deadline; it continues in the thread.
            BaseException: what the call raised.
        """
        self._calls.put(call)
        try:
            error = self._errors.get(timeout=deadline_seconds)
        except queue.Empty:
            raise TransientBrokerError(f"the broker did not answer within {deadline_seconds:.0f} s") from None
        if error is not None:
            raise error

    def end(self, last: Callable[[], None] = lambda: None) -> None:
        """End the thread after its present call and a last one, without waiting for either."""
        self._calls.put(last)
        self._calls.put(None)

    def _loop(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # `run` raises it in the caller's thread
                self._errors.put(error)
            else:
                self._errors.put(None)
