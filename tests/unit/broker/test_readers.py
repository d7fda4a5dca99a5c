"""Readers of single partitions and of whole topics, and the client for topics, when the brokers' addresses change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from clock import FakeClock
from kafka import TopicPartition
from kafka.errors import KafkaConnectionError, KafkaTimeoutError

from forecaster.broker import log_reader, tail_reader, topics
from forecaster.broker.connection import Connection
from forecaster.broker.log_reader import LogReader
from forecaster.broker.needed_topics import SeenTopic
from forecaster.broker.tail_reader import TailReader
from forecaster.broker.topics import TopicAdmin
from forecaster.errors import TransientBrokerError

CONNECTION = Connection("127.0.0.1:9", "group")
ZERO, ONE = TopicPartition("state", 0), TopicPartition("state", 1)


class Brokers:
    """Brokers, and the clients that were made to reach them.

    Attributes:
        has_moved: whether the first client knows former addresses only.
        is_away: whether no client can be made.
        clients: all clients, the oldest first.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.has_moved = self.is_away = False
        self.clients: list[FakeReader] = []

    def __call__(self, **_: object) -> FakeReader:
        if self.is_away:
            raise KafkaTimeoutError("no bootstrap server")
        self.clients.append(FakeReader(self))
        return self.clients[-1]


class FakeReader:
    """A Kafka client that reads partitions without a group, and one that asks about topics."""

    is_lost = False

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self.positions: dict[TopicPartition, int | None] = {}
        self.is_closed = False

    @property
    def is_answered(self) -> bool:
        return not self._brokers.has_moved or self is not self._brokers.clients[0]

    def ask(self) -> FakeReader:
        return self

    def answers(self, _: int) -> bool:
        return self.is_answered

    def hurry(self) -> None: ...

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self.positions = dict.fromkeys(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        self.positions.update(dict.fromkeys(partitions))

    def next_offset(self, partition: TopicPartition) -> int | None:
        return self.positions[partition]

    def poll(self, **_: object) -> dict[TopicPartition, list[Any]]:
        assert not self.is_closed
        return {}

    def committed(self, *_: object, **__: object) -> int:
        if not self.is_answered:
            raise KafkaTimeoutError
        return 17

    def position(self, partition: TopicPartition, **_: object) -> int | None:
        return self.positions[partition]

    def list_partition_offsets(self, offsets: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
        self.is_lost = not self.is_answered
        if self.is_lost:
            raise KafkaConnectionError("refused")
        return {partition: type("Offset", (), {"offset": 17}) for partition in offsets}

    def close(self, **_: object) -> None:
        self.is_closed = True


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    brokers = Brokers()
    monkeypatch.setattr(log_reader, "TolerantConsumer", brokers)
    monkeypatch.setattr(tail_reader, "TolerantConsumer", brokers)
    monkeypatch.setattr(topics, "TolerantAdminClient", brokers)
    return brokers


def test_a_log_reader_reads_on_at_the_new_address(brokers: Brokers) -> None:
    reader = LogReader(CONNECTION, None, brokers.clock)  # type: ignore[arg-type]
    reader.seek("state", 1, 5)
    brokers.clients[0].positions[ONE] = 42
    brokers.has_moved = True
    for _ in range(30):
        brokers.clock.advance(1.0)
        assert reader.read() == []
    assert len(brokers.clients) == 2
    assert brokers.clients[0].is_closed
    assert brokers.clients[1].positions == {ONE: 42}
    assert reader.position == 42


def test_a_log_reader_that_is_only_asked_for_offsets_reaches_the_new_address(brokers: Brokers) -> None:
    reader = LogReader(CONNECTION, None, brokers.clock)  # type: ignore[arg-type]
    brokers.has_moved = True
    with pytest.raises(TransientBrokerError):
        reader.committed("state", 0)
    assert reader.committed("state", 0) == 17


def test_a_log_reader_whose_request_failed_for_another_reason_keeps_its_client(brokers: Brokers) -> None:
    reader = LogReader(CONNECTION, None, brokers.clock)  # type: ignore[arg-type]
    reader.seek("state", 1, 5)
    brokers.clients[0].positions[ONE] = None
    for _ in range(50):
        brokers.clock.advance(1.0)
        with pytest.raises(TransientBrokerError, match="not known yet"):
            _ = reader.position
    assert len(brokers.clients) == 1


def test_a_tail_reader_reads_on_at_the_new_address_where_it_was_in_each_partition(brokers: Brokers) -> None:
    reader = TailReader(CONNECTION, "state", 2, brokers.clock)
    brokers.clients[0].positions[ONE] = 42
    brokers.has_moved = True
    for _ in range(30):
        brokers.clock.advance(1.0)
        assert reader.read() == []
    assert len(brokers.clients) == 2
    assert brokers.clients[1].positions == {ZERO: None, ONE: 42}


def test_readers_of_an_idle_topic_keep_their_client(brokers: Brokers) -> None:
    tail = TailReader(CONNECTION, "state", 2, brokers.clock)
    log = LogReader(CONNECTION, None, brokers.clock)  # type: ignore[arg-type]
    for _ in range(200):
        brokers.clock.advance(1.0)
        tail.read()
        log.read()
    assert len(brokers.clients) == 2


def test_readers_keep_their_client_while_no_bootstrap_server_answers(brokers: Brokers) -> None:
    tail = TailReader(CONNECTION, "state", 2, brokers.clock)
    brokers.has_moved = brokers.is_away = True
    for _ in range(100):
        brokers.clock.advance(1.0)
        tail.read()
    assert not brokers.clients[0].is_closed
    brokers.is_away = False
    for _ in range(12):
        brokers.clock.advance(1.0)
        tail.read()
    assert len(brokers.clients) == 2


def test_questions_about_topics_go_to_the_new_address_at_the_second_attempt(brokers: Brokers) -> None:
    with TopicAdmin(CONNECTION) as admin:
        assert admin.bounds("state", 0) == (17, 17)
        brokers.has_moved = True
        with pytest.raises(TransientBrokerError, match="refused"):
            admin.bounds("state", 0)
        assert admin.bounds("state", 0) == (17, 17)
    assert [client.is_closed for client in brokers.clients] == [True, True]


def test_an_outage_costs_the_client_for_topics_nothing(brokers: Brokers) -> None:
    with TopicAdmin(CONNECTION) as admin:
        brokers.has_moved = brokers.is_away = True
        for _ in range(5):
            with pytest.raises(TransientBrokerError):
                admin.bounds("state", 0)
        brokers.has_moved = False
        assert admin.bounds("state", 0) == (17, 17)
    assert len(brokers.clients) == 1


def test_an_outage_does_not_look_like_a_group_without_members(brokers: Brokers) -> None:
    """`forecaster check` repeats the question, instead of finding no other group that trains."""
    with TopicAdmin(CONNECTION) as admin:
        brokers.has_moved = brokers.is_away = True
        with pytest.raises(TransientBrokerError):
            admin.bounds("state", 0)
        with pytest.raises(TransientBrokerError, match="no broker answers"):
            admin.training_groups("models")
        with pytest.raises(TransientBrokerError, match="no broker answers"):
            admin.read_by_group("group")


class FakeTopics:
    """A broker that knows one topic."""

    def seen(self, names: Iterable[str]) -> dict[str, SeenTopic]:
        return {name: SeenTopic("its id", 1, 1) for name in names if name == "state"}


def test_a_topic_that_does_not_exist_just_now_has_no_id_yet(brokers: Brokers) -> None:
    reader = LogReader(CONNECTION, FakeTopics(), brokers.clock)  # type: ignore[arg-type]
    assert reader.topic_id("state") == "its id"
    with pytest.raises(TransientBrokerError, match="topic other: does not exist"):
        reader.topic_id("other")
