"""Decoding: of each record readings or one dead letter with its reason. Encoding: what readers rely on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import HOUR_MS, LEVELS, START_MS, Serving
from hypothesis import given
from hypothesis import strategies as st

from forecaster.formats.dead_letters import encode_dead_letter
from forecaster.formats.forecasts import encode_forecasts
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


def test_the_series_id_falls_back_to_the_key_and_the_timestamp_to_the_records() -> None:
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
    assert decoded.readings.records.tolist() == [0, 0, 1]


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
def test_one_bad_record_does_not_cost_its_neighbours_anything(bad: InputRecord, reason: Reason) -> None:
    decoded = decode(record(GOOD), bad, record(GOOD))
    assert decoded.readings.records.tolist() == [0, 2]
    assert [letter.reason for letter in decoded.dead_letters] == [reason]
    assert decoded.dead_letters[0].detail


def test_null_keys_are_taken_where_allowed() -> None:
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
def test_whatever_comes_is_a_reading_or_a_dead_letter(pairs: list[tuple[bytes | None, bytes | None]]) -> None:
    records = [record(value, key) for key, value in pairs]
    decoded = decode(*records)
    assert len(set(decoded.readings.records.tolist())) + len(decoded.dead_letters) == len(records)
    assert not np.isinf(decoded.readings.values).any()
    for letter in decoded.dead_letters:
        encode_dead_letter(letter)


def test_a_dead_letter_is_the_record_with_reason_detail_and_source() -> None:
    letter = decode(record(b"no json", headers=(("trace", b"7"), ("null", None)))).dead_letters[0]
    message = encode_dead_letter(letter)
    assert (message.partition, message.key, message.value) == (2, b"pump", b"no json")
    headers = dict(message.headers)
    assert headers["trace"] == b"7"
    assert headers["null"] == b"", "the client cannot send a null one"
    assert headers["reason"] == b"not_json"
    assert headers["source"] == b"readings/2/17"


def test_huge_parts_of_a_dead_letter_are_cut_and_it_says_so() -> None:
    big = record(b"x" * 1_000_000, key=b"k" * 1_000_000, headers=(("trace", b"t" * 1_000_000),))
    message = encode_dead_letter(decode(big).dead_letters[0])
    headers = dict(message.headers)
    assert len(message.key or b"") == len(message.value or b"") == MAX_VALUE_BYTES
    assert "trace" not in headers
    for part in (b"value cut", b"key cut", b"headers of more"):
        assert part in headers["detail"]


def encoded(values: list[float]) -> list[dict]:
    records = [
        record(json.dumps({"timestamp": START_MS + hour * HOUR_MS, "value": value}).encode())
        for hour, value in enumerate(values)
    ]
    readings = decode(*records).readings
    outputs = Serving().feed(readings)
    messages = list(encode_forecasts(outputs.forecasts, readings, records, LEVELS))
    assert all(message.partition == 2 and message.key == b"pump" for message in messages)
    assert all(dict(message.headers)["source"] == b"readings/2/17" for message in messages)
    return [json.loads(message.value or b"") for message in messages]


def test_a_forecast_record_is_what_the_interface_says() -> None:
    first, second = encoded([3.0, 5.0])
    assert first["spread"] == "unknown"
    assert first["quantiles"] == {"0.1": [3.0] * 4, "0.5": [3.0] * 4, "0.9": [3.0] * 4}
    assert "spread" not in second
    assert second["schema"] == 1
    assert second["series_id"] == "pump"
    assert second["timestamp"] == START_MS + HOUR_MS
    assert second["timestamps"] == [START_MS + hour * HOUR_MS for hour in (2, 3, 4, 5)]
    assert second["checkpoint"] == "none"
    assert list(second["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert second["quantiles"]["0.1"][0] < second["point"][0] < second["quantiles"]["0.9"][0]


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_rounding_is_fine_against_the_spread_in_any_unit(unit: float) -> None:
    values = (np.random.default_rng(0).normal(1000, 1, 50) * unit).tolist()
    for value, forecast in zip(values, encoded(values), strict=True):
        assert forecast["point"][0] == pytest.approx(value, abs=1e-3 * unit)
