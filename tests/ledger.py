"""Self-verifying input: readings whose forecasts are known beforehand, to the byte.

The reference is the pipeline itself, in this process, never interrupted. After any disturbance of the daemons the
read_committed output must equal it, record by record: nothing lost, doubled, reordered or different.
"""

from __future__ import annotations

from pathlib import Path

import orjson
from builders import LEVELS, Serving, pipeline_config, random_checkpoint
from daemons import HOUR_MS, START_MS, wait_until

from forecaster.broker.replay import RecordReader, RecordWriter, Written
from forecaster.checkpoints import write_checkpoint
from forecaster.core.model import Model
from forecaster.records import InputRecord
from forecaster.wire import Decoder, InputSchema, Message, encode_forecasts

SERIES = 10
CONFIG = pipeline_config(horizon=4, context=96, chain=("range", "hampel"))


class Ledger:
    """Writes readings, reads forecasts, and knows what they must be.

    Args:
        address: of the broker.
        topic: of the readings.
        partitions: of the topic.
        folder: that the checkpoint is written to, whose path is `checkpoint`.
    """

    def __init__(self, address: str, topic: str, partitions: int, folder: Path) -> None:
        checkpoint = random_checkpoint(CONFIG)
        self.checkpoint = str(write_checkpoint(checkpoint, folder))
        self._topic = topic
        self._partitions = range(partitions)
        self._writer = RecordWriter(address, topic)
        self._reader = RecordReader(address, f"{topic}.forecasts", partitions)
        self._references = [Serving(CONFIG, Model(checkpoint)) for _ in self._partitions]
        self._decoder = Decoder(InputSchema())
        self._offsets = [0] * partitions
        self._hour = 0
        self.expected: list[list[Message]] = [[] for _ in self._partitions]
        self.found: list[list[Written]] = [[] for _ in self._partitions]

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def send_hours(self, hours: int) -> None:
        """A reading of each series an hour; some are missing, late, twice or wild, one record in a while is none."""
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
            readings = self._decoder.decode(records).readings  # type: ignore[arg-type]
            forecasts = self._references[partition].feed(readings).forecasts
            self.expected[partition] += encode_forecasts(forecasts, readings, records, LEVELS)  # type: ignore[arg-type]

    def _record(self, partition: int, hour: int, series: int, dice: int) -> InputRecord:
        stamp = START_MS + (hour + {3: -2, 5: 900}.get(dice, 0)) * HOUR_MS
        value = None if dice == 7 else (series * hour + dice) % 17
        body = b"no json" if dice == 11 else orjson.dumps({"timestamp": stamp, "value": value})
        offset, self._offsets[partition] = self._offsets[partition], self._offsets[partition] + 1
        return InputRecord(self._topic, partition, offset, 0, b"pump-%d" % series, body)

    @property
    def due(self) -> int:
        """How many forecasts there must be."""
        return sum(map(len, self.expected))

    def receive(self) -> int:
        """How many forecasts have come so far; those that came are right."""
        for record in self._reader.poll():
            found = self.found[record.partition]
            found.append(record)
            expected = self.expected[record.partition]
            assert len(found) <= len(expected), f"one too many: {record}"
            other = expected[len(found) - 1]
            assert (record.key, record.value) == (other.key, other.value), f"{record} should be {other}"
            assert record.headers["source"] == dict(other.headers)["source"]
        return sum(map(len, self.found))

    def assert_equal(self, seconds: float = 120.0) -> None:
        """Every forecast has come, and none that should not have."""
        wait_until(lambda: self.receive() >= self.due, f"all of {self.due} forecasts", seconds)
        self.receive()
