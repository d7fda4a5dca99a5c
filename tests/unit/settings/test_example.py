"""The generated files in config/ are up to date, and the program accepts the settings in them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from forecaster.app.sizing import row_bytes, sizing_table
from forecaster.settings import load_settings, variables
from forecaster.settings.example import as_written, example_environment
from forecaster.settings.groups import NetworkSettings
from forecaster.web.reference import metrics_reference

CONFIG = Path(__file__).parents[3] / "config"
EXAMPLE = CONFIG / "forecaster.env"


def test_the_list_of_settings_is_up_to_date() -> None:
    assert EXAMPLE.read_text() == example_environment(), "python -m forecaster.settings.example > config/forecaster.env"


def test_every_variable_has_a_description() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.removeprefix("#").startswith("FORECASTER_"):
            assert before.startswith("# "), line
            assert before.endswith("."), line
            assert "None" not in before


def test_the_list_of_metrics_is_up_to_date() -> None:
    wanted = "python -m forecaster.web.reference > config/metrics.md"
    assert (CONFIG / "metrics.md").read_text() == metrics_reference(), wanted


def test_the_sizing_table_is_up_to_date() -> None:
    wanted = "python -m forecaster.app.sizing > config/sizing.md"
    assert (CONFIG / "sizing.md").read_text() == sizing_table(), wanted


@pytest.mark.parametrize("profile", ["laptop", "small", "fleet"])
def test_every_profile_is_accepted(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FORECASTER_")]:
        monkeypatch.delenv(name)
    lines = (CONFIG / f"{profile}.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(given) <= set(variables())
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.topics.input == "readings"
    if profile == "fleet":
        assert row_bytes(settings) < row_bytes(settings.model_copy(update={"network": NetworkSettings()}))


def test_values_are_shown_as_operators_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FORECASTER_")]:
        monkeypatch.delenv(name)
    given = {
        "FORECASTER_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092",
        "FORECASTER_TOPICS__INPUT": "readings",
        "FORECASTER_SERIES__INTERVAL": "1s",
        "FORECASTER_SERIES__SEASONALITIES": "1m,1h",
        "FORECASTER_DENOISE__CHAIN": "range,kalman",
        "FORECASTER_DENOISE__RANGE": "-40,60",
        "FORECASTER_DENOISE__SENTINELS": "-999",
        "FORECASTER_TRAINING__WINDOW": "7d",
        "FORECASTER_TOPICS__CREATE": "false",
        "FORECASTER_HTTP__PORT": "",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    written = {
        variable: as_written(group, name, getattr(getattr(settings, group) if group else settings, name))
        for variable, (group, name) in variables().items()
    }
    assert {name: written[name] for name in given} == given


def test_an_option_that_may_hold_a_secret_is_hidden() -> None:
    options = {"linger_ms": 3, "socks5_proxy": "socks5://me:hunter2@proxy", "ssl_password": "hunter2"}
    written = as_written("kafka", "options", options)
    assert "hunter2" not in written
    assert '"linger_ms": 3' in written


def test_the_list_of_settings_without_comment_signs_has_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
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
