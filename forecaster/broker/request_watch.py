"""What the answers to a producer's requests say, and which requests got none.

The Kafka client sends AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit and EndTxn again by itself when their
connection ends before the answer. The first copy can still be under way then: with the older transaction protocol, a
late EndTxn ends the next transaction in its middle, and a late TxnOffsetCommit moves its offsets back. Both carry the
producer's epoch, so that a producer whose request was repeated needs a new epoch before its next transaction.

The client also repeats requests that the broker refuses for a reason that can pass, and never reports a topic that is
gone. The watch tells which refusals stand.

The client takes the class of its network from its option `kafka_client`; no private name is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka.errors import ConcurrentTransactionsError, IllegalStateError, NodeNotReadyError, for_code
from kafka.future import Future

from forecaster.clock import Clock, monotonic

NO_PARTITION = -1
Network = Callable[..., Any]
_Key = tuple[str, str, int]
_NOT_ATTEMPTED = 55
"""Kafka's error code of a partition that was left out because another one of the request was refused."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that the newest answers to one kind of request hold.

    Attributes:
        request: name of the request.
        topic: its topic; empty = the error is about the whole request.
        partition: its partition; NO_PARTITION = the error is about the whole request.
        error: class of the error.
        since: time of the clock at the first of these answers.
    """

    request: str
    topic: str
    partition: int
    error: type[Exception]
    since: float

    def __str__(self) -> str:
        """Return the request, the partition and the error."""
        where = f" for topic {self.topic}, partition {self.partition}" if self.topic else ""
        return f"{self.request}{where}: {self.error.__name__}"


class RequestWatch:
    """Watches the requests of one producer client.

    Args:
        clock: monotonic seconds.

    Attributes:
        has_repeats: whether the client may have sent a request twice: a request got no answer, or was refused.
        unanswered: class of the error of this transaction's newest request without an answer; None = all had one. The
            client puts some of these errors into the text of another one.
        throttled_seconds: time of this transaction for which a quota made the client pause.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        self._clock = clock
        self._refusals: dict[_Key, Refusal] = {}
        self._is_abandoned = False
        self.has_repeats = False
        self.unanswered: type[Exception] | None = None
        self.throttled_seconds = 0.0
        self._pause_until = -math.inf

    def watched(self, network: Network) -> Network:
        """Return the class of a network, changed so that this watch sees its requests and answers."""

        def make(**options: Any) -> Any:
            client_network = network(**options)
            send = client_network.send

            def watched_send(node_id: Any, request: Any, **more: Any) -> Future:
                if self._is_abandoned:
                    return Future().failure(IllegalStateError("a newer producer has replaced this one"))
                answer = send(node_id, request, **more)
                self._see(request, answer)
                return answer

            client_network.send = watched_send
            return client_network

        return make

    def begin(self) -> None:
        """Forget what was seen before this transaction, but not that a request may have been repeated."""
        self._refusals.clear()
        self.unanswered = None
        self.throttled_seconds = max(0.0, self._pause_until - self._clock())

    def forget_repeats(self) -> None:
        """Note that the producer has a new epoch: requests sent before have no effect any more."""
        self.has_repeats = False

    def abandon(self) -> None:
        """Let no further request leave this client, so that calls that wait for one end with an error."""
        self._is_abandoned = True

    @property
    def refusals(self) -> list[Refusal]:
        """Refusals that stand, the newest first."""
        standing = list(self._refusals.values())  # a copy, because the client's thread changes them
        standing.sort(key=lambda refusal: -refusal.since)
        return standing

    def _see(self, request: Any, answer: Future) -> None:
        answer.add_callback(self._answered, type(request).__name__.removesuffix("Request"))
        answer.add_errback(self._failed)

    def _answered(self, name: str, response: Any) -> None:
        pause = getattr(response, "throttle_time_ms", 0) / 1000
        if pause:
            self.throttled_seconds += pause
            self._pause_until = self._clock() + pause
        for topic, partition, code in error_codes(name, response):
            key = (name, topic, partition)
            error = for_code(code)
            if code == 0:
                self._refusals.pop(key, None)
            elif code != _NOT_ATTEMPTED and error is not ConcurrentTransactionsError:  # the broker ends the one before
                before = self._refusals.get(key)
                since = before.since if before is not None and before.error is error else self._clock()
                self._refusals[key] = Refusal(*key, error, since)
                self.has_repeats = True

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, NodeNotReadyError):  # raised before anything is sent
            self.has_repeats, self.unanswered = True, type(error)


def error_codes(request: str, response: Any) -> Iterator[tuple[str, int, int]]:
    """Yield topic, partition and error code of each part of an answer; codes of the whole answer have no topic."""
    if request == "Produce":
        for topic in response.responses:
            for part in topic.partition_responses:
                yield topic.name, part.index, part.error_code
    elif request == "AddPartitionsToTxn":
        for topic in response.results_by_topic_v3_and_below:
            for part in topic.results_by_partition:
                yield topic.name, part.partition_index, part.partition_error_code
    elif request == "TxnOffsetCommit":
        for topic in response.topics:
            for part in topic.partitions:
                yield topic.name, part.partition_index, part.error_code
    elif request in ("AddOffsetsToTxn", "EndTxn", "InitProducerId"):
        yield "", NO_PARTITION, response.error_code
