"""What goes over the wire: input records to readings, forecasts and dead letters to records."""

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
    """Where an input record holds what; fields are dotted paths into the JSON object of its value.

    Attributes:
        series_field: the series_id; where it is missing, the record key is.
        timestamp_field: the event time; where it is missing, the record's timestamp is.
        value_field: the reading.
        value_fields: several sensors in one record: series `<id>/<field>` each, one group; they replace value_field.
        allow_null_keys: records without a key are taken although their series_id comes from the value.
    """

    series_field: str = "series_id"
    timestamp_field: str = "timestamp"
    value_field: str = "value"
    value_fields: tuple[str, ...] = ()
    allow_null_keys: bool = False


class Decoder:
    """Decodes the records of a batch; a wrong one costs its neighbours nothing.

    Args:
        schema: where a record holds what.
        longest_id: bytes of a series_id at most.
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
        """Returns the readings of the good records and a dead letter for each bad one."""
        series_ids: list[str] = []
        stamps: list[int] = []
        values: list[float] = []
        numbers: list[int] = []
        groups: list[str] = []
        dead: list[DeadLetter] = []
        for number, record in enumerate(records):
            try:
                group, stamp, readings = self._record(record)
            except BadRecord as bad:
                dead.append(DeadLetter(record, Reason(bad.reason), bad.detail))
                continue
            groups += [group] * len(readings)
            for series_id, value in readings:
                series_ids.append(series_id)
                stamps.append(stamp)
                values.append(value)
                numbers.append(number)
        readings_of_all = Readings(
            series_ids,
            np.array(stamps, np.int64),
            np.array(values, np.float64),
            np.array(numbers, np.int64),
            groups if self._schema.value_fields else None,
        )
        return Decoded(readings_of_all, dead)

    def _record(self, record: SourceRecord) -> tuple[str, int, list[tuple[str, float]]]:
        """Returns the group, the stamp, and each series with its value."""
        body = self._object(record.value)
        series_id = self._series_id(record, _find(body, self._series))
        stamp = _timestamp(_find(body, self._timestamp), record.timestamp, self._schema.timestamp_field)
        found = [(field, _find(body, path)) for field, path in self._values]
        if not self._schema.value_fields:
            return series_id, stamp, [(series_id, _value(*found[0]))]
        readings = [(f"{series_id}/{field}", _value(field, raw)) for field, raw in found if raw is not _ABSENT]
        if not readings:
            raise BadRecord(Reason.FIELD_MISSING, f"none of the fields {', '.join(self._schema.value_fields)}")
        return series_id, stamp, readings

    def _object(self, value: bytes | None) -> Mapping[str, Any]:
        if value is None:
            raise BadRecord(Reason.VALUE_MISSING, "the record has no value")
        if len(value) > MAX_VALUE_BYTES:
            raise BadRecord(Reason.VALUE_TOO_LARGE, f"{len(value)} bytes; at most {MAX_VALUE_BYTES} are read")
        try:
            body = self._json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRecord(Reason.NOT_JSON, str(error)) from None
        if not isinstance(body, dict):
            raise BadRecord(Reason.WRONG_TYPE, f"the value is a JSON {type(body).__name__}, not an object")
        return body

    def _series_id(self, record: SourceRecord, named: Any) -> str:
        if named is not _ABSENT and named is not None:
            if isinstance(named, bool) or not isinstance(named, str | int):
                raise BadRecord(Reason.WRONG_TYPE, f"{self._schema.series_field} must be text, not {_shown(named)}")
            if record.key is None and not self._schema.allow_null_keys:
                raise BadRecord(
                    Reason.KEY_MISSING,
                    "the series_id comes from the value and the record has no key: its readings may be spread over "
                    "partitions; send a key, or set FORECASTER_INPUT__ALLOW_NULL_KEYS=true",
                )
            series_id = str(named)
        else:
            series_id = _key_text(record.key)
        if not series_id:
            raise BadRecord(Reason.SERIES_ID_MISSING, f"neither {self._schema.series_field} nor a record key")
        if len(series_id) > self._longest_id or len(series_id.encode()) > self._longest_id:
            raise BadRecord(Reason.SERIES_ID_TOO_LONG, f"more than {self._longest_id} bytes")
        return series_id


def partitions_of(readings: Readings, records: Sequence[SourceRecord]) -> I64:
    """Returns the partition that each reading came from; (N,)."""
    partitions = np.array([record.partition for record in records], np.int64)
    return partitions[readings.records] if len(readings) else np.empty(0, np.int64)


class _Absent:
    """No such field; null is a value."""


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
        raise BadRecord(Reason.VALUE_OUT_OF_RANGE, f"{field} is {_shown(raw)}; at most {MAX_MAGNITUDE:g} is taken")
    return float(raw)


def _timestamp(raw: Any, fallback: int, field: str) -> int:
    if raw is _ABSENT or raw is None:
        raw = fallback
    if isinstance(raw, str):
        raw = _parsed(raw, field)
    elif isinstance(raw, bool) or not (isinstance(raw, int) or (isinstance(raw, float) and raw.is_integer())):
        raise BadRecord(Reason.WRONG_TYPE, f"{field} must be epoch milliseconds or ISO 8601, not {_shown(raw)}")
    if not 0 <= raw <= MAX_TIMESTAMP_MS:
        raise BadRecord(Reason.TIMESTAMP_OUT_OF_RANGE, f"{field} is {_shown(raw)}: outside of the years 1970 to 9999")
    return int(raw)


def _parsed(text: str, field: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
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
