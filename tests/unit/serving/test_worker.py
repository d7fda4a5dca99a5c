"""The worker against a broker that is a plain object: what is adopted, dropped, held and begun anew, and when."""

from __future__ import annotations

import threading
from collections.abc import Collection

import pytest
from builders import HOUR_MS, START_MS, pipeline_config

from forecaster.broker.consumer import Polled
from forecaster.broker.producer import Transaction
from forecaster.errors import BrokerUnavailable, TooManyBadRecords, TopicError, TransientBrokerError
from forecaster.records import InputRecord
from forecaster.serving.dead_letters import DeadLetterGuard, Limits
from forecaster.serving.worker import Worker, WorkerConfig
from forecaster.wire import Decoder, InputSchema


class FakeBroker:
    """One log a partition, a group of one, and transactions that fail when told to."""

    def __init__(self, partitions: int = 1) -> None:
        self.logs: dict[int, list[InputRecord]] = {number: [] for number in range(partitions)}
        self.position = dict.fromkeys(self.logs, 0)
        self.offsets: dict[int, int] = {}
        self.held: set[int] = set(self.logs)
        self.opened, self.closed = sorted(self.logs), list[int]()
        self.committed_messages: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.silent = self.confirmed = 0

    def append(self, partition: int, value: bytes, key: bytes = b"pump") -> None:
        log = self.logs[partition]
        log.append(InputRecord("readings", partition, len(log), 0, key, value))

    def hours(self, partition: int, hours: range, key: bytes = b"pump") -> None:
        for hour in hours:
            self.append(partition, b'{"timestamp": %d, "value": %d}' % (START_MS + hour * HOUR_MS, hour % 7), key)

    def poll(self) -> Polled:
        opened, closed, self.opened, self.closed = self.opened, self.closed, [], []
        free = [number for number in self.logs if number not in self.held]
        batches = {number: self.logs[number][self.position[number] :] for number in free}
        batches = {number: batch for number, batch in batches.items() if batch}
        begin = {number: batch[0].offset for number, batch in batches.items()}
        end = {number: batch[-1].offset + 1 for number, batch in batches.items()}
        self.position.update(end)
        return Polled([one for batch in batches.values() for one in batch], begin, end, "member", closed, opened)

    def resume(self, partitions: Collection[int]) -> None:
        self.held -= set(partitions)

    def hold(self, partitions: Collection[int]) -> None:
        self.held |= set(partitions)

    def seek(self, offsets: dict[int, int]) -> None:
        self.position.update(offsets)

    def committed(self, partitions: Collection[int]) -> dict[int, int]:
        if self.silent:
            self.silent -= 1
            raise TransientBrokerError("silence")
        return {number: self.offsets.get(number, 0) for number in partitions}

    def confirm_membership(self) -> None:
        self.confirmed += 1

    def restart(self) -> None:
        assert self.confirmed, "who was fenced asks the group first"

    def commit(self, transaction: Transaction) -> bool:
        failure = self.failures.pop(0) if self.failures else ""
        if failure != "dropped":
            for topic, messages in transaction.messages.items():
                self.committed_messages += [(topic, dict(one.headers)["source"].decode()) for one in messages]
            self.offsets.update(transaction.offsets)
        if failure == "overtaken":
            self.offsets.update({number: offset + 2 for number, offset in transaction.offsets.items()})
        return not failure


def worker(broker: FakeBroker, *, stop_on_limit: bool = False, deadline: float = 5.0, **limits: float) -> Worker:
    config = WorkerConfig(pipeline_config(), "forecasts", "dead", stop_on_limit, deadline)
    guard = DeadLetterGuard(Limits(**limits))  # type: ignore[arg-type]
    return Worker(config, None, Decoder(InputSchema()), broker, broker, guard)


def turn(one: Worker, times: int = 1) -> None:
    for _ in range(times):
        one.iterate(threading.Event(), lambda: None)


def sources(broker: FakeBroker, topic: str = "forecasts") -> list[str]:
    return [source for name, source in broker.committed_messages if name == topic]


def test_every_reading_of_every_partition_has_one_forecast() -> None:
    broker = FakeBroker(2)
    one = worker(broker)
    turn(one)
    broker.hours(0, range(5))
    broker.hours(1, range(3))
    turn(one, 2)
    assert sources(broker) == [f"readings/0/{n}" for n in range(5)] + [f"readings/1/{n}" for n in range(3)]
    assert one.counters.records == 8
    assert one.counters.outcomes == {"forecast": 8}


@pytest.mark.parametrize("failure", ["dropped", "happened"])
def test_a_failed_transaction_is_read_again_or_adopted_as_the_committed_offsets_say(failure: str) -> None:
    disturbed, calm = FakeBroker(), FakeBroker()
    disturbed.failures = ["", failure]
    for broker in (disturbed, calm):
        one = worker(broker)
        turn(one)
        for begin in (0, 4, 8):
            broker.hours(0, range(begin, begin + 4))
            turn(one, 2)
    assert disturbed.committed_messages == calm.committed_messages
    assert disturbed.offsets == calm.offsets


def test_a_partition_where_somebody_else_went_on_begins_anew_at_the_committed_offset() -> None:
    broker = FakeBroker()
    one = worker(broker)
    turn(one)
    broker.hours(0, range(4))
    turn(one)
    broker.hours(0, range(4, 8))
    broker.failures = ["overtaken"]
    turn(one)
    assert broker.position == {0: 10}
    assert one._partitions.series == 0  # noqa: SLF001 - the law is about what it holds


def test_the_committed_offsets_are_waited_for_up_to_the_outage_deadline() -> None:
    broker = FakeBroker()
    one = worker(broker, deadline=1.0)
    turn(one)
    broker.hours(0, range(4))
    broker.failures, broker.silent = ["dropped"], 2
    turn(one, 2)
    assert len(sources(broker)) == 4
    broker.hours(0, range(4, 8))
    broker.failures, broker.silent = ["dropped"], 10_000
    with pytest.raises(BrokerUnavailable):
        turn(one)


def test_a_partition_serves_only_when_the_topics_fit() -> None:
    broker = FakeBroker()
    one = worker(broker)

    def misfit() -> None:
        raise TopicError("other partition counts")

    with pytest.raises(TopicError):
        one.iterate(threading.Event(), misfit)
    assert broker.held == {0}


def test_a_revoked_partition_is_forgotten_and_begins_cold_when_it_comes_back() -> None:
    broker = FakeBroker(2)
    one = worker(broker)
    turn(one)
    broker.hours(0, range(4), b"a")
    broker.hours(1, range(4), b"b")
    turn(one)
    assert one._partitions.series == 2  # noqa: SLF001 - the law is about what it holds
    broker.closed = [1]
    turn(one)
    assert one._partitions.series == 1  # noqa: SLF001 - the law is about what it holds
    broker.closed, broker.opened = [1], [1]
    turn(one)
    broker.hours(1, range(4, 6), b"b")
    turn(one)
    assert len(sources(broker)) == 10


def test_too_many_bad_records_hold_their_partition_and_no_other() -> None:
    broker = FakeBroker(2)
    one = worker(broker, max_consecutive=3)
    turn(one)
    for _ in range(3):
        broker.append(0, b"no json")
    broker.hours(1, range(2))
    turn(one)
    assert broker.held == {0}
    broker.hours(0, range(2))
    broker.hours(1, range(2, 4))
    turn(one)
    assert sources(broker) == [f"readings/1/{n}" for n in range(4)]
    assert len(sources(broker, "dead")) == 3


def test_too_many_bad_records_end_the_worker_when_asked_to() -> None:
    broker = FakeBroker()
    one = worker(broker, stop_on_limit=True, max_consecutive=3)
    turn(one)
    for _ in range(3):
        broker.append(0, b"no json")
    with pytest.raises(TooManyBadRecords, match="partition 0"):
        turn(one)
    assert len(sources(broker, "dead")) == 3


def test_the_ratio_counts_the_last_thousand_records_of_a_partition() -> None:
    broker = FakeBroker()
    one = worker(broker, max_ratio=0.5)
    turn(one)
    for number in range(996):
        broker.append(0, b"no json" if number % 2 else b'{"timestamp": 1735689600000, "value": 1}')
    turn(one)
    assert broker.held == set()
    for _ in range(4):
        broker.append(0, b"no json")
    turn(one)
    assert broker.held == {0}


def test_stop_ends_the_loop_between_batches() -> None:
    broker = FakeBroker()
    stop = threading.Event()
    stop.set()
    worker(broker).run(stop, lambda: None)
    assert broker.opened == [0]
