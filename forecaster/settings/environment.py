"""Settings from environment variables named `FORECASTER_<GROUP>__<NAME>`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from forecaster.errors import UsageError
from forecaster.redaction import HIDDEN, KNOWN_SECRETS, SECRET_NAME, secrets_in
from forecaster.settings.groups import (
    Cache,
    DeadLetters,
    Denoise,
    Forecast,
    Http,
    Input,
    Kafka,
    Log,
    NetworkSettings,
    Series,
    SettingsGroup,
    State,
    Topics,
    Training,
)

PREFIX = "FORECASTER_"
SENSITIVE = tuple(f"{PREFIX}KAFKA__{name}" for name in ("SASL_", "SECURITY_PROTOCOL", "OPTIONS"))
"""Beginnings of variables into which a secret may have been put; errors do not show their values."""
_FOREIGN = re.compile(r"FORECASTER_(TEST_|SERVICE_|PORT)")
"""Variables of the tests, and those that Kubernetes sets for a service named forecaster."""


class Settings(BaseSettings):
    """Everything that an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        enable_decoding=False,
        use_attribute_docstrings=True,
    )

    role: Literal["worker", "trainer", "both"] = "both"
    """worker = forecasts; trainer = trains the network for all workers of the consumer group;
    both = one process does both."""
    kafka: Kafka
    topics: Topics
    input: Input = Input()
    series: Series = Series()
    forecast: Forecast = Forecast()
    network: NetworkSettings = NetworkSettings()
    denoise: Denoise = Denoise()
    training: Training = Training()
    state: State = State()
    dead_letters: DeadLetters = DeadLetters()
    cache: Cache = Cache()
    http: Http = Http()
    log: Log = Log()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - named by pydantic-settings
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - named by pydantic-settings
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of values, the first one wins: arguments, then the environment."""
        return (init_settings, _Environment(settings_cls, env_settings))


class _Environment(PydanticBaseSettingsSource):
    """The variables of the environment, and the secrets in the files that `..._FILE` variables name."""

    def __init__(self, settings_cls: type[BaseSettings], variables_source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._variables = variables_source

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Return no value: `__call__` reads all groups at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        groups = self._variables()
        for variable, (group, name) in _secret_files().items():
            if variable not in os.environ:
                continue
            try:
                secret = Path(os.environ[variable]).read_text().strip()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "it holds no text"
                raise UsageError(
                    f"{variable}: the file cannot be read: {reason}; name a file that holds the secret"
                ) from None
            groups[group].pop(f"{name}_file", None)
            groups[group][name] = secret
        return groups


def load_settings(**defaults: Any) -> Settings:
    """Return the settings of the environment.

    Args:
        defaults: groups as dicts; a value counts if the environment does not set its variable. Commands that need
            no broker fill required variables in this way.

    From now on, the secrets among them are hidden in everything that this process writes.

    Raises:
        UsageError: a variable is unknown, missing or wrong; the message names it, its value unless it can hold a
            secret, and what is allowed.
    """
    KNOWN_SECRETS.add(value for name, value in os.environ.items() if _holds_secret(name.upper()))
    _refuse_unknown()
    try:
        filled: dict[str, Any] = {group: _unset(group, values) for group, values in defaults.items()}
        settings = Settings(**filled)
    except ValidationError as error:
        raise UsageError("\n".join(_explanation(part) for part in error.errors(include_url=False))) from None
    KNOWN_SECRETS.add(_secrets(settings.kafka))
    _refuse_incomplete_login(settings.kafka)
    return settings


def variables() -> dict[str, tuple[str, str]]:
    """Return every variable with its group and the name in the group; an empty group = none."""
    names: dict[str, tuple[str, str]] = {}
    for group, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsGroup):
            for name in field.annotation.model_fields:
                names[f"{PREFIX}{group}__{name}".upper()] = (group, name)
        else:
            names[f"{PREFIX}{group}".upper()] = ("", group)
    return names


def _secret_files() -> dict[str, tuple[str, str]]:
    """Return the variables that name files of secrets, with the group and the name of the secret."""
    return {
        f"{variable}_FILE": (group, name)
        for variable, (group, name) in variables().items()
        if group and SecretStr in (_annotation(group, name), *get_args(_annotation(group, name)))
    }


def _holds_secret(variable: str) -> bool:
    """Return whether a variable holds a secret by its name, which may be misspelt; one that names a file does not."""
    return variable.startswith(PREFIX) and bool(SECRET_NAME.search(variable)) and not variable.endswith("_FILE")


def _secrets(kafka: Kafka) -> Iterator[str]:
    """Yield the secrets among the settings of Kafka."""
    for value in (getattr(kafka, name) for name in type(kafka).model_fields):
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    yield from secrets_in(kafka.options)


def _annotation(group: str, name: str) -> Any:
    model: Any = Settings.model_fields[group].annotation
    return model.model_fields[name].annotation


def _unset(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a group whose variables the environment does not set."""
    variables_set = {name.upper() for name in os.environ}
    return {name: value for name, value in values.items() if f"{PREFIX}{group}__{name}".upper() not in variables_set}


def _refuse_incomplete_login(kafka: Kafka) -> None:
    if kafka.security_protocol.startswith("SASL_"):
        for name in ("sasl_mechanism", "sasl_username"):
            if not getattr(kafka, name):
                protocol = f"{PREFIX}KAFKA__SECURITY_PROTOCOL={kafka.security_protocol}"
                raise UsageError(f"{PREFIX}KAFKA__{name.upper()}: is required with {protocol}")


def _refuse_unknown() -> None:
    """Raise UsageError for a variable that looks like a setting and is none; it is a misspelt one."""
    known = variables().keys() | _secret_files().keys()
    single_underscored = {name.replace("__", "_") for name in known}
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in known or _FOREIGN.match(name):
            continue
        if "__" not in name and name not in single_underscored and not _resembles_role(name):
            continue  # Kubernetes sets such variables for a service whose name begins with "forecaster-"
        nearest = difflib.get_close_matches(name, known, 1, 0.0)[0]
        raise UsageError(f"{variable}: there is no such variable; the nearest is {nearest}")


def _resembles_role(name: str) -> bool:
    return bool(difflib.get_close_matches(name.removeprefix(PREFIX), ["ROLE"], 1, 0.7))


def _explanation(error: Any) -> str:
    """Return one of pydantic's errors as a line that names the variable; secrets are left out."""
    place = [str(part).upper() for part in error["loc"][:2]]
    variable = PREFIX + "__".join(place)
    if error["type"] == "missing" and len(place) == 1:
        required = {"KAFKA": "KAFKA__BOOTSTRAP_SERVERS", "TOPICS": "TOPICS__INPUT"}
        return f"{PREFIX}{required.get(place[0], place[0])}: is required"
    if error["type"] == "missing":
        return f"{variable}: is required"
    if len(place) == 1 and place[0].lower() != "role":
        return f"{variable}: is a group of variables, each of which has a name that begins with {variable}__"
    return f"{variable}={_shown(variable, error['input'])}: {error['msg'].removeprefix('Value error, ')}"


def _shown(variable: str, value: Any) -> str:
    """Return a wrong value as an error shows it: hidden if it can be a secret, also one in the wrong variable.

    Paths are shown, but not what somebody has set instead: the key itself, say, or its password.
    """
    text = str(value)
    is_sensitive = _holds_secret(variable) or variable.startswith(SENSITIVE)
    is_no_path = variable.startswith(f"{PREFIX}KAFKA__SSL_") and not text.startswith(("/", "./", "../"))
    if is_sensitive or is_no_path or not isinstance(value, str | int | float) or "@" in text or "\n" in text:
        return HIDDEN
    return KNOWN_SECRETS.hide(repr(value))
