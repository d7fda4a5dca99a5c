"""The transactional producer: one micro-batch is one transaction, which commits as a whole or not at all.

Late requests cannot tear a transaction:

| late request | why it changes no later transaction |
|---|---|
| EndTxn, TxnOffsetCommit, AddOffsetsToTxn, AddPartitionsToTxn | it carries a former epoch, see below |
| Produce | it carries a former epoch, or a sequence number that was written before |
| InitProducerId | it aborts the transaction as a whole: the producer is fenced, and takes a new epoch |

After a request that the client may have repeated, the producer takes a new epoch before its next transaction. After a
failed transaction, the new client's InitProducerId waits until the broker has ended the old one, as its EndTxn said or
by an abort. The offsets that are read then are final.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from kafka import KafkaProducer, TopicPartition
from kafka.errors import (
    FencedInstanceIdError,
    InvalidProducerEpochError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    UnknownError,
    UnknownTopicOrPartitionError,
)
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata

from forecaster.broker.call_thread import CallThread, NoAnswer
from forecaster.broker.connection import TRANSACTION_TIMEOUT_MS, Connection
from forecaster.broker.request_watch import RequestWatch
from forecaster.broker.retry import causes, describe, retry
from forecaster.broker.transaction_failures import (
    NoMetadata,
    Refused,
    TooLargeForClient,
    Unwritten,
    explain,
    reason_of,
)
from forecaster.clock import Clock, monotonic
from forecaster.errors import Fenced, TransientBrokerError
from forecaster.records import FailureReason, Message, Transaction, TransactionFailure

DEADLINE_SECONDS = TRANSACTION_TIMEOUT_MS / 1000 + 3.0
"""Time after which the broker has aborted the transaction."""
RIVAL_SECONDS = 60.0
"""Fenced twice within this time, a producer has a rival; fenced once, it was only too slow, as in an outage."""
CLOSE_SECONDS = 5.0
REFUSED_SECONDS = 5.0
"""A topic that the broker does not know for this long is missing; before, its metadata may only be late."""
MOST_SPLITS = 1_000
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
        failure: reason of the newest failed transaction.

    Raises:
        KafkaError: no broker answered.
        TransientBrokerError: the broker did not answer in time.
    """

    def __init__(
        self, connection: Connection, config: ProducerConfig, stop: threading.Event, clock: Clock = monotonic
    ) -> None:
        self._connection = connection
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
            BrokerUnavailable: as for `restart`, which a repeated request makes necessary.
        """
        if self._watch.has_repeats:
            _log.info("producer_renewed", transactional_id=self._config.transactional_id)
            self.restart()
        self._watch.begin()
        try:
            self._find_topics(transaction)
            self._calls.run(lambda: self._write(transaction), DEADLINE_SECONDS, self._refuse_missing_topic)
        except (KafkaError, TransientBrokerError) as error:
            self._fail(transaction, error)
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
        self._watch = RequestWatch(self._clock)
        network = self._watch.watched(self._options.get("kafka_client", KafkaNetClient))
        self._client = KafkaProducer(**{**self._options, "kafka_client": network})
        self._calls = CallThread()
        try:
            self._calls.run(self._client.init_transactions, DEADLINE_SECONDS)
        except (KafkaError, TransientBrokerError):
            self._discard()
            raise
        self._watch.forget_repeats()

    def _discard(self) -> None:
        """Close the client in its own thread, and do not wait for it: its last call may take long.

        Nothing more leaves it: it would fence its successor if it asked for a new epoch.
        """
        client = self._client
        self._watch.abandon()
        self._calls.end(lambda: client.close(timeout=DEADLINE_SECONDS))

    def _find_topics(self, transaction: Transaction) -> None:
        """Wait until the client knows the partitions of every topic that is written.

        Raises:
            NoMetadata: the broker does not report them.
        """
        for topic in [topic for topic, messages in transaction.messages.items() if messages]:
            try:
                self._calls.run(partial(self._client.partitions_for, topic), REFUSED_SECONDS)
            except NoAnswer:
                raise NoMetadata(topic) from None

    def _write(self, transaction: Transaction) -> None:
        client: Any = self._client
        client.begin_transaction()
        results = [
            (topic, message, self._send(topic, message))
            for topic, messages in transaction.messages.items()
            for message in messages
        ]
        self._flush()
        _raise_if_unwritten(results)
        offsets = {
            TopicPartition(self._config.source, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in transaction.offsets.items()
        }
        if offsets:
            client.send_offsets_to_transaction(offsets, transaction.member)
        client.commit_transaction()

    def _flush(self) -> None:
        """Wait for all records; the client's own wait ends early when it splits a batch that the broker refuses."""
        for _ in range(MOST_SPLITS):
            with suppress(UnknownError):
                self._client.flush(timeout=DEADLINE_SECONDS)
                return
        raise TransientBrokerError(f"batches of records do not fit after {MOST_SPLITS} splits")

    def _send(self, topic: str, message: Message) -> Any:
        try:
            return self._client.send(topic, message.value, message.key, list(message.headers), message.partition)
        except MessageSizeTooLargeError as error:
            raise TooLargeForClient(topic, message.partition, message.size, 1, error) from error
        except ValueError as error:  # the topic has no such partition
            unknown = UnknownTopicOrPartitionError(str(error))
            raise Unwritten(topic, message.partition, message.size, 1, unknown) from unknown

    def _refuse_missing_topic(self) -> None:
        """Raise Refused if the broker has not known a topic for several seconds; the client would ask without end."""
        for refusal in self._watch.refusals:
            is_missing = reason_of(Refused(refusal)) is FailureReason.MISSING_TOPIC
            if is_missing and self._clock() - refusal.since >= REFUSED_SECONDS:
                raise Refused(refusal)

    def _fail(self, transaction: Transaction, error: Exception) -> None:
        """Note and log why a transaction failed."""
        self.failure = explain(error, self._watch, transaction, self._connection)
        _log.warning(
            "transaction_failed",
            reason=self.failure.reason.value,
            error=self.failure.detail,
            offsets=dict(transaction.offsets),
        )

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


def _raise_if_unwritten(results: Sequence[tuple[str, Message, Any]]) -> None:
    """Raise Unwritten if a record was not written.

    A client that takes a new epoch in the middle of a transaction, as after a restart of the broker, may lose records
    and still commit the others with the offsets, so that every result must be checked.

    Args:
        results: each record with its topic and the client's result.
    """
    lost = [(topic, message, result.exception) for topic, message, result in results if not result.succeeded()]
    if lost:
        topic, message, error = max(lost, key=lambda record: record[1].size)
        raise Unwritten(topic, message.partition, message.size, len(lost), error)
