"""Replay: the input above the floor goes into the rows again, and nothing is published."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.interfaces import PartitionReader, RecordDecoder
from forecaster.pipeline import Batch, PipelineConfig, advance
from forecaster.records import I64, Readings, SourceRecord
from forecaster.serving.state.checkout import adopt, check_out
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.progress import RestoreProgress
from forecaster.serving.state.swaps import Checkpoints, assign_models

CHUNK_RECORDS = 400
"""Records that are replayed in a slice: about 20 ms."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Result of replaying N readings.

    Attributes:
        outcomes: values of `Outcome`; (N,).
        refused: index of the first reading whose series could have no row; -1 = none.
    """

    outcomes: NDArray[np.int8]
    refused: int


@dataclass(frozen=True, slots=True)
class ReplayTotals:
    """What a replay has read.

    Attributes:
        readings: number of readings that went into the rows.
        missing: number of offsets without a record: transaction markers, aborted records and compacted ones.
    """

    readings: int = 0
    missing: int = 0


class Replayer:
    """Applies readings to the rows of a partition as serving would have done, without outputs.

    Args:
        pipeline: pipeline that the readings go through.
        checkpoints: models that the partition's swaps name.
        decoder: decodes the records of the input.
        reader: reads the input.
    """

    def __init__(
        self, pipeline: PipelineConfig, checkpoints: Checkpoints, decoder: RecordDecoder, reader: PartitionReader
    ) -> None:
        self._pipeline = pipeline
        self._checkpoints = checkpoints
        self._decoder = decoder
        self._reader = reader

    def replay(
        self, partition: Partition, topic: str, end: int
    ) -> Generator[RestoreProgress | None, None, ReplayTotals]:
        """Replay the input from the partition's position up to `end`, in slices; return what was read.

        Readings that a row's block includes already are skipped, and the events of the floor are applied in between.

        Raises:
            TransientBrokerError: the broker did not answer.
        """
        if partition.position >= end:
            return ReplayTotals()
        readings, missing = 0, end - partition.position
        self._reader.seek(topic, partition.number, partition.position)
        while self._reader.position < end:
            records = [record for record in self._reader.read() if record.offset < end]
            missing -= len(records)
            while records:
                chunk = _next_chunk(partition, records)
                readings += self._replay_chunk(partition, chunk)
                records = records[len(chunk) :]
                yield RestoreProgress("replay_input", partition.number, chunk[-1].offset, end)
            yield None
        return ReplayTotals(readings, missing)

    def replay_batch(self, partition: Partition, readings: Readings, offsets: I64) -> ReplayResult:
        """Apply a batch of readings to the rows of a partition.

        Args:
            partition: its swaps tell which checkpoints forecast.
            readings: N readings.
            offsets: offsets of their records; (N,).
        """
        partitions, swaps = {partition.number: partition}, {partition.number: partition.floor.swaps}
        partition_of_reading = np.full(len(readings), partition.number, np.int64)
        checkout = check_out(partitions, readings, partition_of_reading)
        models = assign_models(self._checkpoints, swaps, partition_of_reading, offsets, readings)
        batch = Batch(readings, checkout.row, models.which)
        outputs = advance(self._pipeline, models.models, checkout.state, batch)
        adopt(partitions, checkout, partitions)
        return ReplayResult(outputs.outcomes, checkout.borrowed[partition.number].first_without_room)

    def _replay_chunk(self, partition: Partition, records: list[SourceRecord]) -> int:
        """Apply the readings that are not yet in the rows' blocks; return their number."""
        readings = self._decoder.decode(records).readings
        offsets = np.array([record.offset for record in records], np.int64)[readings.record_of_reading]
        missing = partition.not_in_block(readings.series_ids, offsets)
        readings, offsets = readings.among(missing), offsets[missing]
        if len(readings):
            refused = self.replay_batch(partition, readings, offsets).refused
            if refused >= 0:
                partition.mark_full(records[int(readings.record_of_reading[refused])].offset)
        partition.move_to(records[-1].offset + 1)
        return len(readings)


def _next_chunk(partition: Partition, records: Sequence[SourceRecord]) -> list[SourceRecord]:
    """Return the records up to the next event of the floor, having moved the position to the first record."""
    partition.move_to(records[0].offset)
    event = partition.next_event_offset()
    return [record for record in records[:CHUNK_RECORDS] if record.offset < event]
