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
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from forecaster.core.arrays import arrays, replaced
from forecaster.core.checkpoint_ids import UNKNOWN_BODY
from forecaster.core.state import SeriesState, StateShape
from forecaster.errors import ForecasterError, StateError

SCHEMA = 1
FLOOR = "floor"
FORMER_NAMES = {"inputs.reference": "inputs.origin"}
"""Names of arrays in blocks of earlier versions, whose rows are re-warmed."""
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
        schema: version of the record's layout.
    """

    identity: Identity
    offset: int
    full: bool = msgspec.field(default=False, name="closed")
    events: list[Event] = []
    swaps: list[Swap] = []
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
    """Return the block.

    Raises:
        CorruptState: the value is not a block, or was damaged.
        StateError: a newer version wrote it.
    """
    return _decode(value, _BLOCK)


def decode_floor(value: bytes) -> Floor:
    """Return the floor.

    Raises:
        CorruptState: the value is not a floor, or was damaged.
        StateError: a newer version wrote it.
    """
    return _decode(value, _FLOOR)


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
    empty = shape.empty(len(block.series_ids))
    values = {name: loaded_array(block, name, array) for name, array in arrays(empty) if name != "hidden"}
    values["hidden"] = _other_width(block, "hidden", empty.hidden)
    if block.arrays["hidden"].shape[-1] > shape.hidden:
        values["hidden"], values["body"] = empty.hidden, np.full_like(empty.body, UNKNOWN_BODY)
    return replaced(empty, values)


def adapted_state(block: StoredBlock, shape: StateShape) -> SeriesState:
    """Return the rows of a block of another pipeline with the same interval: timeline, scale, levels and context.

    The rows are re-warmed at their next readings. Evidence for another interval is dropped.

    Raises:
        CorruptState: an array of both pipelines has another type or shape in the block.
    """
    empty = shape.empty(len(block.series_ids))
    kept = ("timeline.", "inputs.reference", "inputs.last", "inputs.warming", "inputs.scaler.")
    values = dict(arrays(empty))
    same = [name for name in values if name.startswith(kept) and not name.startswith("timeline.rival")]
    values |= {name: loaded_array(block, name, values[name]) for name in same}
    values["inputs.context"] = _other_width(block, "inputs.context", empty.inputs.context)
    values["body"] = np.full_like(empty.body, UNKNOWN_BODY)
    return replaced(empty, values)


def _other_width(block: StoredBlock, name: str, like: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first columns of an array that may have another width; missing columns are as in `like`."""
    stored = block.arrays.get(name)
    width = stored.shape[-1] if stored is not None else 0
    loaded = loaded_array(block, name, np.empty((len(like), width), like.dtype))
    array = like.copy()
    common = min(width, array.shape[1])
    array[:, :common] = loaded[:, :common]
    return array


def loaded_array(block: StoredBlock, name: str, like: NDArray[Any]) -> NDArray[Any]:
    """Return an array of a block; raise CorruptState if its type and shape are not those of `like`."""
    stored = block.arrays.get(name) or block.arrays.get(FORMER_NAMES.get(name, name))
    if stored is None or stored.type != like.dtype.name or stored.shape != list(like.shape):
        raise CorruptState(f"{name} is missing, or is not {like.dtype.name} {list(like.shape)}")
    return np.frombuffer(stored.data, like.dtype).reshape(like.shape)


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
    except msgspec.DecodeError as error:
        raise CorruptState(str(error)) from None
