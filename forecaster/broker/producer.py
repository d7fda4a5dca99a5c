"""The transactional producer: one micro-batch is one transaction, whole or not at all, within a deadline."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from kafka import KafkaProducer, TopicPartition
from kafka.errors import FencedInstanceIdError, InvalidProducerEpochError, KafkaError, ProducerFencedError
from kafka.structs import OffsetAndMetadata

from forecaster.broker.connection import TRANSACTION_TIMEOUT_MS, Connection
from forecaster.broker.retry import causes, describe, retry
from forecaster.errors import Fenced, TransientBrokerError
from forecaster.records import Transaction

DEADLINE_SECONDS = TRANSACTION_TIMEOUT_MS / 1000 + 3.0
"""The broker has ended a transaction that took longer."""
RIVAL_SECONDS = 60.0
"""Fenced twice within this: a rival is about, not an outage."""
CLOSE_SECONDS = 5.0
_log = structlog.get_logger()


class TransactionalProducer:
    """Writes transactions; after a failed one it must be restarted: a new producer with the same identity.

    Args:
        connection: how and as whom.
        transactional_id: a newer producer with the same one ends this one.
        source: the input topic, whose offsets are committed.
        unique: nobody else can have the transactional_id: who is fenced was too slow, and has no rival.
        outage_deadline_seconds: how long a broker is waited for.
        stop: set when the process is to end.
    """

    def __init__(
        self,
        connection: Connection,
        transactional_id: str,
        source: str,
        *,
        unique: bool,
        outage_deadline_seconds: float,
        stop: threading.Event,
    ) -> None:
        self._options = connection.producer_options(transactional_id)
        self._source = source
        self._unique = unique
        self._outage_deadline = outage_deadline_seconds
        self._stop = stop
        self._fenced_at = -RIVAL_SECONDS
        self._connect()

    def commit(self, transaction: Transaction) -> bool:
        """Returns true when everything is committed; else `restart`, and ask the committed offsets what became of it.

        Raises:
            Fenced: another process has our instance id, or has fenced us twice within a minute.
        """
        try:
            self._calls.run(lambda: self._write(transaction), DEADLINE_SECONDS)
        except (KafkaError, TransientBrokerError) as error:
            _log.warning("transaction failed", error=describe(error), offsets=dict(transaction.offsets))
            self._note_fencing(error)
            return False
        return True

    def restart(self) -> None:
        """There is a new producer, and the transaction that failed is ended.

        Raises:
            BrokerUnavailable: none could be had within the outage deadline.
        """
        self._discard()
        retry(self._connect, "a new producer", self._outage_deadline, self._stop)

    def close(self) -> None:
        """The connections are closed, within seconds."""
        self._calls.end()
        with suppress(KafkaError):  # of a transaction that is not committed nothing must arrive
            self._client.close(timeout=CLOSE_SECONDS)

    def _connect(self) -> None:
        """There is a producer, and every transaction of an older one with our identity is ended."""
        self._client = KafkaProducer(**self._options)
        self._calls = _Calls()
        try:
            self._calls.run(self._client.init_transactions, DEADLINE_SECONDS)
        except (KafkaError, TransientBrokerError):
            self._discard()
            raise

    def _discard(self) -> None:
        """The old client closes in its own thread, however long its last call takes."""
        client = self._client
        self._calls.end(lambda: client.close(timeout=DEADLINE_SECONDS))

    def _write(self, transaction: Transaction) -> None:
        client: Any = self._client
        client.begin_transaction()
        sent = [
            client.send(topic, message.value, message.key, list(message.headers), message.partition)
            for topic, messages in transaction.messages.items()
            for message in messages
        ]
        client.flush(timeout=DEADLINE_SECONDS)
        _refuse_loss(sent)
        offsets = {
            TopicPartition(self._source, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in transaction.offsets.items()
        }
        if offsets:
            client.send_offsets_to_transaction(offsets, transaction.member)
        client.commit_transaction()

    def _note_fencing(self, error: Exception) -> None:
        if any(isinstance(cause, FencedInstanceIdError) for cause in causes(error)):
            raise Fenced(f"another process has this instance id: {describe(error)}") from error
        if self._unique or not any(
            isinstance(cause, ProducerFencedError | InvalidProducerEpochError) for cause in causes(error)
        ):
            return
        now = time.monotonic()
        if now - self._fenced_at < RIVAL_SECONDS:
            raise Fenced(
                f"fenced twice within {RIVAL_SECONDS:.0f} s: another process runs with the same "
                "FORECASTER_KAFKA__INSTANCE_ID and group: give each its own, or leave it empty"
            ) from error
        self._fenced_at = now


def _refuse_loss(sent: Sequence[Any]) -> None:
    """All records are with the broker.

    The client may lose some when it takes a new epoch in the middle of a transaction, say after a broker's restart,
    and commits the rest and the offsets all the same: whoever sends must look.
    """
    lost = [future for future in sent if not future.succeeded()]
    if lost:
        raise TransientBrokerError(f"{len(lost)} of {len(sent)} records were not written: {lost[0].exception}")


class _Calls:
    """Runs calls of a client that may never return in a thread that may be left behind with it."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="transactions", daemon=True).start()

    def run(self, call: Callable[[], None], deadline_seconds: float) -> None:
        """The call has returned; raises what it raised, TransientBrokerError when it takes longer."""
        self._work.put(call)
        try:
            error = self._done.get(timeout=deadline_seconds)
        except queue.Empty:
            raise TransientBrokerError(f"no answer within {deadline_seconds:.0f} s") from None
        if error is not None:
            raise error

    def end(self, last: Callable[[], None] = lambda: None) -> None:
        """The thread ends after its present call and a last one, which nobody waits for."""
        self._work.put(last)
        self._work.put(None)

    def _loop(self) -> None:
        while (call := self._work.get()) is not None:
            try:
                call()
            except BaseException as error:  # it is raised again where the call was asked for
                self._done.put(error)
            else:
                self._done.put(None)
