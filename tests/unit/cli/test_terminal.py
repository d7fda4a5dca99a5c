"""Output of commands."""

from __future__ import annotations

import pytest
from rich.table import Table

from forecaster.cli.terminal import console


def test_output_to_a_pipe_is_not_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    topic, settings = "measurements-of-all-plants.dead-letters", "cleanup.policy=compact, segment.bytes=67108864"
    table = Table("topic", "purpose", "partitions", "settings")
    table.add_row(topic, "what could not be read", "12", settings)
    console().print(table)
    printed = capsys.readouterr().out
    assert topic in printed
    assert settings in printed


def test_text_of_others_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Not in a table, a caption or a sentence."""
    hostile = "pump\x1b[2J\x07\r\x9b31m\u202e:fan:7"
    table = Table("series", "value", caption=f"of {hostile}")
    table.add_row(hostile, "1")
    console().print(table)
    console().print(hostile, markup=False)
    printed = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in printed)
    assert printed.count(r"pump\x1b[2J\x07\r\x9b31m\u202e:fan:7") == 3
