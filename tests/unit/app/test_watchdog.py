"""A loop that hangs ends the process; one that waits for a broker does not."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from clock import FakeClock
from daemons import wait_until

from forecaster.app import watchdog
from forecaster.app.watchdog import DEADLINE_SECONDS, SICK_SECONDS, Pulse, Watchdog
from forecaster.broker.retry import retry
from forecaster.errors import BrokerUnavailable, TransientBrokerError


class Watched:
    """A watchdog, its pulse, and the exit codes that it ended the process with."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.pulse = Pulse()
        self.watchdog = Watchdog(self.pulse, self.codes.append)

    def pass_seconds(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.watchdog.tick()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_silent_loop_first_counts_as_hanging_then_ends_with_exit_code_7(watched: Watched) -> None:
    watched.pass_seconds(SICK_SECONDS)
    assert watched.watchdog.is_alive
    watched.pass_seconds(1)
    assert not watched.watchdog.is_alive
    assert not watched.codes
    watched.pass_seconds(DEADLINE_SECONDS - SICK_SECONDS)
    assert watched.codes == [7]


def test_the_stacks_of_all_threads_are_written_once_the_loop_hangs(
    watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    watched.pass_seconds(SICK_SECONDS)
    assert "Thread" not in capfd.readouterr().err
    watched.pass_seconds(1)
    assert "test_watchdog.py" in capfd.readouterr().err


def test_a_blocked_log_does_not_keep_the_process_alive(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    written = threading.Event()
    monkeypatch.setattr(watchdog, "DUMP_SECONDS", 0.1)
    watched.pass_seconds(SICK_SECONDS + 1)
    monkeypatch.setattr(watchdog, "_log", SimpleNamespace(error=lambda *_, **__: written.wait(30)))
    looking = threading.Thread(target=watched.pass_seconds, args=(DEADLINE_SECONDS - SICK_SECONDS,))
    looking.start()
    wait_until(lambda: watched.codes == [7], "the end", 10)
    written.set()
    looking.join()


def test_a_loop_that_looks_at_its_pulse_stays_alive(watched: Watched) -> None:
    for _ in range(20):
        watched.pass_seconds(SICK_SECONDS - 1)
        assert not watched.pulse.is_set()
    assert watched.watchdog.is_alive
    assert not watched.codes


def test_waiting_for_a_broker_is_not_silence(watched: Watched) -> None:
    clock = FakeClock()

    def unavailable() -> None:
        watched.pass_seconds(SICK_SECONDS - 1)
        clock.advance(SICK_SECONDS - 1)
        raise TransientBrokerError("no broker")

    with pytest.raises(BrokerUnavailable):
        retry(unavailable, "asking", 3 * SICK_SECONDS, watched.pulse, clock)
    assert watched.watchdog.is_alive
    assert not watched.codes


def test_the_pulse_is_an_event() -> None:
    pulse = Pulse()
    threading.Timer(0.05, pulse.set).start()
    assert pulse.wait(10)
    assert pulse.is_set()
