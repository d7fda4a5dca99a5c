"""Records of the state topic: blocks of rows, and one floor for each partition.

| key | value |
|---|---|
| `<group>/<partition>/<block>` | a `StoredBlock`; a tombstone where the block is gone |
| `<group>/<partition>/floor` | a `Floor`: the offset at which a replay begins, and the changes above it |

A value consists of a 16-byte BLAKE2b hash of the rest, and MessagePack. Numbers are stored as little-endian arrays with
type and shape; decoding executes nothing.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from forecaster.core.arrays import arrays, convert, replaced
from forecaster.core.checkpoint_ids import UNKNOWN_BODY
from forecaster.core.state import SeriesState, StateShape
from forecaster.errors import ForecasterError, StateError
from forecaster.formats.state_log import StateLog

SCHEMA = 1
FLOOR = "floor"
FORMER_NAMES = {"inputs.reference": "inputs.origin"}
"""Names of arrays in blocks of earlier versions, whose rows are re-warmed."""
MAX_COLUMNS = 2**31
"""Each dimension of an array is smaller."""
MAX_OFFSET = 2**62
"""Offsets, slots and strides are smaller, so that their sums fit in 64 bits."""
_HASH_BYTES = 16
_ENCODER = msgspec.msgpack.Encoder()


class CorruptState(ForecasterError):
    """A record of the state topic cannot be decoded, or differs from what was written."""


class Identity(msgspec.Struct, frozen=True):
    """Origin of stored state; `plan_recovery` restores state of the own identity, and re-warms or refuses other state.

    The body that a hidden state belongs to is named in its row.

    Attributes:
        cluster: id of the Kafka cluster.
        topic: id of the input topic, which changes when the topic is deleted and created again.
        partitions: partition count of the input topic.
        pipeline: hash of the settings that shape the rows, and of the version of their layout.
        interval_ms: interval of the grids, ms; 0 = learned.
    """

    cluster: str
    topic: str
    partitions: int
    pipeline: str
    interval_ms: int


class Swap(msgspec.Struct, frozen=True):
    """A change of the checkpoint that serves, from an offset on.

    Attributes:
        offset: offset of the first reading that the checkpoint can forecast at.
        checkpoint: id of the checkpoint.
        slots: number of sets of groups that switch one after another.
        stride: offsets from one slot to the next.
    """

    offset: int
    checkpoint: str
    slots: int = 1
    stride: int = 0

    @property
    def end(self) -> int:
        """Offset from which on every group is served by the checkpoint."""
        return self.offset + (self.slots - 1) * self.stride


class Event(msgspec.Struct, frozen=True):
    """A change of rows between two readings, which a replay repeats.

    Attributes:
        offset: offset of the record before which it happened.
        full: no new series gets a row from here on.
        freed: series that lost their rows.
    """

    offset: int
    full: bool = msgspec.field(name="closed")
    freed: list[str] = []


class Floor(msgspec.Struct, frozen=True):
    """Offset at which a replay begins, and the changes from there on.

    Attributes:
        identity: origin of the state.
        offset: first offset whose reading is not in its block.
        full: no new series got a row at the floor.
        events: changes of rows from the floor on, ascending by offset.
        swaps: swaps from the floor on, ascending by offset; the first one serves at the floor.
        state_log: log of the state topic that has held the blocks since; None = an earlier version wrote the floor.
        schema: version of the record's layout.
    """

    identity: Identity
    offset: int
    full: bool = msgspec.field(default=False, name="closed")
    events: list[Event] = []
    swaps: list[Swap] = []
    state_log: StateLog | None = None
    schema: int = SCHEMA


class StoredArray(msgspec.Struct, frozen=True):
    """An array of a block: its type as numpy names it, its shape and its bytes."""

    type: str
    shape: list[int]
    data: bytes


class StoredBlock(msgspec.Struct, frozen=True):
    """Rows as they were before the record at `offset`.

    Attributes:
        identity: origin of the state.
        offset: the rows hold all of their readings before it.
        series_ids: series of each row.
        groups: group of each series; empty = each series is its own.
        arrays: arrays of the rows, by dotted name; one row for each series.
        schema: version of the record's layout.
    """

    identity: Identity
    offset: int
    series_ids: list[str]
    groups: list[str]
    arrays: dict[str, StoredArray]
    schema: int = SCHEMA


def encode(record: StoredBlock | Floor) -> bytes:
    """Return the value of the record."""
    body = _ENCODER.encode(record)
    return hashlib.blake2b(body, digest_size=_HASH_BYTES).digest() + body


def decode_block(value: bytes) -> StoredBlock:
    """Return the block. Its arrays are as large as they claim; `refuse_invalid` checks their numbers.

    Raises:
        CorruptState: the value is not a block, or was damaged.
        StateError: a newer version wrote it.
    """
    block = _decode(value, _BLOCK)
    count = len(block.series_ids)
    if not 0 <= block.offset < MAX_OFFSET:
        raise CorruptState(f"its offset is {block.offset}")
    if len(set(block.series_ids)) != count or "" in block.series_ids:
        raise CorruptState("a series has two rows, or no name")
    if block.groups and (len(block.groups) != count or "" in block.groups):
        raise CorruptState("a series has no group")
    for name, array in block.arrays.items():
        size = _ITEM_BYTES.get(array.type, 0)
        is_sound = array.shape and array.shape[0] == count and 0 <= min(array.shape) <= max(array.shape) < MAX_COLUMNS
        if not size or not is_sound or size * math.prod(array.shape) != len(array.data):
            raise CorruptState(f"{name[:100]!r} is no array of {count} rows")
    return block


def decode_floor(value: bytes) -> Floor:
    """Return the floor.

    Raises:
        CorruptState: the value is not a floor, or was damaged.
        StateError: a newer version wrote it.
    """
    floor = _decode(value, _FLOOR)
    offsets = [event.offset for event in floor.events], [swap.offset for swap in floor.swaps]
    if not all(0 <= offset < MAX_OFFSET for offset in [floor.offset, *offsets[0], *offsets[1]]):
        raise CorruptState("an offset is negative, or too large")
    if any(later < earlier for ascending in offsets for earlier, later in pairwise(ascending)):
        raise CorruptState("its events or swaps do not ascend by offset")
    if any(len(set(event.freed)) != len(event.freed) for event in floor.events):
        raise CorruptState("an event frees a series twice")
    if not floor.swaps or any(not _is_possible(swap) for swap in floor.swaps):
        raise CorruptState("it has no swap, or one whose slots never end")
    if floor.state_log is not None and not 0 <= floor.state_log.start < MAX_OFFSET:
        raise CorruptState("the first offset of the state topic is negative, or too large")
    return floor


def _is_possible(swap: Swap) -> bool:
    """Return whether a swap has slots, and its end fits in 64 bits."""
    return swap.slots >= 1 and 0 <= swap.stride < MAX_OFFSET and swap.end < MAX_OFFSET


def refuse_invalid(block: StoredBlock, shape: StateShape) -> None:
    """Raise CorruptState if the rows of a block of the same pipeline do not fit its shape, or can be no rows."""
    name = shape.invalid(_loaded(block, shape, copy=False))
    if name:
        raise CorruptState(f"{name} holds numbers that no series has")


def stored_arrays(state: SeriesState) -> dict[str, StoredArray]:
    """Return the arrays of the rows; raise StateError on a big-endian machine."""
    if sys.byteorder != "little":
        raise StateError("stored state is little-endian, and this machine is not: run on a little-endian machine")
    return {name: StoredArray(array.dtype.name, list(array.shape), array.tobytes()) for name, array in arrays(state)}


def loaded_state(block: StoredBlock, shape: StateShape) -> SeriesState:
    """Return the rows of a block of the same pipeline; hidden states that do not fit are left empty.

    Raises:
        CorruptState: the arrays of the block do not match the shape.
    """
    return _loaded(block, shape, copy=True)


def _loaded(block: StoredBlock, shape: StateShape, *, copy: bool) -> SeriesState:
    """Return the rows of a block of the same pipeline; without `copy`, most of them in the memory of the block."""
    empty = shape.empty(0)
    count = len(block.series_ids)
    values = {name: loaded_array(block, name, array, count) for name, array in arrays(empty) if name != "hidden"}
    values["hidden"] = _other_width(block, "hidden", empty.hidden)
    if block.arrays["hidden"].shape[-1] > shape.hidden:
        values["hidden"] = np.zeros((count, shape.hidden), np.float32)
        values["body"] = np.full(count, UNKNOWN_BODY, np.int64)
    if copy:
        return replaced(empty, values)
    names = iter([name for name, _ in arrays(empty)])
    return convert(empty, lambda _: values[next(names)])


def adapted_state(block: StoredBlock, shape: StateShape) -> SeriesState:
    """Return the rows of a block of another pipeline with the same interval: timeline, scale, levels and context.

    The rows are re-warmed at their next readings. Evidence for another interval is dropped.

    Raises:
        CorruptState: an array of both pipelines has another type or shape in the block.
    """
    count = len(block.series_ids)
    kept = ("timeline.", "inputs.reference", "inputs.last", "inputs.warming", "inputs.scaler.")
    template = dict(arrays(shape.empty(0)))
    same = [name for name in template if name.startswith(kept) and not name.startswith("timeline.rival")]
    loaded = {name: loaded_array(block, name, template[name], count) for name in same}
    loaded["inputs.context"] = _other_width(block, "inputs.context", template["inputs.context"])
    empty = shape.empty(count)  # only now: the block holds as many rows as it says
    state = replaced(empty, {**dict(arrays(empty)), **loaded, "body": np.full_like(empty.body, UNKNOWN_BODY)})
    name = shape.invalid(state)
    if name:
        raise CorruptState(f"{name} holds numbers that no series has")
    return state


def _other_width(block: StoredBlock, name: str, like: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first columns of an array that may have another width; missing columns are empty.

    Args:
        block: the block.
        name: `hidden`, whose missing columns are 0, or `inputs.context`, whose missing columns are NaN.
        like: array of another number of rows.
    """
    stored, count = block.arrays.get(name), len(block.series_ids)
    width = stored.shape[-1] if stored is not None else 0
    loaded = loaded_array(block, name, np.empty((0, width), like.dtype), count)
    if width == like.shape[1]:
        return loaded
    array = np.full((count, like.shape[1]), 0.0 if name == "hidden" else np.nan, like.dtype)
    common = min(width, array.shape[1])
    array[:, :common] = loaded[:, :common]
    return array


def loaded_array(block: StoredBlock, name: str, like: NDArray[Any], count: int) -> NDArray[Any]:
    """Return an array of a block, in the memory of the block.

    Args:
        block: the block.
        name: dotted name of the array.
        like: array of the same type whose rows have the same shape.
        count: number of rows.

    Raises:
        CorruptState: the array is missing, or has another type or shape.
    """
    stored = block.arrays.get(name) or block.arrays.get(FORMER_NAMES.get(name, name))
    shape = [count, *like.shape[1:]]
    if stored is None or stored.type != like.dtype.name or stored.shape != shape:
        raise CorruptState(f"{name} is missing, or is not {like.dtype.name} {shape}")
    return np.frombuffer(stored.data, like.dtype).reshape(shape)


_ITEM_BYTES = {
    name: np.dtype(name).itemsize
    for name in ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
}
"""Bytes of a number of each type that rows may consist of, in this version or another one."""
Record = TypeVar("Record", StoredBlock, Floor)
_BLOCK, _FLOOR = msgspec.msgpack.Decoder(StoredBlock), msgspec.msgpack.Decoder(Floor)


class _AnySchema(msgspec.Struct):
    schema: int


_SCHEMA = msgspec.msgpack.Decoder(_AnySchema)


def _decode(value: bytes, decoder: msgspec.msgpack.Decoder[Record]) -> Record:
    digest, body = value[:_HASH_BYTES], value[_HASH_BYTES:]
    if hashlib.blake2b(body, digest_size=_HASH_BYTES).digest() != digest:
        raise CorruptState("its hash is wrong")
    schema = _parsed(_SCHEMA.decode, body).schema
    if schema < 1:
        raise CorruptState(f"its schema is {schema}")
    if schema > SCHEMA:
        raise StateError(
            f"stored state has schema {schema}, but this version reads schemas up to {SCHEMA}: run the newer version "
            "that wrote it"
        )
    return _parsed(decoder.decode, body)


Parsed = TypeVar("Parsed")


def _parsed(decode: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    try:
        return decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise CorruptState(str(error)) from None
