"""What an operator can set, by group: each variable with its meaning, which `config/forecaster.env` is made of."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from forecaster.settings.types import (
    File,
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


class SettingsGroup(BaseModel):
    """What all groups have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Kafka(SettingsGroup):
    """How the broker is reached, and as whom."""

    bootstrap_servers: Name
    """host:port,host:port."""
    group_id: Name = "forecaster"
    """Consumer group; transactional ids, the trainers' group and keys in the state topic begin with it."""
    instance_id: str = ""
    """Static membership, where names are stable, as in a StatefulSet; empty = a dynamic member."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    """PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    sasl_username: str = ""
    """Of SASL."""
    sasl_password: SecretStr = SecretStr("")
    """Of SASL; or a file that holds it: FORECASTER_KAFKA__SASL_PASSWORD_FILE."""
    ssl_cafile: File = ""
    """Certificates of those who may sign the brokers', PEM; empty = the system's."""
    ssl_certfile: File = ""
    """Certificate of this client, PEM."""
    ssl_keyfile: File = ""
    """Its key, PEM."""
    ssl_password: SecretStr = SecretStr("")
    """Of the key, where it has one; or a file that holds it: FORECASTER_KAFKA__SSL_PASSWORD_FILE."""
    options: dict[str, Any] = {}
    """JSON object of client options, for the clients that know them; those against the guarantees are refused."""
    session_timeout: Milliseconds = 15_000
    """A member that is silent for longer loses its partitions."""
    connect_deadline: Milliseconds = 60_000
    """No broker at the start for so long: exit code 3."""
    outage_deadline: Milliseconds = 1_800_000
    """No broker in service for so long: exit code 3."""

    @field_validator("options", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value or "{}")
        except json.JSONDecodeError as error:
            raise ValueError(f"expected a JSON object: {error}") from None


class Topics(SettingsGroup):
    """Which topics; an empty output topic is named after the input."""

    input: Name
    """The readings; never created."""
    forecasts: str = ""
    """Empty = <input>.forecasts."""
    dead_letters: str = ""
    """Empty = <input>.dead-letters."""
    state: str = ""
    """Empty = <input>.state. Several groups can share it."""
    models: str = ""
    """Empty = <input>.models. A second group on the input needs its own, since each trains."""
    history: str = ""
    """Empty = <input>.history. A second group on the input needs its own."""
    scores: str = ""
    """What the forecasts were worth, one record a reading; empty = not published."""
    denoised: str = ""
    """What the network sees of the readings; empty = not published."""
    create: bool = True
    """Missing output topics are created, with as many partitions as the input."""

    def named(self, kind: Literal["forecasts", "dead_letters", "state", "models", "history"]) -> str:
        """Returns the topic's name."""
        name: str = getattr(self, kind)
        return name or f"{self.input}.{kind.replace('_', '-')}"


class Input(SettingsGroup):
    """Where a record holds what."""

    series_field: Name = "series_id"
    """Where a record's JSON has the series_id, dots between levels; else it is the record's key."""
    timestamp_field: Name = "timestamp"
    """Where it has the time, epoch ms or ISO 8601; else it is the record's."""
    value_field: Name = "value"
    """Where it has the value; null = known to be missing."""
    value_fields: Names = ()
    """Several sensors in a record: series <id>/<field> each, which may see each other."""
    allow_null_keys: bool = False
    """Records without a key are read, too: all readings of a series must be in one partition all the same."""


class Series(SettingsGroup):
    """The grid of a series and its seasons."""

    interval: Annotated[int, BeforeValidator(parse_interval), Field(ge=0)] = 0
    """Spacing of the readings; auto = learned from the first ones of each series."""
    seasonalities: Seasons = (86_400_000, 604_800_000)
    """Seasons that the simple forecasts know, three at most; auto = 1d,7d."""
    max_gap: Milliseconds = 86_400_000
    """After a longer gap the hidden state begins anew; a reading farther ahead must be confirmed by the next one."""


Mode = Literal["one-to-one", "one-to-many", "many-to-one", "many-to-many"]


class Forecast(SettingsGroup):
    """What is forecast and published."""

    mode: Mode = "many-to-many"
    """one-to-one, one-to-many, many-to-one or many-to-many: how many inputs count, and which horizons are forecast."""
    horizon: Annotated[int, Field(ge=1, le=1024)] = 24
    """Ticks ahead."""
    quantile_levels: Numbers = (0.1, 0.5, 0.9)
    """Ascending, between 0 and 1."""
    publish_every: Annotated[int, Field(ge=1)] = 1
    """At the first reading in so many ticks."""
    publish_newer_than: Annotated[Milliseconds | None, BeforeValidator(optional)] = None
    """Older readings, as of a backlog, change the state and publish nothing; empty = all publish."""

    @field_validator("quantile_levels")
    @classmethod
    def _ascending(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or any(not 0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
            raise ValueError("expected ascending levels between 0 and 1, such as 0.1,0.5,0.9")
        return levels


class NetworkSettings(SettingsGroup):
    """What the recurrent network looks like."""

    cell: Literal["rnn", "gru", "lstm"] = "gru"
    """rnn, gru or lstm."""
    nonlinearity: Literal["tanh", "relu", "sigmoid"] = "tanh"
    """Of rnn: tanh, sigmoid, or relu with the identity as its first weights."""
    hidden_size: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 64
    """Units of a layer."""
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """Recurrent layers, one above the other."""
    convolution: Annotated[Annotated[int, Field(ge=2, le=64)] | None, BeforeValidator(optional)] = None
    """Ticks that a convolution sees before the recurrence; empty = there is none."""
    decoder: Literal["direct", "recurrent"] = "direct"
    """direct = all horizons at once; recurrent = one after the other."""
    context: Annotated[int, Field(ge=2, le=4096)] = 96
    """Ticks kept of each series, which its hidden state can be computed from anew."""
    readouts: Literal["own", "shared"] = "own"
    """own = last layers of single series, too, in fleets of up to 300; shared = one for all, smaller rows."""
    checkpoint: str = ""
    """Folder of a checkpoint that is served whatever the models topic says; nothing is trained then."""


FilterName = Literal["range", "hampel", "stuck", "ewma", "kalman"]


class Denoise(SettingsGroup):
    """The chain of filters over inputs."""

    chain: Annotated[tuple[FilterName, ...], BeforeValidator(listed)] = ("range", "hampel")
    """Filters in this order, of range, hampel, stuck, ewma, kalman; empty = none."""
    range: Annotated[tuple[float, float] | None, BeforeValidator(parse_range)] = None
    """Least and greatest value, as -40,60, or one of them, as ,60; what is outside is missing. Empty = no limits."""
    sentinels: Numbers = ()
    """Values that mean a missing one, such as -999."""
    hampel_window: Annotated[int, Field(ge=3, le=1000)] = 11
    """Ticks that a spike is compared with."""
    hampel_threshold: Annotated[float, Field(gt=0)] = 4.0
    """Deviations from their median that make a spike."""
    stuck_ticks: Annotated[int, Field(ge=2)] = 24
    """A value that stays the same for longer is masked."""
    ewma_half_life: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """Ticks."""


class Training(SettingsGroup):
    """How the network is trained, and when."""

    schedule: Schedule = "every 1h"
    """every DURATION, cron FIVE FIELDS (UTC), or off."""
    readout_schedule: Schedule = "every 15m"
    """The same, of the last layer alone."""
    window: Milliseconds = 90 * 86_400_000
    """Readings that are trained on; the history topic is created with it as its retention."""
    tbptt_steps: Annotated[int, Field(ge=1)] = 48
    """Ticks that gradients go back."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of inputs, hidden state and head."""
    l1: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the L1 penalty."""
    l2: Annotated[float, Field(ge=0)] = 0.1
    """Weight decay."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a gradient."""
    seed: int = 0
    """Of the random numbers."""
    min_readings: Annotated[int, Field(ge=1)] = 2000
    """Readings of the whole fleet before the first training."""
    min_new_ticks: Annotated[int, Field(ge=1)] = 168
    """New readings of the whole fleet without which a run is skipped."""
    deadline: Milliseconds = 1_800_000
    """A longer run is ended."""
    max_train_series: Annotated[int, Field(ge=1)] = 2000
    """Of a larger fleet so many are trained on, chosen by hash."""


class State(SettingsGroup):
    """How state is kept."""

    snapshot_interval: Milliseconds = 21_600_000
    """A changed block of rows is written at the latest after so long."""
    replay_limit: Annotated[int, BeforeValidator(parse_replay_limit), Field(ge=0)] = 0
    """Readings that a takeover may have to read again; auto = 10 for each series, at least 100,000."""
    ttl: Milliseconds = 30 * 86_400_000
    """A series that is idle for longer, by event time, begins anew, and its memory is freed."""
    max_series: Annotated[int, Field(ge=1)] = 100_000
    """A partition; series beyond it get the last value as their forecast and leave no state."""
    on_lost_input: Literal["fail", "resume-cold", "resume-stale"] = "fail"
    """What is done when input that the state needs is gone: fail (exit code 5), resume-cold or resume-stale."""


class DeadLetters(SettingsGroup):
    """When bad records are too many."""

    on_limit: Literal["pause", "stop"] = "pause"
    """pause = the partition is held until its worker restarts or another one takes it; stop = exit code 6."""
    max_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of the last 1,000 records of a partition; 1 = any."""
    max_consecutive: Annotated[int, Field(ge=1)] = 1000
    """Bad records in a row; a large number lets a backlog of them pass."""


class Cache(SettingsGroup):
    """Where checkpoints are kept on disk."""

    directory: str = ""
    """Empty = a temporary folder. A full or broken one stops nothing."""


class Http(SettingsGroup):
    """The HTTP server; no port = none."""

    host: str = "0.0.0.0"
    """0.0.0.0 = everybody may ask."""
    port: Annotated[Annotated[int, Field(ge=0, le=65535)] | None, BeforeValidator(optional)] = 8080
    """0 = any that is free; empty = no HTTP."""


class Log(SettingsGroup):
    """What is logged and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    format: Literal["auto", "json", "text"] = "auto"
    """json, text, or auto = text on a terminal."""
