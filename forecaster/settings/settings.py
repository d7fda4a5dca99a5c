"""Settings from the environment: `FORECASTER_<GROUP>__<NAME>`. Nothing else reads it."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from forecaster.errors import UsageError
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
_IGNORED = re.compile(r"FORECASTER_(TEST_|SERVICE_|PORT)")


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        enable_decoding=False,
        use_attribute_docstrings=True,
    )

    role: Literal["worker", "trainer", "both"] = "both"
    """worker = forecasts, trainer = trains for the fleet, both."""
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
        """The environment, and what the secrets' files hold."""
        return (init_settings, _Environment(settings_cls, env_settings))


class _Environment(PydanticBaseSettingsSource):
    """The environment, with the secrets that its `..._FILE` variables name read from their files."""

    def __init__(self, settings_cls: type[BaseSettings], variables_source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._variables = variables_source

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Nothing: groups are read as a whole by `__call__`."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = self._variables()
        for variable, (group, name) in _secret_files().items():
            if variable not in os.environ:
                continue
            try:
                secret = Path(os.environ[variable]).read_text().strip()
            except OSError as error:
                raise UsageError(f"{variable}: {error}") from error
            found[group].pop(f"{name}_file", None)
            found[group][name] = secret
        return found


def load_settings(**given: Any) -> Settings:
    """Returns the settings of the environment.

    Args:
        given: groups as dicts, for commands that need no broker: they fill what the environment leaves out.

    Raises:
        UsageError: a variable is unknown or wrong; names it, its value and what is allowed.
    """
    _refuse_unknown()
    try:
        filled: dict[str, Any] = {group: _unset(group, values) for group, values in given.items()}
        settings = Settings(**filled)
    except ValidationError as error:
        raise UsageError("\n".join(_explained(one) for one in error.errors(include_url=False))) from None
    _refuse_half_a_login(settings.kafka)
    return settings


def variables() -> dict[str, tuple[str, str]]:
    """Returns every variable with its group and field; those without a group have ''."""
    found: dict[str, tuple[str, str]] = {}
    for group, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsGroup):
            for name in field.annotation.model_fields:
                found[f"{PREFIX}{group}__{name}".upper()] = (group, name)
        else:
            found[f"{PREFIX}{group}".upper()] = ("", group)
    return found


def _secret_files() -> dict[str, tuple[str, str]]:
    return {
        f"{variable}_FILE": place
        for variable, place in variables().items()
        if place[0] and SecretStr in (_annotation(*place), *get_args(_annotation(*place)))
    }


def _annotation(group: str, name: str) -> Any:
    model: Any = Settings.model_fields[group].annotation
    return model.model_fields[name].annotation


def _unset(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """Returns those values of a group whose variables the environment leaves out."""
    variables_set = {name.upper() for name in os.environ}
    return {name: value for name, value in values.items() if f"{PREFIX}{group}__{name}".upper() not in variables_set}


def _refuse_half_a_login(kafka: Kafka) -> None:
    if kafka.security_protocol.startswith("SASL_"):
        for name in ("sasl_mechanism", "sasl_username"):
            if not getattr(kafka, name):
                protocol = f"{PREFIX}KAFKA__SECURITY_PROTOCOL={kafka.security_protocol}"
                raise UsageError(f"{PREFIX}KAFKA__{name.upper()}: is required with {protocol}")


def _refuse_unknown() -> None:
    known = variables().keys() | _secret_files().keys()
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in known or _IGNORED.match(name):
            continue
        if "__" not in name and name not in {one.replace("__", "_") for one in known} and not _nearly_role(name):
            continue  # of a Kubernetes service whose name begins like ours
        nearest = difflib.get_close_matches(name, known, 1, 0.0)[0]
        raise UsageError(f"{variable}: there is no such variable; the nearest is {nearest}")


def _nearly_role(name: str) -> bool:
    return bool(difflib.get_close_matches(name.removeprefix(PREFIX), ["ROLE"], 1, 0.7))


def _explained(error: Any) -> str:
    place = [str(part).upper() for part in error["loc"][:2]]
    variable = PREFIX + "__".join(place)
    if error["type"] == "missing" and len(place) == 1:
        required = {"KAFKA": "KAFKA__BOOTSTRAP_SERVERS", "TOPICS": "TOPICS__INPUT"}
        return f"{PREFIX}{required.get(place[0], place[0])}: is required"
    if error["type"] == "missing":
        return f"{variable}: is required"
    shown = "(hidden)" if "PASSWORD" in variable or "OPTIONS" in variable else repr(error["input"])
    return f"{variable}={shown}: {error['msg'].removeprefix('Value error, ')}"
