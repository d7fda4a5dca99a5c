"""Failures of transactions: their kind, and what the sentence about them says."""

from __future__ import annotations

from typing import Any

import pytest
from clock import FakeClock
from fakes import Member
from kafka.errors import (
    CommitFailedError,
    InvalidProducerEpochError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from forecaster.broker import transaction_failures
from forecaster.broker.call_thread import NoAnswer
from forecaster.broker.connection import Connection
from forecaster.broker.request_watch import Refusal, RequestWatch
from forecaster.broker.transaction_failures import (
    NoMetadata,
    Refused,
    TooLargeForClient,
    Unwritten,
    explain,
    reason_of,
)
from forecaster.errors import TransientBrokerError
from forecaster.records import FailureReason, Message, Transaction

TRANSACTION = Transaction({"out": [Message(0, b"", b"x" * 1_000, ())] * 2_000}, {}, Member())
CONNECTION = Connection("127.0.0.1:9", "group")
REFUSAL = Refusal("AddPartitionsToTxn", "out", 3, UnknownTopicOrPartitionError, 0.0)
KINDS: dict[FailureReason, list[Exception]] = {
    FailureReason.TOO_LARGE: [Unwritten("out", 3, 2_000_000, 1, MessageSizeTooLargeError())],
    FailureReason.NOT_AUTHORIZED: [
        TransactionalIdAuthorizationFailedError(),
        Unwritten("out", 3, 10, 5, TopicAuthorizationFailedError("out")),
        KafkaError(TopicAuthorizationFailedError("out")),
    ],
    FailureReason.MISSING_TOPIC: [NoMetadata("out"), Refused(REFUSAL)],
    FailureReason.NOT_ENOUGH_REPLICAS: [Unwritten("out", 3, 10, 5, NotEnoughReplicasError())],
    FailureReason.TIMEOUT: [NoAnswer("late"), KafkaTimeoutError(), KafkaError(RequestTimedOutError())],
    FailureReason.DISCONNECTED: [KafkaConnectionError()],
    FailureReason.FENCED: [InvalidProducerEpochError()],
    FailureReason.NOT_A_MEMBER: [CommitFailedError("metadata mismatch")],
    FailureReason.OTHER: [KafkaError("who knows")],
}


class Admin:
    """The settings of every topic."""

    is_away = False

    def __init__(self, _: Connection) -> None:
        if self.is_away:
            raise TransientBrokerError("no broker")

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settings(self, names: list[str]) -> dict[str, dict[str, str]]:
        return {name: {"max.message.bytes": "1000012", "min.insync.replicas": "2"} for name in names}


@pytest.fixture(autouse=True)
def _admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_failures, "TopicAdmin", Admin)


def watch(*refusals: Refusal) -> RequestWatch:
    made = RequestWatch(FakeClock())
    made._refusals.update({(r.request, r.topic, r.partition): r for r in refusals})  # noqa: SLF001
    return made


def explained(error: Exception, *refusals: Refusal) -> Any:
    return explain(error, watch(*refusals), TRANSACTION, CONNECTION)


def test_every_kind_of_failure_has_an_example() -> None:
    assert set(KINDS) == set(FailureReason)


@pytest.mark.parametrize(("reason", "error"), [(kind, error) for kind, errors in KINDS.items() for error in errors])
def test_an_error_has_its_kind(reason: FailureReason, error: Exception) -> None:
    assert reason_of(error) is reason
    assert explained(error).reason is reason


def test_a_record_that_is_too_large_is_named_with_its_size_and_the_setting() -> None:
    failure = explained(Unwritten("out", 3, 2_000_000, 1, MessageSizeTooLargeError()))
    assert "topic out, partition 3" in failure.detail
    assert "2,000,000 bytes" in failure.detail
    assert "max.message.bytes of topic out is 1000012" in failure.detail


def test_a_record_that_the_client_refuses_is_named_with_the_option() -> None:
    failure = explained(TooLargeForClient("out", 3, 2_000_000, 1, MessageSizeTooLargeError()))
    assert failure.reason is FailureReason.TOO_LARGE
    assert "max_request_size in FORECASTER_KAFKA__OPTIONS" in failure.detail


def test_too_few_replicas_are_said_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = explained(Unwritten("out", 3, 10, 5, NotEnoughReplicasError()))
    assert "min.insync.replicas of topic out is 2" in failure.detail
    monkeypatch.setattr(Admin, "is_away", True)
    assert "is not known" in explained(Unwritten("out", 3, 10, 5, NotEnoughReplicasError())).detail


def test_a_deadline_has_the_kind_of_what_the_broker_refused_until_then() -> None:
    too_few = Refusal("Produce", "out", 1, NotEnoughReplicasError, 2.0)
    failure = explained(NoAnswer("the broker did not answer within 18 s"), too_few)
    assert failure.reason is FailureReason.NOT_ENOUGH_REPLICAS
    assert "Produce for topic out, partition 1: NotEnoughReplicasError" in failure.detail


def test_an_error_that_the_client_has_put_into_a_text_has_its_kind() -> None:
    """The client does so with all but connection errors of a transactional request."""
    silent = watch()
    silent._failed(RequestTimedOutError("Request timed out after 7999 ms"))  # noqa: SLF001
    failure = explain(KafkaError("Could not execute transactional request: [Error 7]"), silent, TRANSACTION, CONNECTION)
    assert failure.reason is FailureReason.TIMEOUT
    assert "the next one is smaller" in failure.detail
    silent.begin()
    assert explain(KafkaError("who knows"), silent, TRANSACTION, CONNECTION).reason is FailureReason.OTHER


def test_a_deadline_says_how_much_was_to_be_written_and_whether_a_quota_applied() -> None:
    slowed = watch()
    assert "quota" not in explained(NoAnswer("late")).detail
    slowed.throttled_seconds = 12.5
    failure = explain(NoAnswer("late"), slowed, TRANSACTION, CONNECTION)
    assert failure.reason is FailureReason.TIMEOUT
    assert "2,000 records, 2,000,000 bytes" in failure.detail
    assert "quota of the broker made this client pause for 12.5 s" in failure.detail
