"""Records of the history topic: the readings of one batch and partition that are steps of their series, by column.

A value is the CRC-32 of the rest (4 bytes, little-endian), the schema (1 byte), then MessagePack compressed by zlib.
Columns are little-endian arrays. Timestamps and series numbers are stored as differences to their predecessors, which
compress well. Decoding executes nothing, and the decompressed size is bounded.

The readings of one input record are never split over two values: they are neighbours, and the first of them is flagged.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from forecaster.errors import ForecasterError, StateError
from forecaster.records import F64, I64, Bools, Message, Readings, SourceRecord

SCHEMA = 1
COUNT_HEADER = "readings"
"""Header that holds the number of readings in a record."""
MAX_VALUE_BYTES = 524_288
"""Limit of a value; larger batches become several records. It is far below the broker's default limit."""
MAX_DECOMPRESSED_BYTES = 134_217_728
"""Limit of a decompressed value; a value above it counts as damaged."""
_OBSERVED, _MASKED, _BEGINS = 1, 2, 4
"""Flags of a reading: it has a value; the filters mask it; it is the first of its input record (read by decoding)."""
_HEAD = struct.Struct("<IB")
_CRC_BYTES = 4
_FAST = 1


class DamagedHistory(ForecasterError):
    """A record of the history topic is damaged."""


@dataclass(frozen=True, slots=True)
class HistoryPart:
    """N readings of S series, from one record of the history topic.

    Attributes:
        series_ids: the series; S.
        groups: group of each series; empty = each series is its own group.
        row: index of each reading's series among the S; (N,).
        timestamp_ms: event times, epoch ms, UTC; (N,).
        values: raw values; NaN where missing; (N,).
        record_of_reading: index of each reading's input record, ascending from 0; its readings are one group; (N,).
    """

    series_ids: list[str]
    groups: list[str]
    row: I64
    timestamp_ms: I64
    values: F64
    record_of_reading: I64

    def __len__(self) -> int:
        return len(self.row)


def encode_history(partition: int, readings: Readings, chosen: I64, masked: Bools) -> list[Message]:
    """Return the history records of one partition's readings in a batch: mostly one, none if there are no readings.

    Args:
        partition: partition of the readings' records.
        readings: readings of the batch.
        chosen: positions of the readings to write, ascending; (N,).
        masked: the filters keep the value of the chosen reading from the inputs; (N,).
    """
    if not len(chosen):
        return []
    value = _encoded(readings, chosen, masked)
    cut = _middle(readings.record_of_reading[chosen]) if len(value) > MAX_VALUE_BYTES else 0
    if cut:
        left = encode_history(partition, readings, chosen[:cut], masked[:cut])
        return left + encode_history(partition, readings, chosen[cut:], masked[cut:])
    return [Message(partition, None, value, [(COUNT_HEADER, str(len(chosen)).encode())])]


def decode_history(value: bytes) -> HistoryPart:
    """Return the readings of a value.

    Raises:
        DamagedHistory: the value is damaged.
        StateError: a newer version wrote the value.
    """
    if len(value) < _HEAD.size:
        raise DamagedHistory(f"the value is cut: it has {len(value)} bytes")
    crc, schema = _HEAD.unpack_from(value)
    if crc != zlib.crc32(memoryview(value)[_CRC_BYTES:]):
        raise DamagedHistory("the CRC-32 does not match")
    if schema > SCHEMA:
        raise StateError(
            f"a record of the history topic has schema {schema}, this version reads up to {SCHEMA}: run the newer "
            "version that wrote it, or empty the topic"
        )
    return _part(_decompressed(value[_HEAD.size :]))


def count_of(record: SourceRecord) -> int | None:
    """Return the number of readings that the record's header names; None without a valid header."""
    text = next((content for name, content in record.headers if name == COUNT_HEADER), b"")
    return int(text) if text.isdigit() and len(text) < 10 else None


class _Stored(msgspec.Struct, frozen=True):
    """Content of a value: `row` (int32) and `timestamp_ms` (int64) as differences, `values` float64, `flags` uint8."""

    series_ids: list[str]
    groups: list[str]
    row: bytes
    timestamp_ms: bytes
    values: bytes
    flags: bytes


_ENCODER, _DECODER = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(_Stored)


def _encoded(readings: Readings, chosen: I64, masked: Bools) -> bytes:
    positions = chosen.tolist()
    names = [readings.series_ids[position] for position in positions]
    numbers: dict[str, int] = {}
    row = np.array([numbers.setdefault(name, len(numbers)) for name in names], "<i4")
    groups = readings.groups
    group = {} if groups is None else {name: groups[at] for name, at in zip(names, positions, strict=True)}
    values = readings.values[chosen]
    begins = np.diff(readings.record_of_reading[chosen], prepend=-1) != 0
    stored = _Stored(
        series_ids=list(numbers),
        groups=list(group.values()),
        row=np.diff(row, prepend=np.int32(0)).tobytes(),
        timestamp_ms=np.diff(readings.timestamp_ms[chosen], prepend=0).astype("<i8").tobytes(),
        values=values.astype("<f8").tobytes(),
        flags=(~np.isnan(values) * _OBSERVED + masked * _MASKED + begins * _BEGINS).astype("u1").tobytes(),
    )
    body = bytes([SCHEMA]) + zlib.compress(_ENCODER.encode(stored), _FAST)
    return zlib.crc32(body).to_bytes(_CRC_BYTES, "little") + body


def _middle(records: I64) -> int:
    """Return the start of the record that begins nearest to the middle; 0 if there is only one record."""
    begins = np.flatnonzero(np.diff(records)) + 1
    return int(begins[np.abs(begins - len(records) // 2).argmin()]) if len(begins) else 0


def _column(data: bytes, kind: str, count: int) -> NDArray[Any]:
    size = np.dtype(kind).itemsize
    if len(data) != size * count:
        raise DamagedHistory(f"a column has {len(data)} bytes; {count} numbers of {size} bytes were expected")
    return np.frombuffer(data, kind)


def _decompressed(body: bytes) -> _Stored:
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(body, MAX_DECOMPRESSED_BYTES)
        if not decompressor.eof:
            raise DamagedHistory(f"the value is cut, or decompresses to more than {MAX_DECOMPRESSED_BYTES} bytes")
        return _DECODER.decode(data)
    except (zlib.error, msgspec.DecodeError) as error:
        raise DamagedHistory(str(error)) from None


def _part(stored: _Stored) -> HistoryPart:
    count = len(stored.flags)
    flags = np.frombuffer(stored.flags, np.uint8)
    row = np.cumsum(_column(stored.row, "<i4", count), dtype=np.int64)
    if len(row) and (row.min() < 0 or row.max() >= len(stored.series_ids)):
        raise DamagedHistory(f"a reading names series {row.max()}, there are {len(stored.series_ids)}")
    if stored.groups and len(stored.groups) != len(stored.series_ids):
        raise DamagedHistory(f"{len(stored.groups)} groups for {len(stored.series_ids)} series")
    return HistoryPart(
        series_ids=stored.series_ids,
        groups=stored.groups,
        row=row,
        timestamp_ms=np.cumsum(_column(stored.timestamp_ms, "<i8", count), dtype=np.int64),
        values=_column(stored.values, "<f8", count).astype(np.float64),
        record_of_reading=np.cumsum((flags & _BEGINS) != 0, dtype=np.int64) - 1,
    )
