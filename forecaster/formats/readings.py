"""Records of the input topic: decoded to readings, or to dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from forecaster.errors import BadRecord
from forecaster.records import I64, DeadLetter, Decoded, Readings, Reason, SourceRecord

SCHEMA = 1
MAX_VALUE_BYTES = 65_536
MAX_SERIES_ID_BYTES = 1_024
MAX_MAGNITUDE = 1e30
MAX_TIMESTAMP_MS = 253_402_300_799_999
"""The end of the year 9999."""


@dataclass(frozen=True, slots=True)
class InputSchema:
    """The fields of an input record, as dotted paths into the JSON object of its value.

    Attributes:
        series_field: field of the series_id; without it, the record key is the series_id.
        timestamp_field: field of the event time; without it, the record's timestamp is the event time.
        value_field: field of the value.
        value_fields: fields of several sensors in one record: each is a series `<id>/<field>`, all are one group;
            replaces `value_field`.
        allow_null_keys: accept records without a key although their series_id comes from the value.
    """

    series_field: str = "series_id"
    timestamp_field: str = "timestamp"
    value_field: str = "value"
    value_fields: tuple[str, ...] = ()
    allow_null_keys: bool = False


class Decoder:
    """Decoder of input records; a bad record does not affect the others.

    Args:
        schema: fields of a record.
        longest_id: largest size of a series_id, in bytes.
    """

    def __init__(self, schema: InputSchema, longest_id: int = MAX_SERIES_ID_BYTES) -> None:
        self._schema = schema
        self._longest_id = longest_id
        self._json = msgspec.json.Decoder()
        self._series = schema.series_field.split(".")
        self._timestamp = schema.timestamp_field.split(".")
        fields = schema.value_fields or (schema.value_field,)
        self._values = [(field, field.split(".")) for field in fields]

    def decode(self, records: Sequence[SourceRecord]) -> Decoded:
        """Return the readings of the good records, and a dead letter for each bad one."""
        series_ids: list[str] = []
        timestamps: list[int] = []
        values: list[float] = []
        numbers: list[int] = []
        groups: list[str] = []
        dead_letters: list[DeadLetter] = []
        for number, record in enumerate(records):
            try:
                group, timestamp, pairs = self._record(record)
            except BadRecord as bad:
                dead_letters.append(DeadLetter(record, Reason(bad.reason), bad.detail))
                continue
            groups += [group] * len(pairs)
            for series_id, value in pairs:
                series_ids.append(series_id)
                timestamps.append(timestamp)
                values.append(value)
                numbers.append(number)
        readings = Readings(
            series_ids,
            np.array(timestamps, np.int64),
            np.array(values, np.float64),
            np.array(numbers, np.int64),
            groups if self._schema.value_fields else None,
        )
        return Decoded(readings, dead_letters)

    def _record(self, record: SourceRecord) -> tuple[str, int, list[tuple[str, float]]]:
        """Return the group, the event time in epoch ms, and pairs of series_id and value; raise BadRecord."""
        body = self._object(record.value)
        series_id = self._series_id(record, _find(body, self._series))
        timestamp = _timestamp(_find(body, self._timestamp), record.timestamp, self._schema.timestamp_field)
        fields = [(field, _find(body, path)) for field, path in self._values]
        if not self._schema.value_fields:
            return series_id, timestamp, [(series_id, _value(*fields[0]))]
        pairs = [(f"{series_id}/{field}", _value(field, raw)) for field, raw in fields if raw is not _ABSENT]
        if not pairs:
            names = ", ".join(self._schema.value_fields)
            raise BadRecord(Reason.FIELD_MISSING, f"the value has none of the fields {names}")
        return series_id, timestamp, pairs

    def _object(self, value: bytes | None) -> Mapping[str, Any]:
        if value is None:
            raise BadRecord(Reason.VALUE_MISSING, "the record has no value")
        if len(value) > MAX_VALUE_BYTES:
            raise BadRecord(
                Reason.VALUE_TOO_LARGE, f"the value has {len(value)} bytes; at most {MAX_VALUE_BYTES} are allowed"
            )
        try:
            body = self._json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRecord(Reason.NOT_JSON, str(error)) from None
        if not isinstance(body, dict):
            raise BadRecord(Reason.WRONG_TYPE, f"the value is a JSON {type(body).__name__}, not an object")
        return body

    def _series_id(self, record: SourceRecord, raw: Any) -> str:
        if raw is not _ABSENT and raw is not None:
            if isinstance(raw, bool) or not isinstance(raw, str | int):
                raise BadRecord(
                    Reason.WRONG_TYPE, f"{self._schema.series_field} must be text or an integer, not {_shown(raw)}"
                )
            if record.key is None and not self._schema.allow_null_keys:
                raise BadRecord(
                    Reason.KEY_MISSING,
                    "the series_id comes from the value and the record has no key, so a series may be spread over "
                    "partitions: send a key, or set FORECASTER_INPUT__ALLOW_NULL_KEYS=true",
                )
            series_id = str(raw)
        else:
            series_id = _key_text(record.key)
        if not series_id:
            raise BadRecord(Reason.SERIES_ID_MISSING, f"no field {self._schema.series_field} and no record key")
        if len(series_id) > self._longest_id or len(series_id.encode()) > self._longest_id:
            raise BadRecord(Reason.SERIES_ID_TOO_LONG, f"the series_id has more than {self._longest_id} bytes")
        return series_id


def partitions_of(readings: Readings, records: Sequence[SourceRecord]) -> I64:
    """Return the partition that each reading came from; (N,)."""
    partitions = np.array([record.partition for record in records], np.int64)
    return partitions[readings.record_of_reading] if len(readings) else np.empty(0, np.int64)


class _Absent:
    """Stands for a field that is absent; null is a value."""


_ABSENT = _Absent()


def _find(body: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(body, dict):
            return _ABSENT
        body = body.get(name, _ABSENT)
    return body


def _value(field: str, raw: Any) -> float:
    if raw is None:
        return np.nan
    if raw is _ABSENT:
        raise BadRecord(Reason.FIELD_MISSING, f"no field {field}; send null for a reading known to be missing")
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise BadRecord(Reason.WRONG_TYPE, f"{field} must be a number or null, not {_shown(raw)}")
    if abs(raw) > MAX_MAGNITUDE:
        raise BadRecord(Reason.VALUE_OUT_OF_RANGE, f"{field} is {_shown(raw)}; at most {MAX_MAGNITUDE:g} is allowed")
    return float(raw)


def _timestamp(raw: Any, fallback: int, field: str) -> int:
    if raw is _ABSENT or raw is None:
        raw = fallback
    if isinstance(raw, str):
        raw = _parsed(raw, field)
    elif isinstance(raw, bool) or not (isinstance(raw, int) or (isinstance(raw, float) and raw.is_integer())):
        raise BadRecord(Reason.WRONG_TYPE, f"{field} must be epoch milliseconds or ISO 8601, not {_shown(raw)}")
    if not 0 <= raw <= MAX_TIMESTAMP_MS:
        raise BadRecord(Reason.TIMESTAMP_OUT_OF_RANGE, f"{field} is {_shown(raw)}, outside of the years 1970 to 9999")
    return int(raw)


def _parsed(text: str, field: str) -> int:
    try:
        time = datetime.fromisoformat(text)
        aware = time if time.tzinfo else time.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadRecord(
            Reason.TIMESTAMP_INVALID, f"{field} is {_shown(text)}; expected epoch milliseconds or ISO 8601"
        ) from None


def _key_text(key: bytes | None) -> str:
    try:
        return "" if key is None else key.decode()
    except UnicodeDecodeError:
        raise BadRecord(Reason.KEY_NOT_TEXT, "the record key is not UTF-8") from None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
