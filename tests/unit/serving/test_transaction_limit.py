"""Transactions shrink until the broker takes them in time, and grow again when it takes more."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import pytest
from clock import FakeClock
from fakes import FakeClient, FakeKafka
from setups import iterate, setup

from forecaster.serving.transaction_limit import Attempt, TransactionLimit
from forecaster.serving.worker import Worker

RECORD_BYTES, MOST_RECORDS = 1_100, 2_000
TIMEOUT_SECONDS, DEADLINE_SECONDS = 15.0, 18.0


@dataclass
class Link:
    """A broker with a limit of bytes per second, and a worker with a backlog that writes to it.

    Attributes:
        bytes_per_second: what the broker takes.
        limit: the worker's limit.
        now: the time.
        failures: transactions that failed.
        batches: records of the transactions that did not.
    """

    bytes_per_second: float
    limit: TransactionLimit = field(default_factory=TransactionLimit)
    now: float = 0.0
    failures: int = 0
    batches: list[int] = field(default_factory=list)

    def write(self, records: int, state_bytes: int = 0) -> None:
        size = records * RECORD_BYTES + state_bytes
        seconds = size / self.bytes_per_second
        in_time = seconds < TIMEOUT_SECONDS
        self.failures += not in_time
        if in_time:
            self.batches.append(records)
        self.now += seconds if in_time else DEADLINE_SECONDS
        self.limit = self.limit.after(Attempt(size, records, min(seconds, DEADLINE_SECONDS), in_time), self.now)

    def write_backlog(self, transactions: int) -> None:
        for _ in range(transactions):
            self.write(min(MOST_RECORDS, self.limit.records))


def test_quick_transactions_have_no_limit() -> None:
    link = Link(10_000_000.0)
    link.write_backlog(5)
    assert link.batches == [MOST_RECORDS] * 5
    assert (link.limit.records, link.limit.state_bytes) == (sys.maxsize, sys.maxsize)


@pytest.mark.parametrize("bytes_per_second", [100.0, 1_000.0, 20_000.0, 100_000.0])
def test_transactions_shrink_until_they_are_in_time_and_fail_no_more(bytes_per_second: float) -> None:
    link = Link(bytes_per_second)
    link.write_backlog(40)
    fits = max(1.0, TIMEOUT_SECONDS * bytes_per_second / RECORD_BYTES)
    assert link.failures <= 12
    before = link.failures
    link.write_backlog(100)
    assert link.failures == before
    assert link.batches[-1] >= max(1, int(fits / 8)), "not smaller than needed"


def test_the_smallest_batch_is_one_record() -> None:
    link = Link(90.0)  # a record takes 12 s
    link.write_backlog(60)
    assert link.batches[-1] == 1
    link.bytes_per_second = 10_000_000.0
    link.now += 60.0
    link.write_backlog(30)
    assert link.batches[-1] == MOST_RECORDS


def test_a_limit_goes_when_the_broker_takes_more_again() -> None:
    link = Link(50_000.0)
    link.write_backlog(20)
    assert link.limit.is_limited
    link.bytes_per_second = 10_000_000.0
    link.now += 60.0
    link.write_backlog(12)
    assert not link.limit.is_limited


def test_blocks_that_never_fit_are_tried_ever_more_rarely() -> None:
    """The readings go on meanwhile."""
    link = Link(20_000.0)
    tries = list[float]()
    while link.now < 7_200.0:
        if link.limit.state_bytes >= 512_000:
            tries.append(link.now)
            link.write(3, 512_000)
        else:
            link.write(3)
            link.now += 1.0
    assert len(tries) == link.failures
    assert len(tries) < 25
    assert tries[-1] - tries[-2] > 500.0


def test_an_outage_is_forgotten_soon() -> None:
    link = Link(10_000_000.0)
    link.limit = link.limit.after(Attempt(50_000, 40, DEADLINE_SECONDS, in_time=False), 0.0)
    assert link.limit.size == 25_000
    assert link.limit.records == 15
    link.now = 11.0
    link.write_backlog(10)
    assert link.batches[-1] == MOST_RECORDS


def test_as_many_bytes_as_have_failed_are_not_tried_again_at_once() -> None:
    """A quota lets small transactions through at once, and stops the large one."""
    limit = TransactionLimit().after(Attempt(100_000, 100, DEADLINE_SECONDS, in_time=False), 0.0)
    for now in (0.1, 0.2, 0.3):
        limit = limit.after(Attempt(limit.size, limit.records, 0.05, in_time=True), now)
    assert limit.size < 100_000
    limit = limit.after(Attempt(limit.size, limit.records, 0.05, in_time=True), 11.0)
    assert limit.size == 100_000


def hours(kafka: FakeKafka, count: int) -> None:
    for key in (b"pump", b"fan", b"site/1"):
        kafka.hours(0, range(count), key)


def served(kafka: FakeKafka, clock: FakeClock) -> tuple[FakeClient, Worker]:
    client = FakeClient(kafka, batch=500)
    client.is_limited = True
    return client, setup(clock=clock).serving(client)


def test_a_worker_writes_the_same_in_smaller_transactions_then_in_larger_ones() -> None:
    narrow, wide = FakeKafka(), FakeKafka()
    clock = FakeClock()
    client, worker = served(narrow, clock)
    hours(narrow, 400)
    client.capacity = 25_000
    iterate(worker, 15)
    failures = worker.counters.transaction_failures["timeout"]
    assert 0 < failures < 4
    assert max(client.sizes[failures + 2 :]) <= client.capacity, "no more failures"
    client.capacity = sys.maxsize
    clock.advance(60.0)
    iterate(worker, 60)
    assert max(client.sizes) > 2 * 25_000
    client, worker = served(wide, clock)
    hours(wide, 400)
    iterate(worker, 40)
    assert sorted(narrow.published) == sorted(wide.published)
    assert narrow.offsets == wide.offsets
    assert len(set(narrow.sources())) == len(narrow.sources()) == 1_200


def test_state_of_an_idle_input_is_tried_with_growing_pauses_and_stored_when_the_broker_takes_it() -> None:
    """Without a transaction, the limit would stay where the slow broker has left it, and the state would wait."""
    kafka, clock = FakeKafka(), FakeClock()
    client = FakeClient(kafka)
    worker = setup(clock=clock, snapshot_seconds=60.0, replay_limit=1_000_000).worker(client)
    kafka.hours(0, range(4))
    iterate(worker, 3)
    client.capacity = 10
    worker._store.limit_writes(0)  # noqa: SLF001 - after many transactions that were too slow
    tries = len(client.sizes)
    for _ in range(720):
        clock.advance(5.0)
        worker.iterate()
    assert 5 <= len(client.sizes) - tries <= 12
    assert worker._committer.failures.in_a_row == 0, "the worker is ready meanwhile"  # noqa: SLF001
    client.capacity = sys.maxsize
    for _ in range(140):
        clock.advance(5.0)
        worker.iterate()
    partition = worker._store.partitions[0]  # noqa: SLF001
    assert partition.floor.offset == partition.position == kafka.offsets[0]
