"""Why a transaction failed: the kind of failure, and a sentence that says what was refused, where, and what to do.

| reason | known by |
|---|---|
| too_large | the client or the broker refuses a record or a batch of records |
| not_authorized | an authorization error of a topic, a group, the cluster or the transactional id |
| missing_topic | the client finds no metadata, or the broker does not know the topic or the partition |
| not_enough_replicas | the broker refuses to write with so few replicas in sync |
| timeout | the deadline of the transaction, of a record or of a request passed |
| disconnected | no connection could be made, or it ended |
| fenced | the broker refuses the producer's epoch, or has ended its transaction |
| not_a_member | the consumer group refuses the generation of this process |
"""

from __future__ import annotations

from collections.abc import Sequence

from kafka import errors
from kafka.errors import KafkaError

from forecaster.broker.call_thread import NoAnswer
from forecaster.broker.connection import Connection
from forecaster.broker.request_watch import Refusal, RequestWatch
from forecaster.broker.retry import causes, describe
from forecaster.broker.topics import TopicAdmin
from forecaster.errors import TransientBrokerError
from forecaster.records import FailureReason, Transaction, TransactionFailure

_REASONS: list[tuple[FailureReason, tuple[type[Exception], ...]]] = [
    (FailureReason.TOO_LARGE, (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)),
    (FailureReason.NOT_AUTHORIZED, (errors.AuthorizationError, errors.SaslAuthenticationFailedError)),
    (FailureReason.NOT_ENOUGH_REPLICAS, (errors.NotEnoughReplicasError, errors.NotEnoughReplicasAfterAppendError)),
    (FailureReason.MISSING_TOPIC, (errors.UnknownTopicOrPartitionError, errors.UnknownTopicIdError)),
    (
        FailureReason.NOT_A_MEMBER,
        (errors.CommitFailedError, errors.IllegalGenerationError, errors.UnknownMemberIdError),
    ),
    (
        FailureReason.FENCED,
        (
            errors.FencedInstanceIdError,
            errors.InvalidProducerEpochError,
            errors.InvalidProducerIdMappingError,
            errors.InvalidTxnStateError,
            errors.ProducerFencedError,
            errors.UnknownProducerIdError,
        ),
    ),
    (FailureReason.TIMEOUT, (errors.KafkaTimeoutError, errors.RequestTimedOutError)),
    (FailureReason.DISCONNECTED, (errors.KafkaConnectionError, errors.NodeNotReadyError)),
]
"""Reasons in the order in which they are looked for, and the errors that show them."""
SETTING = {FailureReason.TOO_LARGE: "max.message.bytes", FailureReason.NOT_ENOUGH_REPLICAS: "min.insync.replicas"}
ADVICE = {
    FailureReason.TOO_LARGE: "raise it for this topic",
    FailureReason.NOT_AUTHORIZED: "give this user the right",
    FailureReason.MISSING_TOPIC: "create it (`forecaster topics --create` creates all but the input)",
    FailureReason.NOT_ENOUGH_REPLICAS: "start the brokers that are down",
}


class NoMetadata(TransientBrokerError):
    """The broker did not report the partitions of a topic in time.

    Args:
        topic: name of the topic.
    """

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic}: the broker reports no partitions of it")
        self.topic = topic


class Refused(TransientBrokerError):
    """The broker has refused a request for too long.

    Args:
        refusal: the request, and the error.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal}, for several seconds")
        self.refusal = refusal


class Unwritten(TransientBrokerError):
    """A record was not written.

    Args:
        topic: its topic.
        partition: its partition.
        size: bytes of its key, its value and its headers.
        count: number of records of the transaction that were not written.
        error: why.
    """

    def __init__(self, topic: str, partition: int, size: int, count: int, error: Exception) -> None:
        super().__init__(
            f"topic {topic}, partition {partition}: a record of {size:,} bytes was not written, {count:,} records in "
            f"all: {describe(error)}"
        )
        self.topic, self.partition, self.error = topic, partition, error
        self.__cause__ = error  # also where it is not raised from the error


class TooLargeForClient(Unwritten):
    """A record is larger than the client's option `max_request_size`."""


def explain(
    error: Exception, watch: RequestWatch, transaction: Transaction, connection: Connection
) -> TransactionFailure:
    """Return why a transaction failed.

    Args:
        error: what ended it.
        watch: what the broker's answers to its requests said.
        transaction: the transaction.
        connection: address of the broker, to ask it for a setting.
    """
    refusals = watch.refusals
    reason = reason_of(error)
    details = [describe(error)]
    if reason in (FailureReason.OTHER, FailureReason.TIMEOUT) and refusals:
        told = [_reason_of_types([refusal.error]) for refusal in refusals]
        reason = next((each for each in told if each is not FailureReason.OTHER), reason)
        details.append(f"the broker's last answers: {'; '.join(map(str, refusals[:3]))}")
    topic = _topic(error, refusals)
    if isinstance(error, TooLargeForClient):
        details.append("raise max_request_size in FORECASTER_KAFKA__OPTIONS, and max.message.bytes of the topic")
        return TransactionFailure(reason, ": ".join(details))
    if reason is FailureReason.OTHER and watch.unanswered is not None:
        reason = _reason_of_types([watch.unanswered])
    if reason in SETTING and topic:
        details.append(_setting(connection, topic, SETTING[reason]))
    if reason is FailureReason.TIMEOUT:
        records = sum(map(len, transaction.messages.values()))
        details.append(f"it has {records:,} records, {transaction.size:,} bytes; the next one is smaller")
        if watch.throttled_seconds:
            details.append(f"a quota of the broker made this client pause for {watch.throttled_seconds:.1f} s")
    if reason in ADVICE:
        details.append(ADVICE[reason])
    return TransactionFailure(reason, ": ".join([details[0], ", ".join(details[1:])]) if details[1:] else details[0])


def reason_of(error: Exception) -> FailureReason:
    """Return the kind of a failure."""
    if isinstance(error, NoMetadata):
        return FailureReason.MISSING_TOPIC
    if isinstance(error, NoAnswer):
        return FailureReason.TIMEOUT
    kinds = [type(cause) for cause in causes(error) if isinstance(cause, Exception)]
    return _reason_of_types([error.refusal.error] if isinstance(error, Refused) else kinds)


def _reason_of_types(kinds: Sequence[type[BaseException]]) -> FailureReason:
    for reason, shown_by in _REASONS:
        if any(issubclass(kind, shown_by) for kind in kinds):
            return reason
    return FailureReason.OTHER


def _topic(error: Exception, refusals: Sequence[Refusal]) -> str:
    """Return the topic that a failure is about; empty = none is known."""
    if isinstance(error, Unwritten | NoMetadata):
        return error.topic
    if isinstance(error, Refused):
        return error.refusal.topic
    return next((refusal.topic for refusal in refusals if refusal.topic), "")


def _setting(connection: Connection, topic: str, name: str) -> str:
    """Return the value of a topic's setting, as a part of a sentence."""
    try:
        with TopicAdmin(connection) as admin:
            value = admin.settings([topic])[topic].get(name)
    except (KafkaError, TransientBrokerError, OSError):
        value = None
    return f"{name} of topic {topic} is {value or 'not known'}"
