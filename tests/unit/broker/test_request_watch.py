"""What a producer learns from the answers to its requests, with the client's own requests, answers and network."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from clock import FakeClock
from kafka import KafkaProducer
from kafka.errors import (
    ConcurrentTransactionsError,
    IllegalStateError,
    KafkaConnectionError,
    NodeNotReadyError,
    NotCoordinatorError,
    UnknownTopicOrPartitionError,
)
from kafka.future import Future
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    EndTxnHandler,
    TxnOffsetCommitHandler,
    TxnRequestHandler,
)
from kafka.protocol.producer import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    EndTxnRequest,
    EndTxnResponse,
    ProduceRequest,
    ProduceResponse,
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
)

from forecaster.broker.request_watch import NO_PARTITION, RequestWatch

UNKNOWN = UnknownTopicOrPartitionError.errno


class Wire:
    """A network whose answers the test gives."""

    def __init__(self, **_: Any) -> None:
        self.futures: list[Future] = []

    def send(self, node_id: int, request: Any, **_: Any) -> Future:  # noqa: ARG002 - signature of the client
        self.futures.append(Future())
        return self.futures[-1]


class Conversation:
    """A watch, and the network that it watches."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.watch = RequestWatch(self.clock)
        self.wire: Wire = self.watch.watched(Wire)()

    def ask(self, request: Any) -> Future:
        future: Future = self.wire.send(1, request)
        return future


@pytest.fixture
def conversation() -> Conversation:
    return Conversation()


def added(code: int, topic: str = "out", partition: int = 3) -> Any:
    topics = AddPartitionsToTxnResponse.AddPartitionsToTxnTopicResult
    parts = topics.AddPartitionsToTxnPartitionResult
    result = parts(partition_index=partition, partition_error_code=code)
    return AddPartitionsToTxnResponse(
        results_by_topic_v3_and_below=[topics(name=topic, results_by_partition=[result])], throttle_time_ms=0
    )


def test_an_answer_without_errors_leaves_nothing(conversation: Conversation) -> None:
    conversation.ask(EndTxnRequest()).success(EndTxnResponse(error_code=0, throttle_time_ms=0))
    assert not conversation.watch.refusals
    assert not conversation.watch.has_repeats


def test_a_request_without_an_answer_may_have_been_repeated_until_the_epoch_is_new(conversation: Conversation) -> None:
    conversation.ask(EndTxnRequest()).failure(KafkaConnectionError())
    conversation.watch.begin()
    assert conversation.watch.has_repeats
    conversation.watch.forget_repeats()
    assert not conversation.watch.has_repeats


def test_a_request_that_was_never_sent_is_not_repeated(conversation: Conversation) -> None:
    conversation.ask(EndTxnRequest()).failure(NodeNotReadyError())
    assert not conversation.watch.has_repeats


def test_the_wait_for_the_transaction_before_is_no_refusal(conversation: Conversation) -> None:
    """It happens after every commit; a new epoch each time would cost more than the transaction."""
    conversation.ask(AddPartitionsToTxnRequest()).success(added(ConcurrentTransactionsError.errno))
    assert not conversation.watch.refusals
    assert not conversation.watch.has_repeats


def test_a_refusal_stands_until_an_answer_without_it(conversation: Conversation) -> None:
    watch, clock = conversation.watch, conversation.clock
    conversation.ask(AddPartitionsToTxnRequest()).success(added(UNKNOWN))
    first = clock()
    clock.advance(4.0)
    conversation.ask(AddPartitionsToTxnRequest()).success(added(UNKNOWN))
    conversation.ask(AddPartitionsToTxnRequest()).success(added(0, partition=1))
    (refusal,) = watch.refusals
    assert (refusal.topic, refusal.partition, refusal.error, refusal.since) == (
        "out",
        3,
        UnknownTopicOrPartitionError,
        first,
    )
    assert str(refusal) == "AddPartitionsToTxn for topic out, partition 3: UnknownTopicOrPartitionError"
    assert watch.has_repeats
    conversation.ask(AddPartitionsToTxnRequest()).success(added(0))
    assert not watch.refusals


def test_refusals_of_every_request_of_a_transaction_are_seen(conversation: Conversation) -> None:
    parts = ProduceResponse.TopicProduceResponse
    written = parts(name="out", partition_responses=[parts.PartitionProduceResponse(index=1, error_code=UNKNOWN)])
    conversation.ask(ProduceRequest()).success(ProduceResponse(responses=[written], throttle_time_ms=1_500))
    topics = TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic
    part = topics.TxnOffsetCommitResponsePartition(partition_index=2, error_code=UNKNOWN)
    conversation.clock.advance(1.0)
    conversation.ask(TxnOffsetCommitRequest()).success(
        TxnOffsetCommitResponse(topics=[topics(name="readings", partitions=[part])], throttle_time_ms=0)
    )
    conversation.clock.advance(1.0)
    conversation.ask(EndTxnRequest()).success(EndTxnResponse(error_code=NotCoordinatorError.errno, throttle_time_ms=0))
    assert [(refusal.request, refusal.topic, refusal.partition) for refusal in conversation.watch.refusals] == [
        ("EndTxn", "", NO_PARTITION),
        ("TxnOffsetCommit", "readings", 2),
        ("Produce", "out", 1),
    ]
    assert conversation.watch.throttled_seconds == 1.5


def test_a_pause_that_a_quota_demanded_before_the_transaction_counts_as_far_as_it_lasts(
    conversation: Conversation,
) -> None:
    conversation.ask(EndTxnRequest()).success(EndTxnResponse(error_code=0, throttle_time_ms=9_000))
    conversation.clock.advance(2.0)
    conversation.watch.begin()
    assert conversation.watch.throttled_seconds == 7.0
    conversation.clock.advance(10.0)
    conversation.watch.begin()
    assert conversation.watch.throttled_seconds == 0.0


def test_nothing_leaves_a_client_that_was_abandoned(conversation: Conversation) -> None:
    conversation.watch.abandon()
    answer = conversation.ask(EndTxnRequest())
    assert isinstance(answer.exception, IllegalStateError)
    assert not conversation.wire.futures


def test_the_client_repeats_requests_where_it_did() -> None:
    """A new version of the client that sends or repeats requests another way must fail here, not in production."""
    assert "kafka_client" in KafkaProducer.DEFAULT_CONFIG
    assert "self._client.send(target_node, next_request_handler.request)" in inspect.getsource(Sender)
    assert "self._client.send(node_id, request" in inspect.getsource(Sender)
    repeat = inspect.getsource(TxnRequestHandler.on_complete)
    assert "isinstance(response_or_exc, Errors.KafkaConnectionError)" in repeat
    assert "self.reenqueue()" in repeat
    for handler in (AddPartitionsToTxnHandler, AddOffsetsToTxnHandler, TxnOffsetCommitHandler, EndTxnHandler):
        assert "max_version=3" in inspect.getsource(handler), "a newer protocol has a new epoch for each transaction"
