"""What the topics hold of a partition: its stored state, and the bounds of its input."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from forecaster.clock import Clock
from forecaster.errors import TransientBrokerError
from forecaster.formats.state import FLOOR, CorruptState, Floor, StoredBlock, decode_block, decode_floor
from forecaster.formats.state_log import StateLog, state_log
from forecaster.interfaces import PartitionReader
from forecaster.records import SourceRecord, TopicFacts
from forecaster.serving.state.progress import RestoreProgress

BLOCK_NAME = re.compile("0|[1-9][0-9]{0,11}")
"""Last part of the key of a block, as it is written: its number; other keys are ignored."""
CONFIRM_SECONDS = 2.0
"""Time to wait for a record that must be in the log."""


class InputReader(PartitionReader, Protocol):
    """A `LogReader` that also knows the consumer group's offsets, and the topic itself."""

    def committed(self, topic: str, partition: int) -> int | None:
        """Return the consumer group's committed offset; None = there is none."""

    def facts(self, topic: str) -> TopicFacts:
        """Return what the input topic is now; raise InputMissing if it does not exist."""

    def topic_id(self, topic: str) -> str:
        """Return the id of a topic; a broker without topic ids has none for it."""

    def is_compacted(self, topic: str) -> bool:
        """Return whether Kafka compacts a topic; false if this user may not ask."""


@dataclass(frozen=True, slots=True)
class InputBounds:
    """Offsets of a partition's input.

    Attributes:
        committed: offset that the consumer group has committed; None = none.
        log_start: first offset of the log.
        log_end: offset after the last record of the log.
        after_output: offset after the input record that the newest output names; None = no output of this input was
            found, or it was not needed.
        has_outputs_of_other_input: there are outputs of an input topic that had the same name.
    """

    committed: int | None
    log_start: int
    log_end: int
    after_output: int | None = None
    has_outputs_of_other_input: bool = False


@dataclass
class StoredState:
    """Stored state of a partition, as read from the state topic.

    Attributes:
        blocks: readable blocks, by number.
        floor: the floor; None = there is none, or it cannot be read.
        corrupt: why a record cannot be read, by the last part of its key.
        block_numbers: numbers of all blocks, readable or not.
        missing: checkpoints that the floor names and that cannot serve here.
        has_other_groups: other consumer groups have stored state of the partition.
        topic: name of the state topic.
        log: log of the state topic as it was read; None = the topic does not exist yet.
    """

    blocks: dict[int, StoredBlock] = field(default_factory=dict)
    floor: Floor | None = None
    corrupt: dict[str, str] = field(default_factory=dict)
    block_numbers: set[int] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    has_other_groups: bool = False
    topic: str = ""
    log: StateLog | None = None

    def add(self, name: str, value: bytes | None) -> None:
        """Take the next record of a key, which replaces earlier ones; note a record that cannot be read.

        Args:
            name: last part of the key: a block's number, or the floor's name.
            value: value of the record; None = a tombstone.

        Raises:
            StateError: a newer version wrote it.
        """
        self.corrupt.pop(name, None)
        try:
            if name == FLOOR:
                self.floor = None
                self.floor = None if value is None else decode_floor(value)
            elif BLOCK_NAME.fullmatch(name):
                self._add_block(int(name), value)
        except CorruptState as error:
            self.corrupt[name] = str(error)

    @property
    def is_empty(self) -> bool:
        """Whether the group has stored nothing that counts, readable or not."""
        return self.floor is None and not self.corrupt and not self.blocks

    @property
    def loss(self) -> str:
        """Why blocks that the floor needs may be missing, for a person; empty = the state topic still holds them.

        A floor of an earlier version does not name the log of the state topic, and is trusted.
        """
        before = self.floor.state_log if self.floor is not None else None
        loss = before.loss(self.log) if before is not None and self.log is not None else ""
        return loss and f"blocks may be missing from state topic {self.topic}: {loss}"

    def refuse(self, block_number: int, reason: str) -> None:
        """Count a block that was read as one that cannot be read."""
        del self.blocks[block_number]
        self.corrupt[str(block_number)] = reason

    def _add_block(self, block_number: int, value: bytes | None) -> None:
        self.blocks.pop(block_number, None)
        self.block_numbers.discard(block_number)
        if value is not None:
            self.block_numbers.add(block_number)
            self.blocks[block_number] = decode_block(value)


def input_bounds(reader: InputReader, topic: str, partition: int, clock: Clock) -> InputBounds:
    """Return the bounds of a partition's input.

    The broker can report an end before the committed offset for a moment. Then the record before that offset decides:
    if it can be read, the log reaches up to the committed offset.

    Raises:
        TransientBrokerError: the broker did not answer.
    """
    committed = reader.committed(topic, partition)
    start, end = reader.bounds(topic, partition)
    if committed is not None and committed > end:
        end = max(end, _confirmed_end(reader, topic, partition, committed, clock))
    return InputBounds(committed, start, end)


def _confirmed_end(reader: InputReader, topic: str, partition: int, committed: int, clock: Clock) -> int:
    """Return how far the log can be read, `committed` at most; 0 if the broker refuses to read there."""
    reader.seek(topic, partition, committed - 1)
    deadline = clock() + CONFIRM_SECONDS
    try:
        while reader.position < committed and clock() < deadline:
            reader.read()
    except TransientBrokerError:  # Kafka's answer to an offset beyond the end
        return 0
    return min(committed, reader.position)


def read_state(
    reader: InputReader, topic: str, partition: int, key_prefix: str
) -> Generator[RestoreProgress, None, StoredState]:
    """Read the state topic up to its high watermark; return the newest record of each key of the group.

    The floor names the log of the topic that it promises for, so that log is read, too: before the records, and again
    after them, since those that are deleted in the meantime may be missing.

    Args:
        reader: reads the topic.
        topic: the state topic; empty = it does not exist yet.
        partition: number of the partition.
        key_prefix: first part of the group's keys; the keys of other groups are ignored.

    Raises:
        StateError: a newer version wrote the state.
        TransientBrokerError: the broker did not answer, or records of the topic were deleted in the meantime.
    """
    stored = StoredState(topic=topic)
    if not topic:
        return stored
    topic_id = reader.topic_id(topic)
    begin, end = reader.bounds(topic, partition)
    stored.log = state_log(topic_id, begin)
    if begin >= end:
        return stored
    reader.seek(topic, partition, begin)
    records: Sequence[SourceRecord] = ()
    while records or reader.position < end:
        records = reader.read()
        for record in records:
            prefix, _, name = (record.key or b"").decode(errors="replace").rpartition("/")
            if prefix == f"{key_prefix}/{record.partition}":
                stored.add(name, record.value)
            else:
                stored.has_other_groups = True
        yield RestoreProgress("read_state", partition, reader.position, end)
    if loss := stored.log.loss(state_log(reader.topic_id(topic), reader.bounds(topic, partition)[0])):
        raise TransientBrokerError(f"state topic {topic}, partition {partition}: while it was read, {loss}")
    return stored


def first_written_ms(reader: PartitionReader, topic: str, partition: int, clock: Clock) -> int | None:
    """Return when the first record of a partition was written; None if it has none, or carries no time.

    Raises:
        TransientBrokerError: the broker did not answer.
    """
    begin, end = reader.bounds(topic, partition)
    if begin == end:
        return None
    reader.seek(topic, partition, begin)
    deadline = clock() + CONFIRM_SECONDS
    while reader.position < end and clock() < deadline:
        for record in reader.read():
            return record.timestamp if record.timestamp > 0 else None
    return None
