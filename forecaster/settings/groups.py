"""Groups of settings: each variable with its type, default and meaning; `config/forecaster.env` is made from them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from forecaster.settings.types import (
    Addresses,
    File,
    Milliseconds,
    Name,
    Names,
    Numbers,
    Schedule,
    Seasons,
    parse_interval,
    parse_list,
    parse_optional,
    parse_range,
    parse_replay_limit,
)


class SettingsGroup(BaseModel):
    """Base of all groups: immutable, without unknown fields, documented by the strings below the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Kafka(SettingsGroup):
    """Connection to Kafka, and the consumer group."""

    bootstrap_servers: Addresses
    """Addresses of brokers to connect to first, as host:port,host:port."""
    group_id: Name = "forecaster"
    """Name of the consumer group, one for each deployment. Transactional ids, the name of the trainers' consumer group
    and the keys in the state topic begin with it."""
    instance_id: str = ""
    """Identity of this process as a static member of the consumer group: a restart keeps its partitions. Only if each
    process has a stable name of its own, as in a StatefulSet. Empty = dynamic member."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    """PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; required with SASL_PLAINTEXT and SASL_SSL."""
    sasl_username: str = ""
    """SASL user name; required with SASL_PLAINTEXT and SASL_SSL."""
    sasl_password: SecretStr = SecretStr("")
    """SASL password. FORECASTER_KAFKA__SASL_PASSWORD_FILE names a file that holds it instead."""
    ssl_cafile: File = ""
    """PEM file of the authorities that sign the brokers' certificates; empty = those of the system."""
    ssl_certfile: File = ""
    """PEM file of the certificate of this client; empty = no client certificate."""
    ssl_keyfile: File = ""
    """PEM file of the private key of that certificate."""
    ssl_password: SecretStr = SecretStr("")
    """Password of the private key; empty = the key is not encrypted. FORECASTER_KAFKA__SSL_PASSWORD_FILE names a file
    that holds it instead."""
    options: dict[str, Any] = {}
    """Further options of the Kafka client, as a JSON object; each applies to the clients (consumer, producer, admin)
    that know it. Options that the guarantees rest on, or that have a variable of their own, are refused."""
    session_timeout: Milliseconds = 15_000
    """Time without a heartbeat after which a process loses its partitions."""
    connect_deadline: Milliseconds = 60_000
    """Time to wait for a broker at the start; then exit code 3."""
    outage_deadline: Milliseconds = 1_800_000
    """Time to wait for a broker, or for membership in the consumer group, while running; then exit code 3. Also time to
    wait for a topic that was deleted; then exit code 4."""

    @field_validator("options", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value or "{}")
        except json.JSONDecodeError as error:
            raise ValueError(f'expected a JSON object such as {{"linger_ms": 5}}: {error}') from None


class Topics(SettingsGroup):
    """Names of the topics."""

    input: Name
    """Topic of the readings. It must exist."""
    forecasts: str = ""
    """Topic of the forecasts; empty = <input>.forecasts."""
    dead_letters: str = ""
    """Topic of the records that could not be read; empty = <input>.dead-letters."""
    state: str = ""
    """Topic of the stored state; empty = <input>.state. Several consumer groups can share it."""
    models: str = ""
    """Topic of the checkpoints; empty = <input>.models. A second consumer group on the same input needs its
    own, because each of them trains."""
    history: str = ""
    """Topic of the readings to train on; empty = <input>.history. A second consumer group on the same input needs its
    own."""
    scores: str = ""
    """Topic of the scores: one record for each reading that some forecast was made for, with its value and the errors
    of these forecasts; thinned by PUBLISH_EVERY. Empty = not published."""
    denoised: str = ""
    """Topic of the denoised readings, as the network sees them. Empty = not published."""
    create: bool = True
    """Whether missing output topics are created, with as many partitions as the input; the models topic has one."""

    def named(self, kind: Literal["forecasts", "dead_letters", "state", "models", "history"]) -> str:
        """Return the name of a topic: the one that is set, or the default that is derived from the input."""
        name: str = getattr(self, kind)
        return name or f"{self.input}.{kind.replace('_', '-')}"


class Input(SettingsGroup):
    """Layout of the input records."""

    series_field: Name = "series_id"
    """Field of the JSON value that holds the series_id; dots lead into nested objects. If it is missing or null,
    the record key is the series_id."""
    timestamp_field: Name = "timestamp"
    """Field that holds the time of the reading, in epoch milliseconds or ISO 8601. If it is missing or null, the
    record's timestamp counts."""
    value_field: Name = "value"
    """Field that holds the value, a number; null = the reading is known to be missing."""
    value_fields: Names = ()
    """Fields of the sensors that come in one record, separated by commas; they replace VALUE_FIELD. Each field is a
    series named <series_id>/<field>, and the network may use the series of one record for each other. Empty = one
    sensor in each record."""
    allow_null_keys: bool = False
    """Whether records without a key are accepted if SERIES_FIELD names the series. Their producer must still send
    all readings of a series to one partition."""


class Series(SettingsGroup):
    """Time grid and seasons of the series."""

    interval: Annotated[int, BeforeValidator(parse_interval), Field(ge=0)] = 0
    """Spacing of the readings of a series; auto = learned from the first readings of each series."""
    seasonalities: Seasons = (86_400_000, 604_800_000)
    """Lengths of the seasons that the simple forecasts use, at most three; auto = 1d,7d; empty = none."""
    max_gap: Milliseconds = 86_400_000
    """After a longer gap, the hidden state of a series starts again. A reading that is further ahead counts only once
    the next reading confirms it."""


Mode = Literal["one-to-one", "one-to-many", "many-to-one", "many-to-many"]


class Forecast(SettingsGroup):
    """Content and pace of the forecasts."""

    mode: Mode = "many-to-many"
    """one-to-one, one-to-many, many-to-one or many-to-many. First word: many = the hidden state is carried from
    reading to reading; one = it starts at zero at each reading. Last word: many = all horizons up to HORIZON are
    forecast; one = a single one: HORIZON with many-to-one, the next tick with one-to-one."""
    horizon: Annotated[int, Field(ge=1, le=1024)] = 24
    """How many ticks ahead the forecast reaches; a tick is one INTERVAL of the series."""
    quantile_levels: Numbers = (0.1, 0.5, 0.9)
    """Levels of the published quantiles, ascending, between 0 and 1."""
    publish_every: Annotated[int, Field(ge=1)] = 1
    """Publish a forecast only at the first reading of each span of this many ticks; 1 = at each reading."""
    publish_newer_than: Annotated[Milliseconds | None, BeforeValidator(parse_optional)] = None
    """Publish no forecast at readings older than this, as in a backlog; they still change the state. Empty = publish
    at all readings."""

    @field_validator("quantile_levels")
    @classmethod
    def _ascending(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or any(not 0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
            raise ValueError("expected ascending levels between 0 and 1, such as 0.1,0.5,0.9")
        return levels


class NetworkSettings(SettingsGroup):
    """Shape of the recurrent network."""

    cell: Literal["rnn", "gru", "lstm"] = "gru"
    """Recurrent cell: rnn, gru or lstm."""
    nonlinearity: Literal["tanh", "relu", "sigmoid"] = "tanh"
    """Activation of the rnn cell: tanh, sigmoid, or relu, whose recurrent weights start as the identity."""
    hidden_size: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 64
    """Units of each recurrent layer, a multiple of 8."""
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """Number of recurrent layers."""
    convolution: Annotated[Annotated[int, Field(ge=2, le=64)] | None, BeforeValidator(parse_optional)] = None
    """Ticks covered by a causal convolution before the recurrent layers; empty = no convolution."""
    decoder: Literal["direct", "recurrent"] = "direct"
    """direct = all horizons are computed at once; recurrent = a second cell computes them one after the other."""
    context: Annotated[int, Field(ge=2, le=4096)] = 96
    """Newest ticks of input kept for each series; the hidden state of a new checkpoint is computed from them."""
    readouts: Literal["own", "shared"] = "own"
    """own = single series have readouts (last layers) of their own in addition to the shared one, in fleets of up to
    300 series; shared = only one readout for all series, and smaller rows."""
    checkpoint: str = ""
    """Folder of a checkpoint that is served whatever the models topic says; nothing is trained then. Empty = the
    models topic decides."""


FilterName = Literal["range", "hampel", "stuck", "ewma", "kalman"]


class Denoise(SettingsGroup):
    """Filters over the input of the network."""

    chain: Annotated[tuple[FilterName, ...], BeforeValidator(parse_list)] = ("range", "hampel")
    """Filters in the order in which they apply, of range, hampel, stuck, ewma and kalman; empty = none."""
    range: Annotated[tuple[float, float] | None, BeforeValidator(parse_range)] = None
    """Least and greatest valid value, as -40,60, or only one of them, as ,60; other values count as missing. Empty =
    no limits."""
    sentinels: Numbers = ()
    """Values that stand for a missing one, such as -999; empty = none."""
    hampel_window: Annotated[int, Field(ge=3, le=1000)] = 11
    """Previous values whose median a spike is compared with."""
    hampel_threshold: Annotated[float, Field(gt=0)] = 4.0
    """A value farther from that median than this many deviations is suspected; it is masked while most earlier
    suspicions in its series proved to be spikes."""
    stuck_ticks: Annotated[int, Field(ge=2)] = 24
    """A sensor counts as stuck after this many equal readings in a row, whatever the ticks between them. Its readings
    are then masked: kept from the network, but still forecast and scored."""
    ewma_half_life: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """Half-life of the ewma filter, in readings."""


class Training(SettingsGroup):
    """Training of the network."""

    schedule: Schedule = "every 1h"
    """When the network is trained: every DURATION, cron FIVE FIELDS (UTC; 0 and 7 are Sunday), or off = never, not
    even when the error of the forecasts drifts."""
    readout_schedule: Schedule = "every 15m"
    """When the readout alone is refitted; same syntax as SCHEDULE."""
    window: Milliseconds = 90 * 86_400_000
    """Age of the oldest readings that are trained on; also the retention with which the history topic is created."""
    tbptt_steps: Annotated[int, Field(ge=1)] = 48
    """Ticks that gradients are propagated back (truncated backpropagation through time)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout rate of the network's encoded inputs during training; 0 = none."""
    l1: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the L1 penalty; 0 = none."""
    l2: Annotated[float, Field(ge=0)] = 0.1
    """Weight decay; 0 = none."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a gradient; longer ones are scaled down to it."""
    seed: int = 0
    """Seed of the random numbers of a training."""
    min_readings: Annotated[int, Field(ge=1)] = 2000
    """Readings of all series that must be there before the first training."""
    min_new_ticks: Annotated[int, Field(ge=1)] = 168
    """A run is skipped until this many readings, over all series, are new since the last run of its kind."""
    deadline: Milliseconds = 1_800_000
    """A training that takes longer is killed."""
    max_train_series: Annotated[int, Field(ge=1)] = 2000
    """Series that are trained on; of a larger fleet, about this many are chosen by hash, in whole groups."""


class State(SettingsGroup):
    """State of the series, in memory and in the state topic."""

    snapshot_interval: Milliseconds = 21_600_000
    """Time after which a changed block of rows is written to the state topic at the latest."""
    replay_limit: Annotated[int, BeforeValidator(parse_replay_limit), Field(ge=0)] = 0
    """Readings that the next owner of a partition may have to read again; auto = 10 for each series, at least
    100,000."""
    ttl: Milliseconds = 30 * 86_400_000
    """A series without a reading for longer, by event time, starts again at its next reading; its memory is freed."""
    max_series: Annotated[int, Field(ge=1)] = 100_000
    """Largest number of series with state in one partition. Further series get the last value as their forecast, and no
    state."""
    on_lost_input: Literal["fail", "resume-cold", "resume-stale"] = "fail"
    """What to do when input that the state needs is gone from the topic: fail = exit code 5; resume-cold = start
    without state; resume-stale = continue with what is left of the state."""


class DeadLetters(SettingsGroup):
    """Limits for bad records; reaching a limit usually means that a producer is broken."""

    on_limit: Literal["pause", "stop"] = "pause"
    """pause = hold the partition until its worker restarts or another worker takes it; stop = exit code 6."""
    max_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest share of bad records among the last 1,000 of a partition; 1 = no limit."""
    max_consecutive: Annotated[int, Field(ge=1)] = 1000
    """Bad records in a row at which the limit is reached; choose a large number to let a backlog of them pass."""


class Cache(SettingsGroup):
    """Checkpoints on disk."""

    directory: str = ""
    """Folder for the checkpoints of the models topic; empty = a temporary folder. A disk that is full or broken stops
    nothing."""


class Http(SettingsGroup):
    """HTTP server: health, metrics, API and the live page."""

    host: str = "0.0.0.0"
    """Address to listen at; 0.0.0.0 = all addresses of the machine, 127.0.0.1 = this machine only."""
    port: Annotated[Annotated[int, Field(ge=0, le=65535)] | None, BeforeValidator(parse_optional)] = 8080
    """Port to listen at; 0 = any free port, empty = no page and no API."""
    probe_port: Annotated[Annotated[int, Field(ge=0, le=65535)] | None, BeforeValidator(parse_optional)] = None
    """Port of a second server with /livez, /readyz and /metrics alone, which no client of PORT can delay; chart and
    Compose file set 8081. 0 = any free port, empty = no second server. PORT answers them in any case."""


class Log(SettingsGroup):
    """Log lines, on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    format: Literal["auto", "json", "text"] = "auto"
    """json, text, or auto = text on a terminal, otherwise json."""
