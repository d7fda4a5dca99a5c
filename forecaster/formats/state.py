"""What is kept in the state topic: blocks of rows, and for each partition the floor with what happened above it.

| key | value |
|---|---|
| `<group>/<partition>/<block>` | a `StoredBlock`; a tombstone when the block is no more |
| `<group>/<partition>/floor` | a `Floor`: where a replay must begin |

A value is 16 bytes of BLAKE2b over the rest, then MessagePack. Numbers are little-endian arrays with their type and
shape; nothing is executed on reading.
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
from forecaster.core.network.model import UNKNOWN_BODY
from forecaster.core.state import SeriesState, StateShape
from forecaster.errors import ForecasterError, StateError

SCHEMA = 1
FLOOR = "floor"
FORMER_NAMES = {"inputs.reference": "inputs.origin"}
"""Names that arrays had in blocks of earlier versions, for rows that are re-warmed."""
_HASH_BYTES = 16
_ENCODER = msgspec.msgpack.Encoder()


class CorruptSnapshot(ForecasterError):
    """A record of the state topic is not what was written."""


class Identity(msgspec.Struct, frozen=True):
    """What stored state belongs to; state of another identity is never taken for ours.

    The body that a hidden state belongs to is named by its row.

    Attributes:
        cluster: id of the Kafka cluster.
        topic: id of the input topic: another one when it was deleted and made again.
        partitions: of the input topic.
        pipeline: hash of what rows hold: the settings that shape them, and how this version keeps them.
        interval_ms: of the grids; 0 = learned.
    """

    cluster: str
    topic: str
    partitions: int
    pipeline: str
    interval_ms: int


class Swap(msgspec.Struct, frozen=True):
    """From an offset on a checkpoint serves.

    Attributes:
        offset: of the first reading that it can forecast at.
        checkpoint: its id.
        slots: so many groups of groups switch one after another.
        stride: offsets from slot to slot.
    """

    offset: int
    checkpoint: str
    slots: int = 1
    stride: int = 0

    @property
    def end(self) -> int:
        """Every group switches at its first reading at or after this offset, at the latest."""
        return self.offset + (self.slots - 1) * self.stride


class Event(msgspec.Struct, frozen=True):
    """What happened to rows between readings, so that a replay does the same.

    Attributes:
        offset: before the record at this offset.
        freed: series that lost their rows.
        full: from here on no new series gets a row.
    """

    offset: int
    full: bool = msgspec.field(name="closed")
    freed: list[str] = []


class Floor(msgspec.Struct, frozen=True):
    """Where a replay begins, and the events from there on.

    Attributes:
        offset: the first that is not in its block.
        full: whether new series got rows there.
        events: ascending by offset.
        swaps: which checkpoints serve from there on, ascending by offset; the first one does at the floor.
    """

    identity: Identity
    offset: int
    full: bool = msgspec.field(default=False, name="closed")
    events: list[Event] = []
    swaps: list[Swap] = []
    schema: int = SCHEMA


class StoredArray(msgspec.Struct, frozen=True):
    """One array of a block: numpy's name of its type, its shape, its bytes."""

    type: str
    shape: list[int]
    data: bytes


class StoredBlock(msgspec.Struct, frozen=True):
    """Rows as they were before the record at `offset`.

    Attributes:
        offset: all readings of these rows before it are in them.
        series_ids: the series of each row.
        groups: the group of each; empty = each series is its own.
        arrays: by dotted name; one row a series.
    """

    identity: Identity
    offset: int
    series_ids: list[str]
    groups: list[str]
    arrays: dict[str, StoredArray]
    schema: int = SCHEMA


def encode(record: StoredBlock | Floor) -> bytes:
    """Returns the record's value."""
    body = _ENCODER.encode(record)
    return hashlib.blake2b(body, digest_size=_HASH_BYTES).digest() + body


def decode_block(value: bytes) -> StoredBlock:
    """Returns the block; raises CorruptSnapshot, or StateError where a newer version wrote it."""
    return _decode(value, _BLOCK)


def decode_floor(value: bytes) -> Floor:
    """Returns the floor; raises CorruptSnapshot, or StateError where a newer version wrote it."""
    return _decode(value, _FLOOR)


def stored_arrays(state: SeriesState) -> dict[str, StoredArray]:
    """Returns the arrays of the rows."""
    if sys.byteorder != "little":
        raise StateError("stored state is little-endian, and so must the machine be")
    return {name: StoredArray(array.dtype.name, list(array.shape), array.tobytes()) for name, array in arrays(state)}


def loaded_state(block: StoredBlock, shape: StateShape) -> SeriesState:
    """Returns the rows of a block whose pipeline is ours.

    Raises:
        CorruptSnapshot: its arrays are not those of the shape.
    """
    empty = shape.empty(len(block.series_ids))
    values = {name: loaded_array(block, name, array) for name, array in arrays(empty) if name != "hidden"}
    values["hidden"] = _other_width(block, "hidden", empty.hidden)
    if block.arrays["hidden"].shape[-1] > shape.hidden:
        values["hidden"], values["body"] = empty.hidden, np.full_like(empty.body, UNKNOWN_BODY)
    return replaced(empty, values)


def adapted_state(block: StoredBlock, shape: StateShape) -> SeriesState:
    """Returns timeline, scale, levels and the inputs' context of the rows of a block whose pipeline is not ours.

    Its grids must have our interval. The rows are re-warmed at their next readings. What speaks for another interval is
    gathered anew.

    Raises:
        CorruptSnapshot: an array that both pipelines have is not the same kind of array in both.
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
    """Returns the first columns of an array of another width; those that it lacks are as in `like`."""
    stored = block.arrays.get(name)
    width = stored.shape[-1] if stored is not None else 0
    found = loaded_array(block, name, np.empty((len(like), width), like.dtype))
    array = like.copy()
    common = min(width, array.shape[1])
    array[:, :common] = found[:, :common]
    return array


def loaded_array(block: StoredBlock, name: str, like: NDArray[Any]) -> NDArray[Any]:
    """Returns one array of a block; raises CorruptSnapshot where it is not like the other."""
    stored = block.arrays.get(name) or block.arrays.get(FORMER_NAMES.get(name, name))
    if stored is None or stored.type != like.dtype.name or stored.shape != list(like.shape):
        raise CorruptSnapshot(f"{name} is not {like.dtype.name} {list(like.shape)}")
    return np.frombuffer(stored.data, like.dtype).reshape(like.shape)


Record = TypeVar("Record", StoredBlock, Floor)
_BLOCK, _FLOOR = msgspec.msgpack.Decoder(StoredBlock), msgspec.msgpack.Decoder(Floor)


class _AnySchema(msgspec.Struct):
    schema: int


_SCHEMA = msgspec.msgpack.Decoder(_AnySchema)


def _decode(value: bytes, decoder: msgspec.msgpack.Decoder[Record]) -> Record:
    digest, body = value[:_HASH_BYTES], value[_HASH_BYTES:]
    if hashlib.blake2b(body, digest_size=_HASH_BYTES).digest() != digest:
        raise CorruptSnapshot("its hash is wrong")
    schema = _parsed(_SCHEMA.decode, body).schema
    if schema > SCHEMA:
        raise StateError(
            f"stored state has schema {schema}, this version reads up to {SCHEMA}: run the newer version that wrote it"
        )
    return _parsed(decoder.decode, body)


Parsed = TypeVar("Parsed")


def _parsed(decode: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    try:
        return decode(body)
    except msgspec.DecodeError as error:
        raise CorruptSnapshot(str(error)) from None
