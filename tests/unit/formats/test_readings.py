"""Every input record becomes readings, or one dead letter with its reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import START_MS
from hypothesis import given
from hypothesis import strategies as st

from forecaster.formats.dead_letters import encode_dead_letter
from forecaster.formats.readings import MAX_VALUE_BYTES, Decoder, InputSchema
from forecaster.records import InputRecord, Reason

GOOD = b'{"timestamp": 1735689600000, "value": 3.5}'


def record(value: bytes | None, key: bytes | None = b"pump", timestamp: int = 5, headers: tuple = ()) -> InputRecord:
    return InputRecord("readings", 2, 17, timestamp, key, value, headers)


def decode(*records: InputRecord, **schema: object):
    return Decoder(InputSchema(**schema)).decode(records)  # type: ignore[arg-type]


def reading(value: bytes, **schema: object) -> tuple[list[str], list[int], list[float]]:
    decoded = decode(record(value), **schema)
    assert not decoded.dead_letters
    readings = decoded.readings
    return readings.series_ids, readings.timestamp_ms.tolist(), readings.values.tolist()


def test_series_and_time_default_to_key_and_record_timestamp() -> None:
    assert reading(b'{"value": 3}') == (["pump"], [5], [3.0])
    assert reading(b'{"series_id": "other", "value": 3}')[0] == ["other"]
    assert reading(b'{"series_id": 7, "value": 3}')[0] == ["7"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1735689600000", START_MS),
        ('"2025-01-01T00:00:00Z"', START_MS),
        ('"2025-01-01T01:00:00+01:00"', START_MS),
        ('"2025-01-01 00:00:00"', START_MS),
        ("1735689600000.0", START_MS),
    ],
)
def test_timestamps_are_epoch_milliseconds_or_iso_8601(text: str, expected: int) -> None:
    assert reading(b'{"value": 1, "timestamp": %s}' % text.encode())[1] == [expected]


def test_null_is_a_reading_known_to_be_missing() -> None:
    assert np.isnan(reading(b'{"value": null}')[2]).all()


def test_fields_are_dotted_paths() -> None:
    names = {"series_field": "device.id", "value_field": "data.flow", "timestamp_field": "data.at"}
    value = b'{"device": {"id": "a"}, "data": {"flow": 2, "at": 9}}'
    assert reading(value, **names) == (["a"], [9], [2.0])


def test_the_sensors_of_one_record_are_one_group() -> None:
    decoded = decode(
        record(b'{"flow": 1, "temperature": null}'), record(b'{"flow": 2}'), value_fields=("flow", "temperature")
    )
    assert decoded.readings.series_ids == ["pump/flow", "pump/temperature", "pump/flow"]
    assert decoded.readings.record_of_reading.tolist() == [0, 0, 1]


BAD = [
    (record(None), Reason.VALUE_MISSING),
    (record(b"x" * (MAX_VALUE_BYTES + 1)), Reason.VALUE_TOO_LARGE),
    (record(b"no json"), Reason.NOT_JSON),
    (record(b'{"value": NaN}'), Reason.NOT_JSON),
    (record(b'{"value": Infinity}'), Reason.NOT_JSON),
    (record(b"\xff\xfe"), Reason.NOT_JSON),
    (record(b"[" * 10_000), Reason.NOT_JSON),
    (record(b"[1]"), Reason.WRONG_TYPE),
    (record(b'{"value": "3"}'), Reason.WRONG_TYPE),
    (record(b'{"value": true}'), Reason.WRONG_TYPE),
    (record(b'{"value": 1, "timestamp": true}'), Reason.WRONG_TYPE),
    (record(b'{"value": 1, "series_id": [1]}'), Reason.WRONG_TYPE),
    (record(b'{"other": 1}'), Reason.FIELD_MISSING),
    (record(b'{"value": 1e300}'), Reason.VALUE_OUT_OF_RANGE),
    (record(b'{"value": %s}' % (b"9" * 5_000)), Reason.NOT_JSON),
    (record(b'{"value": 1, "timestamp": "yesterday"}'), Reason.TIMESTAMP_INVALID),
    (record(b'{"value": 1, "timestamp": -1}'), Reason.TIMESTAMP_OUT_OF_RANGE),
    (record(b'{"value": 1, "timestamp": 999999999999999999}'), Reason.TIMESTAMP_OUT_OF_RANGE),
    (record(GOOD, key=None), Reason.SERIES_ID_MISSING),
    (record(GOOD, key=b""), Reason.SERIES_ID_MISSING),
    (record(GOOD, key=b"\xff"), Reason.KEY_NOT_TEXT),
    (record(GOOD, key=b"k" * 1_000_000), Reason.SERIES_ID_TOO_LONG),
    (record(b'{"value": 1, "series_id": "a"}', key=None), Reason.KEY_MISSING),
]


@pytest.mark.parametrize(("bad", "reason"), BAD, ids=[f"{number}-{reason}" for number, (_, reason) in enumerate(BAD)])
def test_a_bad_record_does_not_affect_the_others(bad: InputRecord, reason: Reason) -> None:
    decoded = decode(record(GOOD), bad, record(GOOD))
    assert decoded.readings.record_of_reading.tolist() == [0, 2]
    assert [letter.reason for letter in decoded.dead_letters] == [reason]
    assert decoded.dead_letters[0].detail


def test_null_keys_are_accepted_if_allowed() -> None:
    decoded = decode(record(b'{"value": 1, "series_id": "a"}', key=None), allow_null_keys=True)
    assert decoded.readings.series_ids == ["a"]


near_json = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["value", "timestamp", "series_id", "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(lambda body: json.dumps(body).encode()),
)


@given(st.lists(st.tuples(st.none() | st.binary(max_size=10), st.none() | near_json), max_size=10))
def test_every_record_becomes_readings_or_a_dead_letter(pairs: list[tuple[bytes | None, bytes | None]]) -> None:
    records = [record(value, key) for key, value in pairs]
    decoded = decode(*records)
    assert len(set(decoded.readings.record_of_reading.tolist())) + len(decoded.dead_letters) == len(records)
    assert not np.isinf(decoded.readings.values).any()
    for letter in decoded.dead_letters:
        encode_dead_letter(letter, "3q2-7wAA")
