"""The reference run: input whose forecasts are known beforehand, to the byte.

The reference is the pipeline in this process, never interrupted. After any disturbance of the daemons, their committed
output must equal it, record by record: nothing lost, duplicated, reordered or different. If checkpoints change on the
way, the reference reads from the state topic at which offsets they did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson
from builders import LEVELS, Lineup, Serving, pipeline_config, random_checkpoint
from daemons import HOUR_MS, START_MS, wait_until

from forecaster.broker.connection import Connection
from forecaster.broker.plain_clients import CommittedRecord, RecordReader, RecordWriter
from forecaster.broker.topics import TopicAdmin
from forecaster.core.network.model import Model
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.forecasts import encode_forecasts
from forecaster.formats.readings import Decoder, InputSchema
from forecaster.formats.sources import short_topic_id
from forecaster.formats.state import Floor, Swap, decode_floor
from forecaster.pipeline import Batch, PipelineConfig, advance
from forecaster.records import InputRecord, Message, SourceRecord
from forecaster.serving.state.checkout import check_out
from forecaster.serving.state.config import StateConfig
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.swaps import assign_models

SERIES = 10
CONFIG = pipeline_config(horizon=4, context=96, chain=("range", "hampel"))


def is_floor(record: CommittedRecord | SourceRecord) -> bool:
    """Return whether a record of the state topic is a floor."""
    return (record.key or b"").endswith(b"/floor")


def swaps_of(floors: Iterable[Floor]) -> list[Swap]:
    """Return the swaps that the floors of a partition name, from the first to the last."""
    by_offset = {swap.offset: swap for floor in floors for swap in floor.swaps}
    return [by_offset[offset] for offset in sorted(by_offset)]


def uninterrupted_forecasts(
    config: PipelineConfig, records: Sequence[SourceRecord], swaps: Sequence[Swap], lineup: Lineup, input_id: str = ""
) -> Iterator[Message]:
    """Yield the forecasts of one process that is never disturbed.

    Args:
        config: its pipeline.
        records: the input of one partition, from its beginning.
        swaps: which checkpoint serves from which offset on.
        lineup: the models of these checkpoints.
        input_id: short id of the input topic, for the header of the forecasts.
    """
    readings = Decoder(InputSchema()).decode(records).readings
    numbers = np.zeros(len(readings), np.int64)
    offsets = np.array([record.offset for record in records])[readings.record_of_reading]
    serving = assign_models(lineup, {0: swaps}, numbers, offsets, readings)
    hidden = max((model.state_size for model in lineup.models.values()), default=0)
    checkout = check_out({0: Partition(0, StateConfig(config.shape(hidden)))}, readings, numbers)
    outputs = advance(config, serving.models, checkout.state, Batch(readings, checkout.row, serving.which))
    return encode_forecasts(outputs.forecasts, readings, records, config.quantile_levels, input_id)


class ReferenceRun:
    """Writes readings, reads forecasts, and compares them with those of the reference.

    Args:
        address: address of the broker.
        topic: name of the input topic.
        partitions: partition count of the input topic.
        folder: for the folder of the checkpoint, whose path is `checkpoint`.
    """

    def __init__(self, address: str, topic: str, partitions: int, folder: Path) -> None:
        checkpoint = random_checkpoint(CONFIG)
        self.checkpoint = str(write_checkpoint(checkpoint, folder))
        self._topic = topic
        self._partitions = range(partitions)
        self._writer = RecordWriter(address, topic)
        self._reader = RecordReader(address, f"{topic}.forecasts", partitions)
        self._references = [Serving(CONFIG, Model(checkpoint)) for _ in self._partitions]
        self._address = address
        self._decoder = Decoder(InputSchema())
        self.inputs: list[list[InputRecord]] = [[] for _ in self._partitions]
        self._offsets = [0] * partitions
        self._hour = 0
        self.expected: list[list[Message]] = [[] for _ in self._partitions]
        self.received: list[list[CommittedRecord]] = [[] for _ in self._partitions]

    @cached_property
    def input_id(self) -> str:
        """Short id of the input topic."""
        with TopicAdmin(Connection(self._address, "reference")) as topics:
            return short_topic_id(topics.facts(self._topic).topic_id)

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def send_hours(self, hours: int) -> None:
        """Send hourly readings of each series; some are missing, late, duplicate or extreme, some records are bad."""
        batches: list[list[InputRecord]] = [[] for _ in self._partitions]
        for hour in range(self._hour, self._hour + hours):
            for series in range(SERIES):
                dice = (hour * 7919 + series * 104_729) % 101
                partition = series % len(self._partitions)
                record = self._record(partition, hour, series, dice)
                batches[partition].append(record)
                self._writer.send(record.key, record.value, partition=partition)
        self._hour += hours
        self._writer.flush()
        for partition, records in enumerate(batches):
            self.inputs[partition] += records
            readings = self._decoder.decode(records).readings  # type: ignore[arg-type]
            forecasts = self._references[partition].feed(readings).forecasts
            self.expected[partition] += encode_forecasts(forecasts, readings, records, LEVELS, self.input_id)  # type: ignore[arg-type]

    def _record(self, partition: int, hour: int, series: int, dice: int) -> InputRecord:
        stamp = START_MS + (hour + {3: -2, 5: 900}.get(dice, 0)) * HOUR_MS
        value = None if dice == 7 else (series * hour + dice) % 17
        body = b"no json" if dice == 11 else orjson.dumps({"timestamp": stamp, "value": value})
        offset, self._offsets[partition] = self._offsets[partition], self._offsets[partition] + 1
        return InputRecord(self._topic, partition, offset, 0, b"pump-%d" % series, body)

    def expect_swaps(self, *models: Model) -> list[list[Swap]]:
        """Expect the forecasts of these models for the readings so far, as the stored swaps say; return the swaps."""
        floors: list[list[Floor]] = [[] for _ in self._partitions]
        with closing(RecordReader(self._address, f"{self._topic}.state", len(self._partitions))) as reader:
            while records := list(reader.poll()):
                for record in records:
                    if is_floor(record):
                        floors[record.partition].append(decode_floor(record.value or b""))
        ordered = [swaps_of(of_partition) for of_partition in floors]
        for partition, swaps in enumerate(ordered):
            records_of_partition: list[SourceRecord] = list(self.inputs[partition])
            forecasts = uninterrupted_forecasts(CONFIG, records_of_partition, swaps, Lineup(*models), self.input_id)
            self.expected[partition] = list(forecasts)
        return ordered

    @property
    def due(self) -> int:
        """Number of forecasts that must come."""
        return sum(map(len, self.expected))

    def receive(self) -> int:
        """Return how many forecasts have come so far; fail if one of them is wrong."""
        for record in self._reader.poll():
            received = self.received[record.partition]
            received.append(record)
            self._assert_right(record.partition, len(received) - 1)
        return sum(map(len, self.received))

    def count(self) -> int:
        """Return how many forecasts have come so far; while checkpoints change, they cannot be compared yet."""
        for record in self._reader.poll():
            self.received[record.partition].append(record)
        return sum(map(len, self.received))

    def assert_equal(self, seconds: float = 120.0) -> None:
        """Wait until every forecast has come; fail if one is wrong or too many."""
        wait_until(lambda: self.receive() >= self.due, f"all of {self.due} forecasts", seconds)
        self.receive()

    def assert_all_right(self) -> None:
        """Fail unless exactly the expected forecasts have come."""
        assert [len(received) for received in self.received] == [len(expected) for expected in self.expected]
        for partition, received in enumerate(self.received):
            for number in range(len(received)):
                self._assert_right(partition, number)

    def _assert_right(self, partition: int, number: int) -> None:
        record, expected = self.received[partition][number], self.expected[partition]
        assert number < len(expected), f"one too many: {record}"
        other = expected[number]
        assert (record.key, record.value) == (other.key, other.value), f"{record} should be {other}"
        headers = dict(other.headers)
        assert {name: record.headers[name] for name in headers} == headers
