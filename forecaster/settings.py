"""Settings from the environment: `FORECASTER_<GROUP>__<NAME>`. Nothing else reads it."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from forecaster.errors import UsageError
from forecaster.setting_types import (
    Milliseconds,
    Name,
    Names,
    Numbers,
    Schedule,
    Seasons,
    listed,
    optional,
    parse_interval,
    parse_range,
    parse_replay_limit,
)

PREFIX = "FORECASTER_"
_IGNORED = re.compile(r"FORECASTER_(TEST_|SERVICE_|PORT)")


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kafka(_Group):
    """How the broker is reached, and as whom."""

    bootstrap_servers: Name
    group_id: Name = "forecaster"
    instance_id: str = ""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    sasl_username: str = ""
    sasl_password: SecretStr = SecretStr("")
    ssl_cafile: str = ""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    options: dict[str, Any] = {}
    session_timeout: Milliseconds = 15_000
    connect_deadline: Milliseconds = 60_000
    outage_deadline: Milliseconds = 1_800_000

    @field_validator("options", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value or "{}")
        except json.JSONDecodeError as error:
            raise ValueError(f"expected a JSON object: {error}") from None


class Topics(_Group):
    """Which topics; an empty output topic is named after the input."""

    input: Name
    forecasts: str = ""
    dead_letters: str = ""
    state: str = ""
    models: str = ""
    history: str = ""
    scores: str = ""
    denoised: str = ""
    create: bool = True

    def named(self, kind: Literal["forecasts", "dead_letters", "state", "models", "history"]) -> str:
        """Returns the topic's name."""
        name: str = getattr(self, kind)
        return name or f"{self.input}.{kind.replace('_', '-')}"


class Input(_Group):
    """Where a record holds what."""

    series_field: Name = "series_id"
    timestamp_field: Name = "timestamp"
    value_field: Name = "value"
    value_fields: Names = ()
    allow_null_keys: bool = False


class Series(_Group):
    """The grid of a series and its seasons; interval 0 = learned from its stamps."""

    interval: Annotated[int, BeforeValidator(parse_interval), Field(ge=0)] = 0
    seasonalities: Seasons = (86_400_000, 604_800_000)
    max_gap: Milliseconds = 86_400_000


Mode = Literal["one-to-one", "one-to-many", "many-to-one", "many-to-many"]


class Forecast(_Group):
    """What is forecast and published."""

    mode: Mode = "many-to-many"
    horizon: Annotated[int, Field(ge=1, le=1024)] = 24
    quantile_levels: Numbers = (0.1, 0.5, 0.9)
    publish_every: Annotated[int, Field(ge=1)] = 1
    publish_newer_than: Annotated[Milliseconds | None, BeforeValidator(optional)] = None

    @field_validator("quantile_levels")
    @classmethod
    def _ascending(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or any(not 0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
            raise ValueError("expected ascending levels between 0 and 1, such as 0.1,0.5,0.9")
        return levels


class NetworkSettings(_Group):
    """What the recurrent network looks like."""

    cell: Literal["rnn", "gru", "lstm"] = "gru"
    nonlinearity: Literal["tanh", "relu", "sigmoid"] = "tanh"
    hidden_size: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 64
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    convolution: Annotated[Annotated[int, Field(ge=2, le=64)] | None, BeforeValidator(optional)] = None
    decoder: Literal["direct", "recurrent"] = "direct"
    context: Annotated[int, Field(ge=2, le=4096)] = 96
    readouts: Literal["own", "shared"] = "own"
    checkpoint: str = ""


FilterName = Literal["range", "hampel", "stuck", "ewma", "kalman"]


class Denoise(_Group):
    """The chain of filters over inputs."""

    chain: Annotated[tuple[FilterName, ...], BeforeValidator(listed)] = ("range", "hampel")
    range: Annotated[tuple[float, float] | None, BeforeValidator(parse_range)] = None
    sentinels: Numbers = ()
    hampel_window: Annotated[int, Field(ge=3, le=1000)] = 11
    hampel_threshold: Annotated[float, Field(gt=0)] = 4.0
    stuck_ticks: Annotated[int, Field(ge=2)] = 24
    ewma_half_life: Annotated[float, Field(gt=0, le=10_000)] = 1.0


class Training(_Group):
    """How the network is trained, and when."""

    schedule: Schedule = "every 1h"
    readout_schedule: Schedule = "every 15m"
    window: Milliseconds = 90 * 86_400_000
    tbptt_steps: Annotated[int, Field(ge=1)] = 48
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    l1: Annotated[float, Field(ge=0)] = 0.0
    l2: Annotated[float, Field(ge=0)] = 0.1
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: int = 0
    min_readings: Annotated[int, Field(ge=1)] = 2000
    min_new_ticks: Annotated[int, Field(ge=1)] = 168
    deadline: Milliseconds = 1_800_000
    max_train_series: Annotated[int, Field(ge=1)] = 2000


class State(_Group):
    """How state is kept; replay limit 0 = 10 readings for each series, at least 100,000."""

    snapshot_interval: Milliseconds = 21_600_000
    replay_limit: Annotated[int, BeforeValidator(parse_replay_limit), Field(ge=0)] = 0
    ttl: Milliseconds = 30 * 86_400_000
    max_series: Annotated[int, Field(ge=1)] = 100_000
    on_lost_input: Literal["fail", "resume-cold", "resume-stale"] = "fail"


class DeadLetters(_Group):
    """When bad records are too many."""

    on_limit: Literal["pause", "stop"] = "pause"
    max_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_consecutive: Annotated[int, Field(ge=1)] = 1000


class Cache(_Group):
    """Where checkpoints are kept on disk."""

    directory: str = ""


class Http(_Group):
    """The HTTP server; no port = none."""

    host: str = "0.0.0.0"
    port: Annotated[Annotated[int, Field(ge=0, le=65535)] | None, BeforeValidator(optional)] = 8080


class Log(_Group):
    """What is logged and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "text"] = "auto"


NOT_YET = frozenset(
    [
        "http.host",
        "http.port",
    ]
)
"""Variables of the interface that are read and checked, and have no effect in this version."""


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, enable_decoding=False
    )

    role: Literal["worker", "trainer", "both"] = "both"
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
        return Settings(**filled)
    except ValidationError as error:
        raise UsageError("\n".join(_explained(one) for one in error.errors(include_url=False))) from None


def variables() -> dict[str, tuple[str, str]]:
    """Returns every variable with its group and field; those without a group have ''."""
    found: dict[str, tuple[str, str]] = {}
    for group, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Group):
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


def _refuse_unknown() -> None:
    known = variables().keys() | _secret_files().keys()
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in known or _IGNORED.match(name):
            continue
        if "__" not in name and name not in {one.replace("__", "_") for one in known}:
            continue  # of a Kubernetes service whose name begins like ours
        nearest = difflib.get_close_matches(name, known, 1, 0.0)[0]
        raise UsageError(f"{variable}: there is no such variable; the nearest is {nearest}")


def _explained(error: Any) -> str:
    place = [str(part).upper() for part in error["loc"][:2]]
    variable = PREFIX + "__".join(place)
    if error["type"] == "missing" and len(place) == 1:
        required = {"KAFKA": "KAFKA__BOOTSTRAP_SERVERS", "TOPICS": "TOPICS__INPUT"}
        return f"{PREFIX}{required.get(place[0], place[0])}: is required"
    if error["type"] == "missing":
        return f"{variable}: is required"
    shown = "(hidden)" if "PASSWORD" in variable else repr(error["input"])
    return f"{variable}={shown}: {error['msg'].removeprefix('Value error, ')}"
