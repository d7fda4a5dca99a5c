"""Questions to the worker's thread take a bounded time between two batches, however many wait."""

from __future__ import annotations

from typing import cast

import pytest
from clock import FakeClock

from forecaster.serving.inspect import monitor
from forecaster.serving.inspect.monitor import Monitor, WorkerBusy, WorkerView

VIEW = cast(WorkerView, object())
"""What the worker shows; these questions do not look at it."""


@pytest.fixture
def asked() -> tuple[Monitor, FakeClock]:
    """Return a monitor whose status is fresh."""
    clock = FakeClock()
    fresh = Monitor(clock)
    fresh._due = clock() + 1_000  # noqa: SLF001
    return fresh, clock


def test_only_a_few_questions_are_answered_between_two_batches(asked: tuple[Monitor, FakeClock]) -> None:
    questions, _ = asked
    answers = [questions.ask(lambda view: view) for _ in range(monitor.MOST_WAITING)]
    for turn in range(1, 4):
        questions.refresh(VIEW)
        assert [answer.done() for answer in answers].index(False) == turn * monitor.MOST_AT_ONCE


def test_slow_answers_let_the_next_batch_begin_after_a_few_milliseconds(asked: tuple[Monitor, FakeClock]) -> None:
    questions, clock = asked
    answers = [questions.ask(lambda _: clock.advance(0.1)) for _ in range(4)]
    for turn in range(1, 4):
        questions.refresh(VIEW)
        assert sum(answer.done() for answer in answers) == turn


def test_more_questions_than_may_wait_are_refused(asked: tuple[Monitor, FakeClock]) -> None:
    questions, _ = asked
    for _ in range(monitor.MOST_WAITING):
        questions.ask(lambda _: None)
    with pytest.raises(WorkerBusy, match="wait for the worker already"):
        questions.ask(lambda _: None)


def test_a_question_that_nobody_waits_for_is_not_answered(asked: tuple[Monitor, FakeClock]) -> None:
    questions, _ = asked
    computed: list[int] = []
    questions.ask(lambda _: computed.append(1)).cancel()
    questions.ask(lambda _: computed.append(2))
    questions.refresh(VIEW)
    assert computed == [2]
