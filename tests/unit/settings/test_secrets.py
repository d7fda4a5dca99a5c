"""No error about settings shows a secret, wherever an operator has put it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forecaster import redaction
from forecaster.cli import commands
from forecaster.errors import UsageError
from forecaster.redaction import KNOWN_SECRETS, Redactor
from forecaster.settings import environment, load_settings

SECRET = "hunter2-S3CR3T"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[Redactor]:
    """Nothing is set but what is required, and no secret is known from another test."""
    for name in list(os.environ):
        if name.startswith("FORECASTER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FORECASTER_KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("FORECASTER_TOPICS__INPUT", "readings")
    known = Redactor()
    for module in (redaction, environment):
        monkeypatch.setattr(module, "KNOWN_SECRETS", known)
    yield known
    assert KNOWN_SECRETS is not known


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("KAFKA__SASL_PASSWROD", SECRET, "the nearest is FORECASTER_KAFKA__SASL_PASSWORD"),
        ("KAFKA_SASL_PASSWORD", SECRET, "the nearest is FORECASTER_KAFKA__SASL_PASSWORD"),
        ("KAFKA__SASL_PASSWORD__X", SECRET, "no such variable"),
        ("KAFKA__SASL_PASSWORD_FILE", SECRET, "cannot be read"),
        ("KAFKA__SSL_KEYFILE", SECRET, "cannot be read"),
        ("KAFKA__SSL_KEYFILE", f"-----BEGIN PRIVATE KEY-----\n{SECRET}", "cannot be read"),
        ("KAFKA__SSL_CERTFILE", f"{SECRET}\0", "cannot be read"),
        ("KAFKA__SASL_MECHANISM", SECRET, "SCRAM-SHA-256"),
        ("KAFKA__SECURITY_PROTOCOL", SECRET, "SASL_SSL"),
        ("KAFKA__OPTIONS", SECRET, "JSON object"),
        ("KAFKA__OPTIONS", f'{{"sasl_plain_password": "{SECRET}"', "JSON object"),
        ("KAFKA__OPTIONS", f'["{SECRET}"]', "dictionary"),
        ("KAFKA__BOOTSTRAP_SERVERS", f"app:{SECRET}@a:1", "FORECASTER_KAFKA__SASL_PASSWORD"),
        ("KAFKA__BOOTSTRAP_SERVERS", f"a:1,SASL_SSL://app:{SECRET}@b:2", "FORECASTER_KAFKA__SASL_PASSWORD"),
        ("KAFKA", f'{{"sasl_password": "{SECRET}"}}', "FORECASTER_KAFKA__"),
        ("HTTP__PORT", f"app:{SECRET}@a", "integer"),
    ],
)
def test_an_error_names_the_variable_and_not_the_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, part: str
) -> None:
    if "\0" in value:
        monkeypatch.setattr(os, "environ", {**os.environ, f"FORECASTER_{variable}": value})
    else:
        monkeypatch.setenv(f"FORECASTER_{variable}", value)
    with pytest.raises(UsageError, match=part) as error:
        load_settings()
    assert f"FORECASTER_{variable}" in str(error.value)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None, "a traceback would show it"


def test_a_wrong_path_and_a_wrong_number_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECASTER_KAFKA__SSL_CAFILE", "/nothing/ca.pem")
    monkeypatch.setenv("FORECASTER_SERIES__INTERVAL", "15 minutes")
    with pytest.raises(UsageError, match=r"(?s)/nothing/ca.pem.*15 minutes"):
        load_settings()


def test_the_settings_make_their_secrets_known(
    monkeypatch: pytest.MonkeyPatch, clean: Redactor, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{SECRET}-file\n")
    monkeypatch.setenv("FORECASTER_KAFKA__SASL_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("FORECASTER_KAFKA__SSL_PASSWORD", f"{SECRET}-key")
    monkeypatch.setenv("FORECASTER_KAFKA__OPTIONS", f'{{"proxy_url": "socks5://user:{SECRET}-proxy@host:1080"}}')
    load_settings()
    for secret in (f"{SECRET}-file", f"{SECRET}-key", f"{SECRET}-proxy"):
        assert clean.hide(secret) == "(hidden)"
    assert clean.hide(str(tmp_path / "password")) == str(tmp_path / "password"), "a path is no secret"


def test_a_secret_is_known_even_if_another_setting_is_wrong(monkeypatch: pytest.MonkeyPatch, clean: Redactor) -> None:
    monkeypatch.setenv("FORECASTER_KAFKA__SASL_PASSWORD", SECRET)
    monkeypatch.setenv("FORECASTER_SERIES__INTERVAL", SECRET)
    with pytest.raises(UsageError) as error:
        load_settings()
    assert SECRET not in str(error.value)
    assert clean.hide(SECRET) == "(hidden)"


@pytest.mark.parametrize(("error", "code"), [(UsageError(SECRET), 2), (RuntimeError(SECRET), 1)])
def test_a_command_that_fails_prints_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clean: Redactor, error: Exception, code: int
) -> None:
    def fail() -> None:
        raise error

    clean.add([SECRET])
    monkeypatch.setattr(commands, "commands", fail)
    with pytest.raises(SystemExit) as end:
        commands.main()
    assert end.value.code == code
    printed = capsys.readouterr().err
    assert SECRET not in printed
    assert "(hidden)" in printed
