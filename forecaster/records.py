"""The values that the packages exchange, most of them structs of arrays, and the names of array types.

Letters: N readings of a batch, M forecasts made at them, J horizons, Q quantile levels, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

Headers = Sequence[tuple[str, bytes]]


class SourceRecord(Protocol):
    """The part of a Kafka record that decoding reads; the client's own records have it, and so does `InputRecord`."""

    @property
    def topic(self) -> str:
        """Name of the topic."""

    @property
    def partition(self) -> int:
        """Number of the partition."""

    @property
    def offset(self) -> int:
        """Position of the record in its partition."""

    @property
    def timestamp(self) -> int:
        """Timestamp of the record, epoch milliseconds."""

    @property
    def key(self) -> bytes | None:
        """Key; None = the record has none."""

    @property
    def value(self) -> bytes | None:
        """Value; None = the record has none."""

    @property
    def headers(self) -> Headers:
        """Names and values of the headers, in order."""


class InputRecord(NamedTuple):
    """A record that did not come through the Kafka client, but from a file or a test; `timestamp` in epoch ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Message(NamedTuple):
    """A record to be written to partition number `partition`."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def size(self) -> int:
        """Bytes of the key, the value and the headers."""
        headers = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


class Reason(StrEnum):
    """Reason why a record became a dead letter."""

    VALUE_MISSING = "value_missing"
    VALUE_TOO_LARGE = "value_too_large"
    NOT_JSON = "not_json"
    WRONG_TYPE = "wrong_type"
    FIELD_MISSING = "field_missing"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    TIMESTAMP_INVALID = "timestamp_invalid"
    TIMESTAMP_OUT_OF_RANGE = "timestamp_out_of_range"
    KEY_MISSING = "key_missing"
    KEY_NOT_TEXT = "key_not_text"
    SERIES_ID_MISSING = "series_id_missing"
    SERIES_ID_TOO_LONG = "series_id_too_long"


class Outcome(IntEnum):
    """Outcome of a reading on its timeline. Only FORECAST and STATELESS give a forecast; every outcome is counted."""

    FORECAST = 0
    WARMING = 1  # the interval of its series is not known yet, or the series has had no valid value yet
    DUPLICATE = 2  # its tick already has a reading
    LATE = 3  # its tick has passed
    AHEAD = 4  # farther ahead than max_gap: held until the next reading confirms it
    # Its partition already holds max_series series: no state is kept. The last value is forecast if the interval is
    # fixed and the reading has a value.
    STATELESS = 5


@dataclass(frozen=True, slots=True)
class Readings:
    """N readings in the order of the log.

    Attributes:
        series_ids: series of each reading; N.
        timestamp_ms: event times, epoch milliseconds, UTC; (N,).
        values: raw values; NaN where the producer sent null; (N,).
        record_of_reading: index of each reading's record; readings of one record belong to one group; (N,).
        groups: group of each reading; N; None = each series is its own group.
    """

    series_ids: list[str]
    timestamp_ms: I64
    values: F64
    record_of_reading: I64
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.series_ids)

    def among(self, kept: Bools) -> Readings:
        """Return the readings where `kept` is true; (N,)."""
        if kept.all():
            return self
        rows = np.flatnonzero(kept).tolist()
        return Readings(
            [self.series_ids[row] for row in rows],
            self.timestamp_ms[kept],
            self.values[kept],
            self.record_of_reading[kept],
            None if self.groups is None else [self.groups[row] for row in rows],
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be decoded, with the reason and an explanation for people."""

    record: SourceRecord
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """The readings of a batch of records, and the records that could not be decoded."""

    readings: Readings
    dead_letters: list[DeadLetter]


@dataclass(frozen=True, slots=True)
class Forecasts:
    """M forecasts, in the order of the readings that they were made at.

    Attributes:
        reading: index in `Readings` of the reading that each forecast was made at; (M,).
        timestamp_ms: event time of that reading; (M,).
        target_ms: event times that are forecast; (M, J).
        point: combined centre, in units of the series; (M, J).
        quantiles: quantiles in units of the series, ascending along Q; (M, Q, J).
        spread_known: false if the series has fewer than two valid readings, so that all quantiles equal the point;
            (M,).
        checkpoint: id of the checkpoint that made each forecast; `none` before any training; (M,).
        tick: tick of the reading on its series' grid; (M,).
        gap: ticks since the series' previous reading; (M,).
        weights: weight of each expert in the mix, and last the gate, which weighs the mix against the last value;
            (M, E + 1, J), or (M, 0, J) without `PipelineConfig.with_details`.
    """

    reading: I64
    timestamp_ms: I64
    target_ms: I64
    point: F64
    quantiles: F64
    spread_known: Bools
    checkpoint: NDArray[np.object_]
    tick: I64
    gap: I64
    weights: F32

    def __len__(self) -> int:
        return len(self.reading)


@dataclass(frozen=True, slots=True)
class MaturedForecasts:
    """The truths of M readings with the forecasts that had been made for them, one for each horizon h, h ticks before.

    Attributes:
        reading: index in `Readings`, equal to `Forecasts.reading`; (M,).
        truth: raw value; NaN where it was missing or is no truth; (M,).
        point: point forecast made h ticks before; NaN where none was made; (M, J).
        quantiles: quantiles of the same forecasts; (M, Q, J).
        last_value: last valid value at the time of the forecast; NaN where none was made; (M, J).
        scale: scale of the series now, in its units; 0 = the series has not varied yet; (M,).
        experts: forecast of each expert; (M, E, J), or (M, 0, J) without `PipelineConfig.with_details`.
    """

    reading: I64
    truth: F64
    point: F64
    quantiles: F64
    last_value: F64
    scale: F64
    experts: F64


@dataclass(frozen=True, slots=True)
class Outputs:
    """The results of a batch of N readings.

    Attributes:
        outcomes: value of `Outcome` of every reading; (N,).
        masked: true if the reading has a value that the filters keep from the network's inputs; (N,).
        denoised: network's input in units of the series; NaN where the reading gives none or is no step; (N,).
        forecasts: forecasts made at the readings that are steps of their series.
        matured: forecasts made for the same readings, with their truths.
    """

    outcomes: I8
    masked: Bools
    denoised: F64
    forecasts: Forecasts
    matured: MaturedForecasts


class TopicFacts(NamedTuple):
    """Identity of a topic: a topic that is deleted and created again has another id.

    Attributes:
        cluster: id of the Kafka cluster.
        topic_id: id of the topic, as hexadecimal digits.
        partitions: number of its partitions.
    """

    cluster: str
    topic_id: str
    partitions: int


class Member(Protocol):
    """This process in its consumer group, as of one poll; a transaction carries it so that the broker can fence it."""

    @property
    def generation_id(self) -> int:
        """Number of the group's generation."""

    @property
    def member_id(self) -> str:
        """Id that the broker gave this member."""


@dataclass(frozen=True, slots=True)
class PollResult:
    """Result of one poll.

    Attributes:
        records: partition by partition, each in the order of its log.
        begin: offset of the first record, by partition; only partitions that delivered records.
        end: offset to read next, by partition: after the last record and the transaction markers and aborted records
            after it.
        member: this process in the group right after the poll; a transaction with these records must carry it.
        revoked: partitions that were revoked, ascending; one that is in `assigned`, too, was assigned again.
        assigned: partitions that were assigned, ascending; they deliver nothing until they are resumed.
        stable: this process was a member of the group's current generation; only then may a transaction begin.
        answered: the broker answered the last request.
        reconnected: a new client has joined after silent brokers; other clients may know only their former addresses.
        input_id: id of the topic in the client's newest metadata; empty = the topic is missing, None = unknown.
    """

    records: list[SourceRecord]
    begin: Mapping[int, int]
    end: Mapping[int, int]
    member: Member
    revoked: list[int]
    assigned: list[int]
    _: KW_ONLY
    stable: bool
    answered: bool = True
    reconnected: bool = False
    input_id: str | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """Messages and offsets that are committed together, or not at all.

    Attributes:
        messages: by topic, in the order in which they are written.
        offsets: next offset of the input to read, by partition; empty = no offsets are committed.
        member: this process in the group when the records were polled.
    """

    messages: Mapping[str, Sequence[Message]]
    offsets: Mapping[int, int]
    member: Member

    @property
    def size(self) -> int:
        """Bytes of all messages."""
        return sum(message.size for messages in self.messages.values() for message in messages)


class FailureReason(StrEnum):
    """Why a transaction failed; the label of a metric.

    Attributes:
        TOO_LARGE: a record or a batch of records is larger than the broker takes.
        NOT_AUTHORIZED: this user lacks a right.
        MISSING_TOPIC: a topic or a partition does not exist.
        NOT_ENOUGH_REPLICAS: fewer replicas are in sync than `min.insync.replicas` demands.
        TIMEOUT: the broker did not answer in time, or took the records too slowly.
        DISCONNECTED: no broker could be reached.
        FENCED: a newer producer has this transactional id, or the broker has ended the transaction.
        NOT_A_MEMBER: the consumer group no longer knows this process, or has given its partitions away.
        OTHER: anything else.
    """

    TOO_LARGE = "too_large"
    NOT_AUTHORIZED = "not_authorized"
    MISSING_TOPIC = "missing_topic"
    NOT_ENOUGH_REPLICAS = "not_enough_replicas"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    FENCED = "fenced"
    NOT_A_MEMBER = "not_a_member"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class TransactionFailure:
    """Why a transaction was not confirmed.

    Attributes:
        reason: kind of the failure.
        detail: what was refused, where, by which setting, and what to do.
    """

    reason: FailureReason
    detail: str

    def __str__(self) -> str:
        """Return the reason and the detail."""
        return f"{self.reason}: {self.detail}"
