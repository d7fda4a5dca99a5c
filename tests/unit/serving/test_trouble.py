"""A worker that commits nothing is not ready, and says why."""

from __future__ import annotations

import pytest
from clock import FakeClock
from fakes import FakeClient, FakeKafka
from setups import setup
from structlog.testing import capture_logs

from forecaster.app.watchdog import Pulse, Watchdog
from forecaster.serving.inspect.status import PartitionState, PartitionStatus
from forecaster.serving.inspect.trouble import FAILING_SECONDS, FAILURES_IN_A_ROW, STANDSTILL_SECONDS, Trouble
from forecaster.serving.inspect.waiting import WaitingRecords
from forecaster.serving.worker import Worker
from forecaster.web.metrics import metrics_encoder
from forecaster.web.service import STALE_SECONDS, Service


class World:
    """A worker that serves one partition, and what its HTTP says."""

    def __init__(self, **options: float) -> None:
        self.kafka, self.clock = FakeKafka(), FakeClock()
        self.client = FakeClient(self.kafka)
        self.worker: Worker = setup(clock=self.clock, deadline=1_000.0, **options).worker(self.client)
        self.service = Service("worker", "readings", "group", Watchdog(Pulse(), lambda _: None))
        self.service.monitor = self.worker.monitor
        self.hour = 0
        while self.client.paused:
            self.step()
        self.step(readings=1)  # the group has a committed offset

    def step(self, *, seconds: float = 1.0, readings: int = 0) -> str:
        """Let the clock and the worker go on, and return why it is not ready."""
        self.kafka.hours(0, range(self.hour, self.hour + readings))
        self.hour += readings
        self.clock.advance(seconds)
        self.worker.iterate()
        return self.service.unready

    def metric(self, name: str) -> str:
        lines = metrics_encoder(self.service)().decode().splitlines()
        return next(line.split()[-1] for line in lines if line.startswith(f"forecaster_{name}"))


def test_it_is_not_ready_while_transactions_fail_in_a_row_and_ready_again_after_the_next_commit() -> None:
    world = World()
    world.client.failures = ["dropped"] * FAILURES_IN_A_ROW
    unready = [world.step(readings=1) for _ in range(FAILURES_IN_A_ROW)]
    assert unready[:-1] == [""] * (FAILURES_IN_A_ROW - 1)
    assert "3 transactions in a row have failed" in unready[-1]
    assert "as told" in unready[-1], "the reason of the last failure"
    assert world.metric("transaction_failures_in_a_row") == "3.0"
    assert not world.step()
    assert world.metric("transaction_failures_in_a_row") == "0.0"


def test_it_is_not_ready_when_a_single_failure_lasts() -> None:
    trouble = Trouble(failed_in_a_row=1, failing_seconds=FAILING_SECONDS, failure="too large")
    assert trouble.reason == "1 transaction has failed, for 10 s; the last: too large"
    assert not Trouble(failed_in_a_row=1, failing_seconds=FAILING_SECONDS - 1, failure="too large").reason


@pytest.mark.parametrize("failure", ["happened", "dropped"])
def test_a_failure_is_forgotten_when_nothing_is_left_to_commit(failure: str) -> None:
    """A batch that was committed all the same is not repeated, nor is one whose partition was revoked."""
    world = World()
    world.client.failures = [failure]
    world.step(readings=1)
    if failure == "dropped":
        world.client.revoke([0])
    assert not any(world.step(seconds=FAILING_SECONDS) for _ in range(5))
    assert world.metric("transaction_failures_in_a_row") == "0.0"


def test_a_failure_of_long_ago_does_not_shorten_the_outage_deadline() -> None:
    world = World()
    world.client.failures = ["dropped"]
    world.step(readings=1)
    world.client.revoke([0])
    world.step(seconds=2_000.0)
    world.client.assign([0])
    while world.client.paused:
        world.step()
    world.client.failures = ["dropped"]
    world.step(readings=1)
    assert not world.step()
    assert world.kafka.offsets[0] == world.kafka.ends["readings", 0]


def test_failures_of_state_alone_are_not_forgotten() -> None:
    world = World(snapshot_seconds=60.0)
    world.client.failures = ["dropped"] * FAILURES_IN_A_ROW
    unready = [world.step(seconds=30.0) for _ in range(FAILURES_IN_A_ROW + 1)]
    assert "3 transactions in a row have failed" in unready[-1]
    assert not world.step()


def test_a_failure_is_named_also_while_the_worker_waits_for_the_broker() -> None:
    world = World()
    world.client.failures = ["dropped"] * FAILURES_IN_A_ROW
    for _ in range(FAILURES_IN_A_ROW):
        world.step(readings=1)
    world.clock.advance(STALE_SECONDS + 1)
    assert "no batch was finished" in world.service.unready
    assert "as told" in world.service.unready


def test_it_is_not_ready_when_records_wait_for_a_minute_and_nothing_is_committed() -> None:
    world = World()
    world.client.pause([0])  # as a client does that no longer fetches
    assert not world.step(readings=4)
    assert not world.step(seconds=STANDSTILL_SECONDS - 1)
    assert "partitions 0: records wait" in world.step()
    assert float(world.metric('waiting_seconds{partition="0"}')) == STANDSTILL_SECONDS
    world.client.resume([0])
    assert not world.step()


def test_records_of_an_open_transaction_do_not_wait() -> None:
    """They can be read only when the transaction ends, after minutes if a Flink job writes the input."""
    world = World()
    world.kafka.open_from[0] = world.kafka.ends["readings", 0]
    assert not world.step(readings=4)
    assert not world.step(seconds=2 * STANDSTILL_SECONDS)
    assert not world.step(seconds=2 * STANDSTILL_SECONDS)
    assert world.metric('waiting_seconds{partition="0"}') == "0.0"
    assert world.metric('lag_records{partition="0"}') == "4.0", "operators see them"
    world.kafka.open_from.clear()
    assert not world.step()
    assert world.metric('lag_records{partition="0"}') == "0.0"
    assert world.kafka.offsets[0] == world.kafka.ends["readings", 0]


def test_a_failure_is_forgotten_although_a_transaction_of_the_input_is_open() -> None:
    world = World()
    world.client.failures = ["happened"]
    world.kafka.open_from[0] = world.kafka.ends["readings", 0] + 1
    world.step(readings=4)
    assert not any(world.step(seconds=FAILING_SECONDS) for _ in range(5))


def status(position: int, end: int, state: PartitionState = PartitionState.SERVING, number: int = 0) -> PartitionStatus:
    return PartitionStatus(number, state, position=position, end=end, readable_end=end)


def test_records_wait_from_the_last_commit_on() -> None:
    clock = FakeClock()
    waiting = WaitingRecords(clock)
    assert waiting.seconds([status(5, 9), status(3, 3, number=1)]) == {0: 0.0}
    clock.advance(40)
    assert waiting.seconds([status(5, 12), status(3, 4, number=1)]) == {0: 40.0, 1: 0.0}
    clock.advance(40)
    assert waiting.seconds([status(6, 12), status(3, 5, number=1)]) == {0: 0.0, 1: 40.0}, "one partition went on"
    clock.advance(1)
    assert waiting.seconds([status(12, 12), status(3, 5, number=1)]) == {1: 41.0}, "nothing waits in the other"


@pytest.mark.parametrize("state", [PartitionState.RESTORING, PartitionState.HELD])
def test_records_of_a_partition_that_does_not_serve_are_not_counted(state: PartitionState) -> None:
    clock = FakeClock()
    waiting = WaitingRecords(clock)
    waiting.seconds([status(5, 9, state)])
    clock.advance(100)
    assert not waiting.seconds([status(5, 9, state)])


def test_a_standstill_names_its_partitions() -> None:
    waiting = {3: STANDSTILL_SECONDS, 1: 75.0, 2: STANDSTILL_SECONDS - 1}
    assert Trouble(waiting_seconds=waiting).reason == "partitions 1, 3: records wait, but none was committed for 75 s"


def test_trouble_is_logged_when_it_begins_and_when_it_ends() -> None:
    world = World()
    world.client.failures = ["dropped"] * 5
    with capture_logs() as logs:
        for _ in range(7):
            world.step(readings=1)
    events = [entry["event"] for entry in logs if entry["event"].startswith("worker_")]
    assert events == ["worker_not_ready", "worker_ready_again"]
    assert "as told" in next(entry["reason"] for entry in logs if entry["event"] == "worker_not_ready")
