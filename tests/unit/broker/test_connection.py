"""A client that cannot be made ready is closed: whoever tries again for an hour does not run out of sockets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forecaster.broker import consumer, tail_reader
from forecaster.broker.connection import Connection
from forecaster.broker.consumer import GroupConsumer
from forecaster.broker.tail_reader import TailReader

CONNECTION = Connection("127.0.0.1:9", "group")


class FakeConsumer:
    """A Kafka client one of whose methods fails."""

    def __init__(self, failing: str) -> None:
        self._failing = failing
        self.closed = 0

    def __call__(self, **_: object) -> FakeConsumer:
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*_: object, **__: object) -> None:
            if name == self._failing:
                raise ValueError(name)  # not one of Kafka's own

        return call

    def close(self, **_: object) -> None:
        self.closed += 1


@pytest.mark.parametrize("failing", ["subscribe", "partitions_for_topic"])
def test_a_member_that_cannot_be_made_ready_is_closed(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    client = FakeConsumer(failing)
    monkeypatch.setattr(consumer, "TolerantConsumer", client)
    with pytest.raises(ValueError, match=failing):
        GroupConsumer(CONNECTION, "topic", 1.0)
    assert client.closed == 1


@pytest.mark.parametrize("failing", ["assign", "seek_to_beginning"])
def test_a_tail_that_cannot_be_made_ready_is_closed(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    client = FakeConsumer(failing)
    monkeypatch.setattr(tail_reader, "TolerantConsumer", client)
    with pytest.raises(ValueError, match=failing):
        TailReader(CONNECTION, "topic", 2)
    assert client.closed == 1


def test_what_was_made_ready_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeConsumer("")
    monkeypatch.setattr(consumer, "TolerantConsumer", client)
    monkeypatch.setattr(tail_reader, "TolerantConsumer", client)
    GroupConsumer(CONNECTION, "topic", 1.0)
    TailReader(CONNECTION, "topic", 2)
    assert client.closed == 0
