"""The nouns that travel between the rooms of the house, most of them structs of arrays.

Letters: N readings of a batch, M forecasts made in it, J horizons, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

Headers = Sequence[tuple[str, bytes]]


class SourceRecord(Protocol):
    """What is read of a Kafka record; the client's own records fit, and so does `InputRecord`."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class InputRecord(NamedTuple):
    """A record that did not come through the client: of a file, or of a test. `timestamp` in epoch ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Message(NamedTuple):
    """A record to be written; `partition` is the same number as the input record's."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Reason(StrEnum):
    """Why a record became a dead letter."""

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
    """What became of a reading. All but FORECAST and STATELESS publish nothing; all are counted."""

    FORECAST = 0
    WARMING = 1  # the interval of its series is not known yet
    DUPLICATE = 2  # its tick has a reading already
    LATE = 3  # its tick has passed
    AHEAD = 4  # farther ahead than max_gap: held until the next reading confirms it
    STATELESS = 5  # its partition has as many series as it may: the last value is forecast, nothing is kept


@dataclass(frozen=True, slots=True)
class Readings:
    """N readings in the order of the log.

    Attributes:
        series_ids: the series of each reading, N of them.
        timestamp_ms: event time, epoch milliseconds, UTC; (N,).
        values: NaN where the reading is known to be missing; (N,).
        records: which record of the batch it came in; readings of one record are of one group; (N,).
        groups: the group of each reading, N of them; None = each series is its own.
    """

    series_ids: list[str]
    timestamp_ms: I64
    values: F64
    records: I64
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.series_ids)

    def among(self, kept: Bools) -> Readings:
        """Returns the readings that are kept; (N,)."""
        if kept.all():
            return self
        rows = np.flatnonzero(kept).tolist()
        return Readings(
            [self.series_ids[row] for row in rows],
            self.timestamp_ms[kept],
            self.values[kept],
            self.records[kept],
            None if self.groups is None else [self.groups[row] for row in rows],
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot become readings, and why."""

    record: SourceRecord
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """Everything that a batch of records held: each record is in exactly one of the two."""

    readings: Readings
    dead_letters: list[DeadLetter]


@dataclass(frozen=True, slots=True)
class Forecasts:
    """M forecasts, in the order of the readings they were made at.

    Attributes:
        reading: the position in `Readings` of the reading it was made at; (M,).
        timestamp_ms: event time of that reading; (M,).
        target_ms: event times forecast; (M, J).
        point: the combined centre, in the units of the series; (M, J).
        quantiles: ascending along Q; (M, Q, J).
        spread_known: false where all quantiles equal the point for want of a second reading; (M,).
        checkpoint: ids of what made them; `none` before any training; (M,).
        tick: of the reading on its series' grid; (M,).
        gap: ticks since the reading before; (M,).
        weights: of each expert in the mix, and last of the mix itself against the last value; (M, E + 1, J), or
            (M, 0, J) where nobody asked.
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
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.reading)


@dataclass(frozen=True, slots=True)
class Scores:
    """What the readings that became forecasts say of forecasts made before them (diagonal: one of each horizon).

    Attributes:
        reading: position in `Readings`; (M,), the same as `Forecasts.reading`.
        truth: the raw value; NaN where it was missing or no truth; (M,).
        point: the forecast made h ticks ago for now; NaN where there was none; (M, J).
        quantiles: the same, (M, Q, J).
        last_value: the last-value forecast of then; NaN where there was none; (M, J).
        scale: of the series now, in its units; 0 = nothing is known of it; (M,).
        experts: what each expert had forecast; (M, E, J), or (M, 0, J) where nobody asked.
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
    """All that a batch of readings gave.

    Attributes:
        outcomes: of `Outcome`, of every reading; (N,).
        masked: the reading had a value that the filters keep from the inputs; (N,).
        denoised: what the network sees of the reading; NaN where nothing, or where it is no step; (N,).
        forecasts: of the readings that are steps.
        scores: of the same.
    """

    outcomes: NDArray[np.int8]
    masked: Bools
    denoised: F64
    forecasts: Forecasts
    scores: Scores


class Member(Protocol):
    """This process in its consumer group, as of one poll; a transaction carries it so that the broker can fence it."""

    @property
    def generation_id(self) -> int: ...
    @property
    def member_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class PollResult:
    """What one poll returned.

    Attributes:
        records: partition by partition, each in the order of its log.
        begin: offset of the first record, by partition; only partitions that delivered records.
        end: offset to read next, by partition: after the last record and the transaction markers and aborted records
            behind it.
        member: this process in the group right after the poll; a transaction with these records must carry it.
        revoked: partitions that were revoked, ascending; one that is in `assigned`, too, was assigned again.
        assigned: partitions that were assigned, ascending; they deliver nothing until they are resumed.
        stable: this process was a member of the group's current generation; only then may a transaction begin.
        answered: the broker answered the last request.
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


@dataclass(frozen=True, slots=True)
class Transaction:
    """What commits together, or not at all.

    Attributes:
        messages: by topic, in the order in which they are written.
        offsets: next offset of the input to read, by partition; empty = no offsets are committed.
        member: this process in the group when the records were polled.
    """

    messages: Mapping[str, Sequence[Message]]
    offsets: Mapping[int, int]
    member: Member
