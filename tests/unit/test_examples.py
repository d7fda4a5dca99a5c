"""The example of all settings is what the program says, and the program takes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forecaster.examples import example_environment
from forecaster.settings import load_settings

EXAMPLE = Path(__file__).parents[2] / "config" / "forecaster.env"


def test_the_example_is_generated() -> None:
    assert EXAMPLE.read_text() == example_environment(), "python -m forecaster.examples > config/forecaster.env"


def test_the_example_uncommented_means_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FORECASTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FORECASTER_KAFKA__BOOTSTRAP_SERVERS", "localhost:9092")
    monkeypatch.setenv("FORECASTER_TOPICS__INPUT", "readings")
    defaults = load_settings()
    for line in EXAMPLE.read_text().splitlines():
        assignment = line.removeprefix("#")
        if assignment.startswith("FORECASTER_"):
            name, _, value = assignment.partition("=")
            monkeypatch.setenv(name, value)
    assert load_settings() == defaults
