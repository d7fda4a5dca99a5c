"""A loop that hangs ends the process; one that waits does not."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from daemons import wait_until

from forecaster.app import watchdog
from forecaster.app.watchdog import DEADLINE_SECONDS, SICK_SECONDS, Pulse, Watchdog
from forecaster.broker.retry import retry
from forecaster.errors import BrokerUnavailable, TransientBrokerError


class Watched:
    """A pulse and what the watchdog did."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.pulse = Pulse()
        self.dog = Watchdog(self.pulse, self.codes.append)

    def look(self, times: float) -> None:
        for _ in range(int(times)):
            self.dog.look()


def test_a_silent_loop_is_sick_first_and_ends_with_exit_code_7_then() -> None:
    one = Watched()
    one.look(SICK_SECONDS)
    assert one.dog.is_alive
    one.look(1)
    assert not one.dog.is_alive
    assert not one.codes
    one.look(DEADLINE_SECONDS - SICK_SECONDS)
    assert one.codes == [7]


def test_what_every_thread_does_is_written_as_soon_as_it_is_sick(capfd: pytest.CaptureFixture[str]) -> None:
    one = Watched()
    one.look(SICK_SECONDS)
    assert "Thread" not in capfd.readouterr().err
    one.look(1)
    assert "test_watchdog.py" in capfd.readouterr().err


def test_a_blocked_log_does_not_keep_it_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    one, written = Watched(), threading.Event()
    monkeypatch.setattr(watchdog, "LAST_WORDS_SECONDS", 0.1)
    one.look(SICK_SECONDS + 1)
    monkeypatch.setattr(watchdog, "_log", SimpleNamespace(error=lambda *_, **__: written.wait(30)))
    looking = threading.Thread(target=one.look, args=(DEADLINE_SECONDS - SICK_SECONDS,))
    looking.start()
    wait_until(lambda: one.codes == [7], "the end", 10)
    written.set()
    looking.join()


def test_who_asks_whether_to_end_is_alive_for_ever() -> None:
    one = Watched()
    for _ in range(20):
        one.look(SICK_SECONDS - 1)
        assert not one.pulse.is_set()
    assert one.dog.is_alive
    assert not one.codes


def test_waiting_for_a_broker_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Watched()
    monkeypatch.setattr(threading.Event, "wait", lambda *_: False)

    def away() -> None:
        one.look(SICK_SECONDS - 1)
        raise TransientBrokerError("away")

    with pytest.raises(BrokerUnavailable):
        retry(away, "asking", 0.2, one.pulse)
    assert one.dog.is_alive
    assert not one.codes


def test_the_pulse_is_an_event() -> None:
    pulse = Pulse()
    threading.Timer(0.05, pulse.set).start()
    assert pulse.wait(10)
    assert pulse.is_set()
