"""Clients that cannot be made ready are closed, and options of the operator that break a guarantee are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forecaster.broker import subscriber, tail_reader
from forecaster.broker.connection import Connection
from forecaster.broker.consumer import GroupConsumer
from forecaster.broker.tail_reader import TailReader
from forecaster.errors import UsageError

CONNECTION = Connection("127.0.0.1:9", "group")


class FakeConsumer:
    """A Kafka client with one method that fails."""

    def __init__(self, failing: str) -> None:
        self._failing = failing
        self.closed = 0

    def __call__(self, **_: object) -> FakeConsumer:
        return self

    def __getattr__(self, name: str) -> Callable[..., bool]:
        def call(*_: object, **__: object) -> bool:
            if name == self._failing:
                raise ValueError(name)  # an error that is not one of Kafka's
            return True

        return call

    def close(self, **_: object) -> None:
        self.closed += 1


@pytest.mark.parametrize("failing", ["subscribe", "knows"])
def test_a_member_that_cannot_be_made_ready_is_closed(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    client = FakeConsumer(failing)
    monkeypatch.setattr(subscriber, "TolerantConsumer", client)
    with pytest.raises(ValueError, match=failing):
        GroupConsumer(CONNECTION, "topic", 1.0)
    assert client.closed == 1


@pytest.mark.parametrize("failing", ["assign", "seek_to_beginning"])
def test_a_tail_reader_that_cannot_be_made_ready_is_closed(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    client = FakeConsumer(failing)
    monkeypatch.setattr(tail_reader, "TolerantConsumer", client)
    with pytest.raises(ValueError, match=failing):
        TailReader(CONNECTION, "topic", 2)
    assert client.closed == 1


def test_clients_that_are_ready_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeConsumer("")
    monkeypatch.setattr(subscriber, "TolerantConsumer", client)
    monkeypatch.setattr(tail_reader, "TolerantConsumer", client)
    GroupConsumer(CONNECTION, "topic", 1.0)
    TailReader(CONNECTION, "topic", 2)
    assert client.closed == 0


@pytest.mark.parametrize(
    ("option", "reason"),
    [("acks", "exactly-once"), ("group_id", "variable of its own"), ("no_such_option", "correct it")],
)
def test_an_option_that_is_not_the_operators_is_refused_with_the_reason(option: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"FORECASTER_KAFKA__OPTIONS: .*{option}.*{reason}"):
        Connection("127.0.0.1:9", "group", options={option: 1})


def test_an_option_goes_to_the_clients_that_know_it() -> None:
    connection = Connection("127.0.0.1:9", "group", options={"linger_ms": 7})
    assert connection.producer_options("id")["linger_ms"] == 7
    assert "linger_ms" not in connection.consumer_options()
