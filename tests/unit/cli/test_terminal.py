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
