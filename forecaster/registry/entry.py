"""The records of one checkpoint on the models topic, complete or not."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import Description, PackedCheckpoint, parse_description, unpack
from forecaster.formats.models import MAX_CHUNKS


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that is complete on the topic; its weights are not in memory.

    Attributes:
        description: id, hash, network and facts.
        chunks: number of chunks of its weights.
        size: size of its weights, bytes.
        published_ms: timestamp of its description's record, epoch ms.
    """

    description: Description
    chunks: int
    size: int
    published_ms: int


@dataclass(slots=True)
class Entry:
    """The records of one checkpoint, complete or not.

    Attributes:
        description: description of the checkpoint; None = its record has not come.
        chunks: number of chunks that the description asks for.
        largest_size: most bytes that the weights of the described network can take.
        published_ms: timestamp of the description's record, epoch ms.
        seen_ms: timestamp of the newest record, epoch ms.
        sizes: sizes of the chunks on the topic, bytes, by number.
        pending: chunks that are held until they can be checked together, by number.
        held_bytes: size of the held chunks.
        fault: reason why the checkpoint must not be served; empty = no fault is known.
    """

    description: Description | None = None
    chunks: int = 0
    largest_size: int = 0
    published_ms: int = 0
    seen_ms: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    pending: dict[int, bytes] = field(default_factory=dict)
    held_bytes: int = 0
    fault: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether all records of the checkpoint are on the topic."""
        return self.description is not None and _has_all(self.sizes, self.chunks)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of the checkpoint any more."""
        return not (self.sizes or self.description or self.fault)

    @property
    def published(self) -> Published | None:
        """The checkpoint; None if it is incomplete or has a fault."""
        if self.description is None or not self.is_complete or self.fault:
            return None
        return Published(self.description, self.chunks, self._size, self.published_ms)

    def describe(self, name: str, value: bytes | None) -> None:
        """Set the description to that of a record; to None for a tombstone, or if it cannot be used.

        Args:
            name: id of the checkpoint, from the key of the record.
            value: value of the record.
        """
        self.description, self.chunks, self.fault = None, 0, ""
        if value is None:
            return
        try:
            body = msgspec.json.decode(value)
            chunks = body.pop("chunks", None) if isinstance(body, dict) else None
            description = parse_description(body, "the record")
            largest_size = description.largest_size
        except (ValueError, RecursionError, CheckpointError) as error:  # msgspec's errors are ValueErrors
            self.fault = f"its description cannot be used: {error}"
            return
        if description.id != name:
            self.fault = f"its description is that of {description.id}"
        elif type(chunks) is not int or not 1 <= chunks <= MAX_CHUNKS:
            self.fault = f"its description asks for {chunks!r:.100} chunks: an int from 1 to {MAX_CHUNKS} is needed"
        else:
            self.description, self.chunks, self.largest_size = description, chunks, largest_size

    def add_chunk(self, number: int, value: bytes | None, *, hold: bool) -> None:
        """Note a chunk of the weights; None = its tombstone.

        Args:
            number: number of the chunk.
            value: its bytes.
            hold: keep them until the weights can be checked.
        """
        self.sizes.pop(number, None)
        self.held_bytes -= len(self.pending.pop(number, b""))
        if value is not None:
            self.sizes[number] = len(value)
            if hold:
                self.pending[number] = value
                self.held_bytes += len(value)

    def drop_chunks(self) -> None:
        """Forget the held chunks."""
        self.pending.clear()
        self.held_bytes = 0

    def take(self) -> PackedCheckpoint | None:
        """Return the checkpoint and forget its chunks; None while a record is missing, or if it must not be served.

        A defect of a complete checkpoint becomes its `fault`.
        """
        if self.fault or not self.is_complete:
            return None
        if self._size > self.largest_size:
            self.fault = f"its weights have {self._size} bytes, but its network needs {self.largest_size} at most"
            self.drop_chunks()
        if self.fault or self.description is None or not _has_all(self.pending, self.chunks):
            return None
        packed = PackedCheckpoint(self.description, b"".join(self.pending[number] for number in range(self.chunks)))
        self.drop_chunks()
        try:
            unpack(packed, "weights on the topic")
        except CheckpointError as error:
            self.fault = str(error)
            return None
        return packed

    @property
    def _size(self) -> int:
        return sum(self.sizes[number] for number in range(self.chunks))


def _has_all(chunks: dict[int, int] | dict[int, bytes], count: int) -> bool:
    """Return whether the chunks 0 to count - 1 are there."""
    return len(chunks) >= count and all(number in chunks for number in range(count))
