"""Calls that may never return."""

from __future__ import annotations

import threading

import pytest

from forecaster.broker import call_thread
from forecaster.broker.call_thread import CallThread, NoAnswer


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_thread, "LOOK_SECONDS", 0.01)


def test_a_call_returns_or_raises_as_it_does_itself() -> None:
    calls, done = CallThread(), threading.Event()
    calls.run(done.set, 5.0)
    assert done.is_set()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        calls.run(fail, 5.0)
    calls.end()


def test_a_call_beyond_its_deadline_is_given_up_and_ends_before_the_last_one() -> None:
    calls, answer, order = CallThread(), threading.Event(), list[str]()
    last = threading.Event()

    def late() -> None:
        answer.wait(10.0)
        order.append("late")

    with pytest.raises(NoAnswer, match="did not answer"):
        calls.run(late, 0.02)

    def close() -> None:
        order.append("last")
        last.set()

    calls.end(close)
    answer.set()
    assert last.wait(10.0)
    assert order == ["late", "last"]


def test_a_look_can_give_a_call_up() -> None:
    calls, answer = CallThread(), threading.Event()

    def refuse() -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        calls.run(lambda: answer.wait(10.0), 60.0, refuse)
    answer.set()
    calls.end()
