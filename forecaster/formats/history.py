"""Records of the history topic: the readings of a partition and batch that became steps of their series, by column.

A value is the CRC-32 of the rest (4 bytes, little-endian), the schema (1 byte), then MessagePack under zlib. Columns
are little-endian arrays; stamps and series numbers are kept as differences to the one before, which are mostly alike.
Nothing is executed on reading, and a value unfolds to a bounded size.

A record of the input is never cut: its readings are neighbours in one value, and the first of them is flagged.
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
MAX_VALUE_BYTES = 524_288
"""Larger batches become several records, far below what a broker refuses by default."""
MAX_UNFOLDED_BYTES = 134_217_728
HASHES = 2**32
_OBSERVED, _MASKED, _BEGINS = 1, 2, 4
_HEAD = struct.Struct("<IB")
_CRC_BYTES = 4
_FAST = 1


class DamagedHistory(ForecasterError):
    """A record of the history topic is not what was written."""


@dataclass(frozen=True, slots=True)
class HistoryPart:
    """N readings of S series, as one partition's batch had them.

    Attributes:
        series_ids: the S series.
        groups: the group of each; empty = each series is its own.
        row: which series each reading is of; (N,).
        timestamp_ms: event time, epoch ms, UTC; (N,).
        values: raw; NaN where missing; (N,).
        observed: there was a value; (N,).
        masked: the denoiser kept it from the inputs; (N,).
        records: readings of one record are of one group; ascending from 0; (N,).
    """

    series_ids: list[str]
    groups: list[str]
    row: I64
    timestamp_ms: I64
    values: F64
    observed: Bools
    masked: Bools
    records: I64

    def __len__(self) -> int:
        return len(self.row)


def group_hash(name: str) -> int:
    """Returns where a group stands among all, 0 to 2**32 - 1: the same in every process and version."""
    return zlib.crc32(name.encode())


def encode_history(partition: int, readings: Readings, chosen: I64, masked: Bools) -> list[Message]:
    """Returns the records of a partition's batch: none of no readings, seldom more than one.

    Args:
        partition: of the readings' records.
        readings: of the whole batch.
        chosen: positions of those written, ascending; (N,).
        masked: which of them the denoiser kept from the inputs; (N,).
    """
    if not len(chosen):
        return []
    value = _encoded(readings, chosen, masked)
    cut = _middle(readings.records[chosen]) if len(value) > MAX_VALUE_BYTES else 0
    if cut:
        left = encode_history(partition, readings, chosen[:cut], masked[:cut])
        return left + encode_history(partition, readings, chosen[cut:], masked[cut:])
    return [Message(partition, None, value, [(COUNT_HEADER, str(len(chosen)).encode())])]


def decode_history(value: bytes) -> HistoryPart:
    """Returns the readings of a record.

    Raises:
        DamagedHistory: it is not what was written.
        StateError: a newer version wrote it.
    """
    if len(value) < _HEAD.size:
        raise DamagedHistory(f"a value of {len(value)} bytes is cut")
    crc, schema = _HEAD.unpack_from(value)
    if crc != zlib.crc32(memoryview(value)[_CRC_BYTES:]):
        raise DamagedHistory("its CRC-32 is wrong")
    if schema > SCHEMA:
        raise StateError(
            f"a record of the history topic has schema {schema}, this version reads up to {SCHEMA}: run the newer "
            "version that wrote it, or empty the topic"
        )
    return _part(_unfolded(value[_HEAD.size :]))


def count_of(record: SourceRecord) -> int | None:
    """Returns how many readings a record says that it holds; None where it does not say."""
    text = next((content for name, content in record.headers if name == COUNT_HEADER), b"")
    return int(text) if text.isdigit() and len(text) < 10 else None


class _Stored(msgspec.Struct, frozen=True):
    """What is in a value; `row` is int32, `timestamp_ms` int64, both differences; `values` float64, `flags` uint8."""

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
    begins = np.diff(readings.records[chosen], prepend=-1) != 0
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
    """Returns where a record begins, as near the middle as there is one; 0 where there is one record."""
    begins = np.flatnonzero(np.diff(records)) + 1
    return int(begins[np.abs(begins - len(records) // 2).argmin()]) if len(begins) else 0


def _column(data: bytes, kind: str, count: int) -> NDArray[Any]:
    size = np.dtype(kind).itemsize
    if len(data) != size * count:
        raise DamagedHistory(f"a column of {len(data)} bytes does not hold {count} numbers of {size}")
    return np.frombuffer(data, kind)


def _unfolded(body: bytes) -> _Stored:
    unfolding = zlib.decompressobj()
    try:
        data = unfolding.decompress(body, MAX_UNFOLDED_BYTES)
        if not unfolding.eof:
            raise DamagedHistory(f"it is cut, or unfolds to more than {MAX_UNFOLDED_BYTES} bytes")
        return _DECODER.decode(data)
    except (zlib.error, msgspec.DecodeError) as error:
        raise DamagedHistory(str(error)) from None


def _part(stored: _Stored) -> HistoryPart:
    count = len(stored.flags)
    flags = np.frombuffer(stored.flags, np.uint8)
    row = np.cumsum(_column(stored.row, "<i4", count), dtype=np.int64)
    if len(row) and (row.min() < 0 or row.max() >= len(stored.series_ids)):
        raise DamagedHistory(f"a reading of series {row.max()} of {len(stored.series_ids)}")
    if stored.groups and len(stored.groups) != len(stored.series_ids):
        raise DamagedHistory(f"{len(stored.groups)} groups of {len(stored.series_ids)} series")
    return HistoryPart(
        series_ids=stored.series_ids,
        groups=stored.groups,
        row=row,
        timestamp_ms=np.cumsum(_column(stored.timestamp_ms, "<i8", count), dtype=np.int64),
        values=_column(stored.values, "<f8", count).astype(np.float64),
        observed=(flags & _OBSERVED) != 0,
        masked=(flags & _MASKED) != 0,
        records=np.cumsum((flags & _BEGINS) != 0, dtype=np.int64) - 1,
    )
