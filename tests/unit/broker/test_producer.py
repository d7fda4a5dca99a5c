"""A producer that is fenced, or loses records, in the middle of a transaction."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from clock import FakeClock
from fakes import Member
from kafka.errors import KafkaTimeoutError, ProducerFencedError, UnknownError, UnknownTopicOrPartitionError

from forecaster.broker import call_thread, producer
from forecaster.broker.connection import Connection
from forecaster.broker.producer import REFUSED_SECONDS, RIVAL_SECONDS, ProducerConfig, TransactionalProducer
from forecaster.broker.request_watch import Refusal
from forecaster.errors import Fenced
from forecaster.records import FailureReason, Message, Transaction

TRANSACTION = Transaction({"forecasts": [Message(0, b"pump", b"{}", ())]}, {0: 1}, Member())


class FakeProducer:
    """A Kafka producer whose transactions fail as they are told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.loses_records = False
        self.send_error: Exception | None = None
        self.calls: list[str] = []

    def __call__(self, **_: object) -> FakeProducer:
        return self

    def begin_transaction(self) -> None:
        if self.error is not None:
            raise self.error

    def send(self, *_: object) -> Any:
        if self.send_error is not None:
            raise self.send_error
        return SimpleNamespace(succeeded=lambda: not self.loses_records, exception=KafkaTimeoutError("lost"))

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeProducer:
    fake = FakeProducer()
    monkeypatch.setattr(producer, "KafkaProducer", fake)
    return fake


def connected(clock: FakeClock, *, unique: bool) -> TransactionalProducer:
    config = ProducerConfig("group-pump", "readings", unique, 60.0)
    return TransactionalProducer(Connection("127.0.0.1:9", "group"), config, threading.Event(), clock)


def test_a_producer_that_is_fenced_twice_within_a_minute_has_a_rival(client: FakeProducer) -> None:
    clock = FakeClock()
    writer = connected(clock, unique=False)
    client.error = ProducerFencedError()
    assert not writer.commit(TRANSACTION)
    clock.advance(RIVAL_SECONDS)
    assert not writer.commit(TRANSACTION), "once in a while is an outage"
    clock.advance(RIVAL_SECONDS - 1)
    with pytest.raises(Fenced, match=r"FORECASTER_KAFKA__INSTANCE_ID"):
        writer.commit(TRANSACTION)
    writer.close()


def test_a_producer_with_a_unique_id_has_no_rival(client: FakeProducer) -> None:
    writer = connected(FakeClock(), unique=True)
    client.error = ProducerFencedError()
    assert not any(writer.commit(TRANSACTION) for _ in range(3))
    writer.close()


def test_a_transaction_that_has_lost_a_record_is_not_committed(client: FakeProducer) -> None:
    writer = connected(FakeClock(), unique=True)
    client.loses_records = True
    assert not writer.commit(TRANSACTION)
    assert writer.failure.reason is FailureReason.TIMEOUT
    assert "topic forecasts, partition 0: a record of 6 bytes" in writer.failure.detail
    assert "commit_transaction" not in client.calls
    client.loses_records = False
    assert writer.commit(TRANSACTION)
    assert client.calls[-2:] == ["send_offsets_to_transaction", "commit_transaction"]
    writer.close()


def test_a_producer_takes_a_new_epoch_after_a_request_that_may_have_been_repeated(client: FakeProducer) -> None:
    """But only after the commit, and once."""
    writer = connected(FakeClock(), unique=True)
    assert writer.commit(TRANSACTION)
    writer._watch.has_repeats = True  # noqa: SLF001 - what its network would have noted
    assert client.calls.count("init_transactions") == 1
    assert writer.commit(TRANSACTION)
    assert writer.commit(TRANSACTION)
    assert client.calls.count("init_transactions") == 2
    assert client.calls.index("init_transactions", 1) > client.calls.index("commit_transaction")
    writer.close()


def test_batches_that_the_client_splits_are_waited_for(client: FakeProducer) -> None:
    writer = connected(FakeClock(), unique=True)
    splits = 3

    def flush(**_: object) -> None:
        nonlocal splits
        splits -= 1
        if splits >= 0:
            raise UnknownError("Future not done")

    client.flush = flush  # type: ignore[attr-defined]
    assert writer.commit(TRANSACTION)
    assert splits < 0
    writer.close()


def test_a_topic_without_that_partition_is_missing(client: FakeProducer) -> None:
    writer = connected(FakeClock(), unique=True)
    client.send_error = ValueError("Unrecognized partition 7")
    assert not writer.commit(TRANSACTION)
    assert writer.failure.reason is FailureReason.MISSING_TOPIC
    assert "topic forecasts, partition 0" in writer.failure.detail
    writer.close()


def test_a_call_does_not_wait_for_a_topic_that_the_broker_does_not_know(
    client: FakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client would repeat its request until the deadline."""
    monkeypatch.setattr(call_thread, "LOOK_SECONDS", 0.01)
    clock, answer = FakeClock(), threading.Event()
    writer = connected(clock, unique=True)
    watch = writer._watch  # noqa: SLF001 - what its network would have noted

    def commit_transaction() -> None:
        watch._refusals["EndTxn", "readings", 1] = Refusal(  # noqa: SLF001
            "TxnOffsetCommit", "readings", 1, UnknownTopicOrPartitionError, clock()
        )
        clock.advance(REFUSED_SECONDS)
        answer.wait(10.0)

    client.commit_transaction = commit_transaction  # type: ignore[attr-defined]
    assert not writer.commit(TRANSACTION)
    answer.set()
    assert writer.failure.reason is FailureReason.MISSING_TOPIC
    assert "TxnOffsetCommit for topic readings, partition 1" in writer.failure.detail
    writer.close()
