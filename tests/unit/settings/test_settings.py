"""Settings: names, defaults, and errors that name the variable, its value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecaster.errors import UsageError
from forecaster.settings import Settings, load_settings, variables


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("FORECASTER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FORECASTER_KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("FORECASTER_TOPICS__INPUT", "readings")


def load(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in changes.items():
        monkeypatch.setenv(f"FORECASTER_{name}", value)
    return load_settings()


def test_defaults_are_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert settings.kafka.group_id == "forecaster"
    assert settings.kafka.session_timeout == 15_000
    assert settings.topics.named("dead_letters") == "readings.dead-letters"
    assert settings.series.interval == 0
    assert settings.series.max_gap == 86_400_000
    assert settings.forecast.mode == "many-to-many"
    assert settings.forecast.horizon == 24
    assert settings.forecast.quantile_levels == (0.1, 0.5, 0.9)
    assert (settings.network.cell, settings.network.hidden_size, settings.network.context) == ("gru", 64, 96)
    assert settings.denoise.chain == ("range", "hampel")
    assert (settings.training.tbptt_steps, settings.training.dropout, settings.training.l2) == (48, 0.5, 0.1)
    assert settings.http.port == 8080
    assert settings.role == "both"


def test_values_of_every_type_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        SERIES__INTERVAL="15m",
        SERIES__MAX_GAP="7d",
        FORECAST__QUANTILE_LEVELS="0.05, 0.5,0.95",
        INPUT__VALUE_FIELDS="flow,temperature",
        DENOISE__CHAIN="",
        DENOISE__RANGE="-40,60",
        DENOISE__SENTINELS="-9999,-200",
        HTTP__PORT="",
        SERIES__SEASONALITIES="1h, 1d",
        NETWORK__CONVOLUTION="5",
        KAFKA__OPTIONS='{"linger_ms": 3}',
        ROLE="worker",
    )
    assert settings.series.interval == 900_000
    assert settings.series.max_gap == 7 * 86_400_000
    assert settings.series.seasonalities == (3_600_000, 86_400_000)
    assert settings.forecast.quantile_levels == (0.05, 0.5, 0.95)
    assert settings.input.value_fields == ("flow", "temperature")
    assert settings.denoise.chain == ()
    assert settings.denoise.range == (-40.0, 60.0)
    assert settings.denoise.sentinels == (-9999.0, -200.0)
    assert settings.http.port is None
    assert settings.network.convolution == 5
    assert settings.kafka.options == {"linger_ms": 3}
    assert settings.role == "worker"


WRONG = [
    ("FORECAST__HORIZON", "0", "greater than or equal to 1"),
    ("FORECAST__HORIZON", "many", "integer"),
    ("FORECAST__MODE", "many", "many-to-one"),
    ("FORECAST__QUANTILE_LEVELS", "0.9,0.1", "ascending"),
    ("NETWORK__CELL", "transformer", "lstm"),
    ("NETWORK__HIDDEN_SIZE", "20", "multiple of 8"),
    ("SERIES__INTERVAL", "1 hour", "15m"),
    ("DENOISE__CHAIN", "range,median", "hampel"),
    ("DENOISE__RANGE", "60,-40", "-40,60"),
    ("INPUT__VALUE_FIELDS", "flow,flow", "twice"),
    ("KAFKA__SSL_CAFILE", "/nowhere/ca.pem", "cannot be read"),
    ("ROLE", "boss", "worker"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_a_wrong_value_names_variable_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load(monkeypatch, **{name: value})
    message = str(caught.value)
    assert f"FORECASTER_{name}" in message
    assert allowed in message
    assert value.split(",")[-1] in message


def test_an_unknown_variable_names_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="FORECASTER_NETWORK__HIDDEN_SIZE"):
        load(monkeypatch, NETWORK__HIDEN_SIZE="32")


@pytest.mark.parametrize(("given", "missing"), [({}, "SASL_MECHANISM"), ({"MECHANISM": "PLAIN"}, "SASL_USERNAME")])
def test_an_incomplete_login_is_refused(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], missing: str) -> None:
    login = {f"KAFKA__SASL_{name}": value for name, value in given.items()}
    with pytest.raises(UsageError, match=f"FORECASTER_KAFKA__{missing}: is required"):
        load(monkeypatch, KAFKA__SECURITY_PROTOCOL="SASL_SSL", **login)


def test_options_that_cannot_be_parsed_are_hidden_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"FORECASTER_KAFKA__OPTIONS.*JSON object") as caught:
        load(monkeypatch, KAFKA__OPTIONS="{'ssl_password': 'hunter2'}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["ROEL", "ROLES", "RULE"])
def test_a_misspelt_role_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(UsageError, match="the nearest is FORECASTER_ROLE"):
        load(monkeypatch, **{name: "worker"})


def test_a_single_underscore_instead_of_two_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="FORECASTER_DENOISE__RANGE"):
        load(monkeypatch, DENOISE_RANGE="0,1")


def test_a_command_without_a_broker_works_with_some_variables_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA__BOOTSTRAP_SERVERS", "TOPICS__INPUT"):
        monkeypatch.delenv(f"FORECASTER_{name}")
    monkeypatch.setenv("FORECASTER_KAFKA__GROUP_ID", "mine")
    settings = load_settings(kafka={"bootstrap_servers": "none"}, topics={"input": "none"})
    assert (settings.kafka.group_id, settings.kafka.bootstrap_servers) == ("mine", "none")


@pytest.mark.parametrize("name", ["TEST__X", "SERVICE_HOST", "PORT_8080_TCP", "PORT__X", "METRICS_SERVICE_HOST"])
def test_variables_of_kubernetes_and_of_tests_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    load(monkeypatch, **{name: "x"})


@pytest.mark.parametrize("name", ["KAFKA__BOOTSTRAP_SERVERS", "TOPICS__INPUT"])
def test_a_missing_required_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(f"FORECASTER_{name}")
    with pytest.raises(UsageError, match=f"FORECASTER_{name}"):
        load_settings()


def test_secrets_come_from_files_and_are_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    settings = load(monkeypatch, KAFKA__SASL_PASSWORD_FILE=str(tmp_path / "password"))
    assert settings.kafka.sasl_password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)
    with pytest.raises(UsageError, match="KAFKA__SASL_PASSWORD_FILE"):
        load(monkeypatch, KAFKA__SASL_PASSWORD_FILE=str(tmp_path / "nothing"))


def test_every_variable_can_be_set_by_its_name() -> None:
    assert "FORECASTER_STATE__ON_LOST_INPUT" in variables()
    assert variables()["FORECASTER_ROLE"] == ("", "role")
