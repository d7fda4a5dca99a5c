"""A producer that is fenced, or loses records, in the middle of a transaction."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from clock import FakeClock
from fakes import Member
from kafka.errors import ProducerFencedError

from forecaster.broker import producer
from forecaster.broker.connection import Connection
from forecaster.broker.producer import RIVAL_SECONDS, ProducerConfig, TransactionalProducer
from forecaster.errors import Fenced
from forecaster.records import Message, Transaction

TRANSACTION = Transaction({"forecasts": [Message(0, b"pump", b"{}", ())]}, {0: 1}, Member())


class FakeProducer:
    """A Kafka producer whose transactions fail as they are told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.loses_records = False
        self.calls: list[str] = []

    def __call__(self, **_: object) -> FakeProducer:
        return self

    def begin_transaction(self) -> None:
        if self.error is not None:
            raise self.error

    def send(self, *_: object) -> Any:
        return SimpleNamespace(succeeded=lambda: not self.loses_records, exception="lost")

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
    assert "commit_transaction" not in client.calls
    client.loses_records = False
    assert writer.commit(TRANSACTION)
    assert client.calls[-2:] == ["send_offsets_to_transaction", "commit_transaction"]
    writer.close()
