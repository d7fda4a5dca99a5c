"""Logs: one event a change, and nobody else's flood."""

from __future__ import annotations

import logging

import pytest

from forecaster.logs import MOST_WORDS, SELDOM_SECONDS, Seldom, configure_logs


def test_a_library_that_repeats_itself_is_heard_once_in_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("forecaster.logs.time.monotonic", lambda: now[0])
    configure_logs("INFO", "json")
    client = logging.getLogger("kafka.net")
    for number in range(50):
        client.error("connection %d failed", number)
        client.error("authentication failed")
    assert capsys.readouterr().err.count("\n") == 2
    now[0] += SELDOM_SECONDS
    client.error("back again")
    assert "back again" in capsys.readouterr().err


def test_at_debug_everything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("DEBUG", "json")
    for number in range(50):
        logging.getLogger("kafka.net").debug("sent %d", number)
    assert capsys.readouterr().err.count("sent") == 50


def test_what_was_said_is_not_remembered_without_end() -> None:
    seldom = Seldom()
    for number in range(3 * MOST_WORDS):
        text = "x" * number
        assert seldom.filter(logging.LogRecord("kafka", logging.ERROR, "client.py", 1, text, None, None))
    assert len(seldom._said) <= MOST_WORDS  # noqa: SLF001
