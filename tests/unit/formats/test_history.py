"""Records of the history topic: small, complete, and refused if they are damaged."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from builders import HOUR_MS, START_MS, hourly, readings

from forecaster.core.hashing import group_hash
from forecaster.errors import StateError
from forecaster.formats.history import MAX_VALUE_BYTES, SCHEMA, DamagedHistory, count_of, decode_history, encode_history
from forecaster.records import Headers, InputRecord, Message, Readings


def encoded(batch: Readings) -> list[Message]:
    return encode_history(0, batch, np.arange(len(batch)), np.zeros(len(batch), bool))


def fleet(hours: int, series: int) -> list[tuple[str, int, float | None]]:
    dice = np.random.default_rng(1)
    level = dice.normal(20, 5, series)
    return [
        (f"site-{number // 10}/pump-{number}", START_MS + hour * HOUR_MS, round(level[number] + dice.normal(), 2))
        for hour in range(hours)
        for number in range(series)
    ]


def test_a_reading_takes_a_few_bytes_in_the_history() -> None:
    batch = readings(fleet(10, 1_000))
    size = sum(len(message.value or b"") for message in encoded(batch)) / len(batch)
    assert 2 < size < 6  # the bare columns have 22


def test_a_reading_with_a_full_float_takes_less_than_11_bytes() -> None:
    dice = np.random.default_rng(1)
    batch = readings([(name, at, dice.normal()) for name, at, _ in fleet(2, 1_000)])
    assert sum(len(message.value or b"") for message in encoded(batch)) / len(batch) < 11


def test_any_damaged_byte_and_any_cut_is_detected() -> None:
    value = encoded(readings(hourly([1.0, None, 3.0])))[0].value or b""
    for at in range(len(value)):
        with pytest.raises(DamagedHistory):
            decode_history(value[:at])
        with pytest.raises(DamagedHistory):
            decode_history(value[:at] + bytes([value[at] ^ 0x10]) + value[at + 1 :])


@pytest.mark.parametrize("body", [b"", b"no zlib", zlib.compress(b"no struct"), zlib.compress(b"\x80")])
def test_foreign_content_with_a_right_crc_is_refused(body: bytes) -> None:
    rest = bytes([SCHEMA]) + body
    with pytest.raises(DamagedHistory):
        decode_history(zlib.crc32(rest).to_bytes(4, "little") + rest)


def test_a_newer_schema_is_refused_with_advice() -> None:
    value = encoded(readings(hourly([1.0])))[0].value or b""
    rest = bytes([SCHEMA + 1]) + value[5:]
    with pytest.raises(StateError, match="run the newer version"):
        decode_history(zlib.crc32(rest).to_bytes(4, "little") + rest)


def test_a_large_batch_becomes_several_records_with_whole_groups() -> None:
    dice = random.Random(1)
    pumps = [dice.randbytes(500).hex() for _ in range(1_500)]  # names of a kilobyte, as long as they may be
    rows = [(f"{pump}/{field}", START_MS, 1.0) for pump in pumps for field in "abc"]
    batch = readings(rows, [number // 3 for number in range(len(rows))])
    messages = encoded(batch)
    parts = [decode_history(message.value or b"") for message in messages]
    assert len(messages) > 1
    assert max(len(message.value or b"") for message in messages) <= MAX_VALUE_BYTES
    assert [part.series_ids[row] for part in parts for row in part.row] == batch.series_ids
    assert all(len(part) % 3 == 0 for part in parts)
    assert [dict(message.headers)["readings"] for message in messages] == [str(len(part)).encode() for part in parts]


def test_one_input_record_is_never_split() -> None:
    rows = [(random.Random(number).randbytes(500).hex(), START_MS, 1.0) for number in range(1_200)]
    (message,) = encoded(readings(rows, [0] * len(rows)))
    assert len(message.value or b"") > MAX_VALUE_BYTES


def test_without_readings_there_is_no_record() -> None:
    assert encode_history(0, readings(hourly([1.0])), np.empty(0, np.int64), np.empty(0, bool)) == []


@pytest.mark.parametrize(
    ("headers", "count"),
    [
        ([("readings", b"2000")], 2_000),
        ([("other", b"1"), ("readings", b"7")], 7),
        ([], None),
        ([("readings", b"-3")], None),
        ([("readings", b"")], None),
        ([("readings", b"9" * 5_000)], None),
    ],
)
def test_the_number_of_readings_is_in_the_header(headers: Headers, count: int | None) -> None:
    assert count_of(InputRecord("history", 0, 0, 0, None, b"whatever", headers)) == count


def test_the_hash_of_a_group_never_changes() -> None:
    assert group_hash("123456789") == 0xCBF43926  # the check value of CRC-32/ISO-HDLC
