"""The member of the consumer group, while the broker is silent, a batch is corrupt, or the group does without it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from clock import FakeClock
from kafka import TopicPartition
from kafka.errors import GroupAuthorizationFailedError, KafkaTimeoutError

from forecaster.broker import consumer, subscriber
from forecaster.broker.connection import Connection
from forecaster.broker.consumer import GroupConsumer
from forecaster.broker.membership import OUT_SECONDS
from forecaster.broker.silence import PROBE_SECONDS, RENEW_SECONDS
from forecaster.broker.tolerant_clients import UnreadableBatch
from forecaster.errors import BrokerUnavailable, Fenced, TransientBrokerError

HERE, THERE = TopicPartition("readings", 3), TopicPartition("readings", 4)
CONNECTION = Connection("127.0.0.1:9", "group")
STABLE, REBALANCING = consumer.MemberState.STABLE, consumer.MemberState.REBALANCING


class Kafka:
    """Brokers, and the clients that were made to reach them.

    Attributes:
        clock: clock of the test.
        answers: whether the brokers answer at the addresses that the first client knows.
        follows_address: whether they answer at those that later clients know.
        is_up: whether a bootstrap server answers.
        state: state of every member.
        topic_id: id of the topic in the metadata of every client; None = not known.
        is_joining: whether the group has not answered a request to join.
        is_confirmed: whether the group answers heartbeats.
        polls: results of the next polls; an exception is raised.
        most: numbers of records that polls asked for at most.
        clients: all clients, the oldest first.
    """

    def __init__(self) -> None:
        self.clock = FakeClock(0.0)
        self.answers = self.is_up = self.is_confirmed = True
        self.follows_address = self.is_joining = False
        self.state = STABLE
        self.topic_id: str | None = ""
        self.polls: list[Any] = []
        self.most: list[object] = []
        self.clients: list[FakeClient] = []

    def __call__(self, **options: Any) -> FakeClient:
        if not self.is_up:
            raise KafkaTimeoutError("no bootstrap server")
        self.clients.append(FakeClient(self, options))
        return self.clients[-1]

    def member(self, outage_deadline: float = 600.0) -> GroupConsumer:
        return GroupConsumer(CONNECTION, "readings", outage_deadline, self.clock)

    def after(self, seconds: float, member: GroupConsumer) -> consumer.PollResult:
        """Poll each second; return what the polls together say of the assignment, and the state of the last one."""
        revoked, assigned = list[int](), list[int]()
        for _ in range(round(seconds)):
            self.clock.advance(1.0)
            polled = member.poll()
            revoked += polled.revoked
            assigned += polled.assigned
        return consumer.PollResult(
            [], {}, {}, polled.member, revoked, assigned, stable=polled.stable, answered=polled.answered
        )


class FakeQuestion:
    """A question that is answered as soon as the brokers answer."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client

    @property
    def is_answered(self) -> bool:
        return self._client.has_broker

    is_lost = False


class FakeClient:
    """A Kafka client of a member."""

    def __init__(self, kafka: Kafka, options: Any) -> None:
        self._kafka, self.options = kafka, options
        self.listener: Any = None
        self.is_closed = False
        self.questions = 0

    @property
    def has_broker(self) -> bool:
        moved = self._kafka.follows_address and self is not self._kafka.clients[0]
        return self._kafka.answers or moved

    @property
    def is_joining(self) -> bool:
        return self._kafka.is_joining

    @property
    def is_confirmed(self) -> bool:
        return self._kafka.is_confirmed

    def subscribe(self, _: object, listener: Any) -> None:
        self.listener = listener

    def ask(self) -> FakeQuestion:
        self.questions += 1
        return FakeQuestion(self)

    def answers(self, _: int) -> bool:
        return self.has_broker

    def hurry(self) -> None: ...
    def pause(self, *_: object) -> None: ...
    def next_offset(self, _: object) -> None: ...
    def read_from(self, *_: object) -> None: ...
    def topic_id(self, _: str) -> str | None:
        return self._kafka.topic_id

    def knows(self, _: str) -> bool:
        return True

    def group_metadata(self) -> SimpleNamespace:
        return SimpleNamespace(state=self._kafka.state)

    def poll(self, *, max_records: object = None, **_: object) -> dict[TopicPartition, list[SimpleNamespace]]:
        assert not self.is_closed
        self._kafka.most.append(max_records)
        result: Any = self._kafka.polls.pop(0) if self._kafka.polls else {}
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    def committed(self, *_: object, **__: object) -> int:
        if not self.has_broker:
            raise KafkaTimeoutError
        return 17

    def close(self, **_: object) -> None:
        self.is_closed = True


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kafka]:
    kafka = Kafka()
    monkeypatch.setattr(subscriber, "TolerantConsumer", kafka)
    yield kafka
    assert [client.is_closed for client in kafka.clients[:-1]] == [True] * (len(kafka.clients) - 1)


def test_a_batch_that_stays_corrupt_is_an_outage_while_others_are_read(kafka: Kafka) -> None:
    member = kafka.member(60.0)
    unreadable = UnreadableBatch(HERE, 17, ValueError("damaged"))
    with structlog.testing.capture_logs() as logs:
        for kafka.clock.now in (0.0, 30.0, 60.0):
            kafka.polls = [unreadable, {THERE: [SimpleNamespace(offset=7)]}]
            with pytest.raises(TransientBrokerError, match="topic readings, partition 3, offset 17"):
                member.poll()
            assert member.poll().end.keys() == {4}
        kafka.clock.now, kafka.polls = 61.0, [unreadable]
        with pytest.raises(BrokerUnavailable, match=r"topic readings, partition 3, offset 17: .*for 61 s"):
            member.poll()
    assert [(log["event"], log["partition"], log["offset"]) for log in logs] == [("batch_unreadable", 3, 17)]


def test_an_idle_topic_is_no_outage_and_a_silent_broker_is_one(kafka: Kafka) -> None:
    member = kafka.member(60.0)
    kafka.clock.advance(1_000)
    assert member.poll().answered
    kafka.answers = kafka.is_up = False
    with structlog.testing.capture_logs() as logs:
        assert not kafka.after(PROBE_SECONDS + 7, member).answered
        kafka.answers = True
        assert kafka.after(1, member).answered
        kafka.answers = False
        assert not kafka.after(60, member).answered
        with pytest.raises(BrokerUnavailable, match="no broker answered for 61 s"):
            kafka.after(1, member)
    assert [log["event"] for log in logs if log["log_level"] != "debug"] == [
        "broker_silent",
        "broker_answers_again",
        "broker_silent",
    ]
    assert len(kafka.clients) == 1


def test_a_member_whose_brokers_have_another_address_joins_from_the_bootstrap_server(kafka: Kafka) -> None:
    member = kafka.member()
    kafka.clients[0].listener.on_partitions_assigned([HERE, THERE])
    assert member.poll().assigned == [3, 4]
    kafka.answers, kafka.follows_address = False, True
    with structlog.testing.capture_logs() as logs:
        kafka.state = REBALANCING
        polled = kafka.after(PROBE_SECONDS + RENEW_SECONDS + 3, member)
    assert len(kafka.clients) == 2
    assert kafka.clients[0].options == kafka.clients[1].options, "a static member keeps its instance id"
    assert polled.revoked == [3, 4]
    assert polled.answered
    assert not member.poll().reconnected
    kafka.state = STABLE
    kafka.clients[1].listener.on_partitions_assigned([THERE])
    joined = member.poll()
    assert joined.assigned == [4]
    assert joined.reconnected
    assert not member.poll().reconnected
    assert [log["event"] for log in logs] == ["broker_silent", "client_renewed", "broker_answers_again"]


def test_a_new_client_has_not_joined_when_it_takes_over_from_a_stable_one(kafka: Kafka) -> None:
    """With a long session timeout, the former client may still count as a member when it is replaced."""
    member = kafka.member()
    kafka.clients[0].listener.on_partitions_assigned([HERE])
    member.poll()
    kafka.answers, kafka.follows_address = False, True
    while not (polled := kafka.after(1, member)).revoked:
        assert polled.stable
    assert len(kafka.clients) == 2
    assert not polled.stable
    assert member.poll().reconnected, "only after the new client has joined"


def test_an_address_where_no_broker_answers_is_tried_again_and_again_but_the_outage_goes_on(kafka: Kafka) -> None:
    """The bootstrap server answers, the broker that it names does not."""
    member = kafka.member(300.0)
    kafka.answers = False
    with pytest.raises(BrokerUnavailable, match="no broker answered for 301 s"):
        kafka.after(400, member)
    assert 20 <= len(kafka.clients) <= 32, "one each ten seconds"


def test_committed_offsets_are_read_from_the_new_address_although_nobody_polls(kafka: Kafka) -> None:
    """As after a transaction that failed because the broker has moved."""
    member = kafka.member()
    kafka.clients[0].listener.on_partitions_assigned([HERE])
    member.poll()
    kafka.answers, kafka.follows_address = False, True
    failures = 0
    while failures < 10:
        try:
            assert member.committed([3]) == {3: 17}
            break
        except TransientBrokerError:
            failures += 1
            kafka.clock.advance(10.0)
    assert failures <= 5
    assert member.poll().revoked == [3]


def test_a_member_that_the_group_forgot_joins_anew_with_growing_pauses_and_then_gives_up(kafka: Kafka) -> None:
    member = kafka.member(600.0)
    kafka.clients[0].listener.on_partitions_assigned([HERE])
    member.poll()
    kafka.state = REBALANCING
    with structlog.testing.capture_logs() as logs:
        assert kafka.after(OUT_SECONDS - 1, member).revoked == []
        assert len(kafka.clients) == 1
        polled = kafka.after(1, member)
        assert len(kafka.clients) == 2
        assert polled.revoked == [3]
        assert not polled.stable
        kafka.after(OUT_SECONDS, member)
        assert len(kafka.clients) == 3
        kafka.after(OUT_SECONDS, member)
        assert len(kafka.clients) == 3
        with pytest.raises(BrokerUnavailable, match="not a member of group group for 601 s"):
            kafka.after(600, member)
    assert [log["event"] for log in logs if log["log_level"] == "warning"][:2] == ["out_of_group", "client_renewed"]
    assert len(kafka.clients) <= 6


def test_a_member_whose_heartbeats_get_no_answer_is_not_stable(kafka: Kafka) -> None:
    member = kafka.member()
    kafka.is_confirmed = False
    assert not member.poll().stable
    kafka.after(OUT_SECONDS, member)
    assert len(kafka.clients) == 2


def test_a_rebalance_that_waits_for_another_member_is_waited_for(kafka: Kafka) -> None:
    """The group answers only when all members have asked; the slowest may take its `max_poll_interval_ms`, 300 s."""
    member = kafka.member(120.0)
    kafka.state, kafka.is_joining = REBALANCING, True
    with structlog.testing.capture_logs() as logs:
        kafka.after(300, member)
        kafka.state, kafka.is_joining = STABLE, False
        assert kafka.after(1, member).stable
    assert len(kafka.clients) == 1
    events = [(log["event"], log.get("waits_for_other_members")) for log in logs]
    assert events == [("out_of_group", True), ("group_joined_again", None)]


def test_a_join_that_is_never_answered_ends_the_wait(kafka: Kafka) -> None:
    member = kafka.member(120.0)
    kafka.state, kafka.is_joining = REBALANCING, True
    with pytest.raises(BrokerUnavailable, match="not a member of group group"):
        kafka.after(500, member)
    assert len(kafka.clients) > 1


def test_a_process_that_was_stopped_was_not_out_of_its_group(kafka: Kafka) -> None:
    member = kafka.member()
    kafka.state = REBALANCING
    kafka.after(5, member)
    kafka.clock.advance(1_000)
    member.poll()
    assert len(kafka.clients) == 1


def test_polls_that_fail_do_not_hide_that_the_member_is_out(kafka: Kafka) -> None:
    member = kafka.member()
    kafka.state = REBALANCING
    for _ in range(round(OUT_SECONDS) + 1):
        kafka.polls = [GroupAuthorizationFailedError("group")]
        kafka.clock.advance(1.0)
        with pytest.raises(TransientBrokerError, match="authorization failed"):
            member.poll()
    assert len(kafka.clients) == 2


@pytest.mark.parametrize(("known", "questions"), [("former", 1), ("present", 0), (None, 0)])
def test_metadata_of_a_former_topic_is_renewed_at_once(kafka: Kafka, known: str | None, questions: int) -> None:
    """Otherwise everything is restored again and again, until the client renews it by itself."""
    member = kafka.member()
    kafka.topic_id = known
    member.read_from("present")
    assert kafka.clients[0].questions == questions


def test_a_heartbeat_that_another_process_has_fenced_ends_this_one(kafka: Kafka) -> None:
    member = kafka.member()
    kafka.polls = [consumer.FencedInstanceIdError(("group", "worker-0"))]
    with pytest.raises(Fenced, match="INSTANCE_ID"):
        member.poll()


def test_a_poll_has_no_more_records_than_wanted_or_configured(kafka: Kafka) -> None:
    member = GroupConsumer(Connection("127.0.0.1:9", "group", options={"max_poll_records": 300}), "readings", 60.0)
    for wanted in (None, 100, 4_000):
        member.poll(max_records=wanted)
    assert kafka.most == [300, 100, 300]
