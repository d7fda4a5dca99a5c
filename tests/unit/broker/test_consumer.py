"""The member of the consumer group, while the broker is silent or a batch is corrupt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import structlog
from clock import FakeClock
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from forecaster.broker import consumer
from forecaster.broker.connection import Connection
from forecaster.broker.consumer import PROBE_SECONDS, GroupConsumer
from forecaster.broker.tolerant_clients import UnreadableBatch
from forecaster.errors import BrokerUnavailable, TransientBrokerError

HERE, THERE = TopicPartition("readings", 3), TopicPartition("readings", 4)
CONNECTION = Connection("127.0.0.1:9", "group")


class HalfCorruptClient:
    """A client with a partition that cannot be read, and another one that delivers at every second poll."""

    def __init__(self) -> None:
        self.polls = 0

    def __call__(self, **_: object) -> HalfCorruptClient:
        return self

    def subscribe(self, *_: object, **__: object) -> None: ...
    def partitions_for_topic(self, _: str) -> None: ...

    def group_metadata(self) -> SimpleNamespace:
        return SimpleNamespace(state=consumer.MemberState.STABLE)

    def next_offset(self, _: object) -> None: ...

    def poll(self, **_: object) -> dict[TopicPartition, list[SimpleNamespace]]:
        self.polls += 1
        if self.polls % 2:
            raise UnreadableBatch(HERE, 17, ValueError("damaged"))
        return {THERE: [SimpleNamespace(offset=self.polls)]}


def test_a_batch_that_stays_corrupt_is_an_outage_while_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(0.0)
    monkeypatch.setattr(consumer, "TolerantConsumer", HalfCorruptClient())
    member = GroupConsumer(CONNECTION, "readings", 60.0, clock)
    with structlog.testing.capture_logs() as logs:
        for clock.now in (0.0, 30.0, 60.0):
            with pytest.raises(TransientBrokerError, match="topic readings, partition 3, offset 17"):
                member.poll()
            assert member.poll().end.keys() == {4}
        clock.now = 61.0
        with pytest.raises(BrokerUnavailable, match=r"topic readings, partition 3, offset 17: .*for 61 s"):
            member.poll()
    assert [(log["event"], log["partition"], log["offset"]) for log in logs] == [("batch_unreadable", 3, 17)]


class SilentClient(HalfCorruptClient):
    """A client of an idle topic; its broker answers while it is told to."""

    answers = True

    def poll(self, **_: object) -> dict[TopicPartition, list[SimpleNamespace]]:
        return {}

    def committed(self, *_: object, **__: object) -> int | None:
        if not self.answers:
            raise KafkaTimeoutError
        return None


def test_an_idle_topic_is_no_outage_and_a_silent_broker_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    client, clock = SilentClient(), FakeClock()
    monkeypatch.setattr(consumer, "TolerantConsumer", client)
    member = GroupConsumer(CONNECTION, "readings", 60.0, clock)
    clock.advance(1_000)
    assert member.poll().answered
    client.answers = False
    with structlog.testing.capture_logs() as logs:
        clock.advance(PROBE_SECONDS + 1)
        assert not member.poll().answered
        client.answers = True
        clock.advance(PROBE_SECONDS + 1)
        assert member.poll().answered
        client.answers = False
        for _ in range(5):
            clock.advance(PROBE_SECONDS + 1)
            assert not member.poll().answered
        clock.advance(PROBE_SECONDS + 1)
        with pytest.raises(BrokerUnavailable, match="no broker answered for 66 s"):
            member.poll()
    assert [log["event"] for log in logs] == ["broker_silent", "broker_answers_again", "broker_silent"]


class CountingClient(HalfCorruptClient):
    """A client without records that notes how many it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.most: list[object] = []

    def poll(self, *, max_records: object = None, **_: object) -> dict[TopicPartition, list[SimpleNamespace]]:
        self.most.append(max_records)
        return {}


def test_a_poll_has_no_more_records_than_wanted_or_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    client = CountingClient()
    monkeypatch.setattr(consumer, "TolerantConsumer", client)
    member = GroupConsumer(Connection("127.0.0.1:9", "group", options={"max_poll_records": 300}), "readings", 60.0)
    for wanted in (None, 100, 4_000):
        member.poll(max_records=wanted)
    assert client.most == [300, 100, 300]
