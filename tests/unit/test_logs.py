"""Log lines: other libraries do not flood the log."""

from __future__ import annotations

import logging

import pytest
from clock import FakeClock

from forecaster.logs import REMEMBERED_MESSAGES, REPEAT_SECONDS, RepeatFilter, configure_logs


def test_a_message_that_is_repeated_is_written_once_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = FakeClock()
    configure_logs("INFO", "json", clock)
    client = logging.getLogger("kafka.net")
    for number in range(50):
        client.error("connection %d failed", number)
        client.error("authentication failed")
    assert capsys.readouterr().err.count("\n") == 2
    clock.advance(REPEAT_SECONDS)
    client.error("connection %d failed", 51)
    assert "connection 51 failed" in capsys.readouterr().err


def test_at_debug_everything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("DEBUG", "json")
    for number in range(50):
        logging.getLogger("kafka.net").debug("sent %d", number)
    assert capsys.readouterr().err.count("sent") == 50


def test_the_memory_of_written_messages_is_bounded() -> None:
    repeats = RepeatFilter()
    for number in range(3 * REMEMBERED_MESSAGES):
        text = "x" * number
        assert repeats.filter(logging.LogRecord("kafka", logging.ERROR, "client.py", 1, text, None, None))
    assert len(repeats._written_at) <= REMEMBERED_MESSAGES  # noqa: SLF001
