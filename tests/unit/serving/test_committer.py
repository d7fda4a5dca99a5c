"""What a worker knows about its failed transactions."""

from __future__ import annotations

from clock import FakeClock
from fakes import FakeClient, FakeKafka
from setups import serving

from forecaster.serving.committer import FailureStatus
from forecaster.serving.worker import Worker


def failing(clock: FakeClock, failures: list[str]) -> tuple[FakeClient, Worker]:
    kafka = FakeKafka()
    client, worker = serving(kafka, clock=clock)
    kafka.hours(0, range(4))
    client.failures = failures
    return client, worker


def status(worker: Worker) -> FailureStatus:
    return worker._committer.failures  # noqa: SLF001 - readiness asks the worker's committer


def test_failures_in_a_row_are_counted_since_the_first_until_a_commit() -> None:
    clock = FakeClock()
    _, worker = failing(clock, ["dropped", "dropped"])
    assert status(worker) == FailureStatus()
    first = clock()
    worker.iterate()
    clock.advance(3.0)
    worker.iterate()
    assert status(worker) == FailureStatus(2, first, "other: as told")
    assert worker.counters.transaction_failures == {"other": 2}
    worker.iterate()
    assert status(worker) == FailureStatus()
    assert worker.counters.failed_transactions == 2


def test_a_transaction_that_failed_for_another_reason_than_time_is_tried_again_as_it_was() -> None:
    client, worker = failing(FakeClock(), ["dropped"])
    worker.iterate()
    worker.iterate()
    assert client.sizes[-1] == client.sizes[-2]
    assert not worker._committer.limit.is_limited  # noqa: SLF001
