"""Where a partition was read up to, as its own outputs show it: each names the input record that it was made of."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from forecaster.formats.sources import Source, source_of
from forecaster.interfaces import PartitionReader
from forecaster.serving.state.progress import RestoreProgress

FIRST_STEP = 250
"""Offsets that are read first, from the end of a topic backwards; there are markers and aborted records between."""
STEP_GROWTH = 8


@dataclass(frozen=True, slots=True)
class InputPartition:
    """A partition of the input.

    Attributes:
        topic: name of the input topic.
        partition: number of the partition.
        input_id: short id of the topic.
    """

    topic: str
    partition: int
    input_id: str


@dataclass(frozen=True, slots=True)
class OutputPosition:
    """What the newest outputs of an input partition show.

    Attributes:
        after_output: offset after the newest input record that has an output; None = none has.
        has_outputs_of_other_input: there are outputs of an input topic that had the same name.
    """

    after_output: int | None
    has_outputs_of_other_input: bool


def read_output_position(
    reader: PartitionReader, output_topics: Sequence[str], read_partition: InputPartition
) -> Generator[RestoreProgress, None, OutputPosition]:
    """Read the newest output of an input partition on each of the topics; return what they show.

    The records of one transaction are in the order of the input, so the last one on a topic names the newest record.
    Outputs of versions that wrote no `input-id` count as made of this input.

    Args:
        reader: reads committed records; an open transaction at the end of a topic makes it wait.
        output_topics: topics whose records name their source, and which have the partitions of the input.
        read_partition: partition of the input.

    Raises:
        TransientBrokerError: the broker did not answer.
    """
    offsets: list[int] = []
    has_others = False
    for topic in output_topics:
        source = yield from _newest_source(reader, topic, read_partition)
        if source is not None and source.input_id in (None, read_partition.input_id):
            offsets.append(source.offset + 1)
        elif source is not None:
            has_others = True
    return OutputPosition(max(offsets, default=None), has_others)


def _newest_source(
    reader: PartitionReader, topic: str, read_partition: InputPartition
) -> Generator[RestoreProgress, None, Source | None]:
    """Return the source of the last record on a topic that was made of the input partition; None = there is none."""
    partition = read_partition.partition
    begin, upper = reader.bounds(topic, partition)
    step = FIRST_STEP
    while upper > begin:
        lower, newest = max(begin, upper - step), None
        reader.seek(topic, partition, lower)
        while reader.position < upper:
            for record in reader.read():
                source = source_of(record.headers) if record.offset < upper else None
                if source is not None and source[:2] == (read_partition.topic, partition):
                    newest = source
            yield RestoreProgress("read_outputs", partition, lower, upper)
        if newest is not None:
            return newest
        upper, step = lower, step * STEP_GROWTH
    return None
