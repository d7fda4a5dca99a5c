"""Self-verifying readings: the id of a series contains the seed of its values, so that any record can be checked."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import orjson
from builders import HOUR_MS, START_MS

from forecaster.broker.plain_clients import RecordWriter
from forecaster.records import SourceRecord

Record = tuple[bytes | None, bytes | None]
"""Key and value."""
LATE, AHEAD, EXTREME, MISSING, BAD, TWICE = range(6)
ODDS = 100
"""Number of records of which one has a given oddity of those above."""


def record_of(seed: int, hour: int) -> Record:
    """Return key and value of the record of a series at an hour: the same in every process."""
    dice = random.Random(seed * 1_000_003 + hour)
    oddity = dice.randrange(ODDS)
    stamp = START_MS + (hour + {LATE: -2, AHEAD: 900, TWICE: -1}.get(oddity, 0)) * HOUR_MS
    value: float | None = seed * hour % 17 + dice.gauss(0, 0.1)
    if oddity == EXTREME:
        value = 1e4
    elif oddity == MISSING:
        value = None
    key = f"pump-{seed}".encode()
    if oddity == BAD:
        return key, b"no json, hour %d" % hour
    return key, orjson.dumps({"timestamp": stamp, "value": value, "hour": hour})


class Readings:
    """Writes the input of a fleet, and remembers it; a series stays in its partition.

    Args:
        address: address of the broker.
        topic: name of the input topic.
        partitions: partition count of the topic.
        seeds: seeds of the series.

    Attributes:
        sent: keys and values that were sent to each partition.
    """

    def __init__(self, address: str, topic: str, partitions: int, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._writer = RecordWriter(address, topic)
        self._hour = 0
        self.sent: list[list[Record]] = [[] for _ in range(partitions)]

    def send_hours(self, hours: int) -> None:
        """Send a reading of each series for each hour, and return when the broker has them."""
        for _ in range(hours):
            self.send(record_of(seed, self._hour) for seed in self._seeds)
            self._hour += 1

    def send(self, records: Iterable[Record]) -> None:
        """Send records to the partitions in turn, and return when the broker has them."""
        for number, (key, value) in enumerate(records):
            partition = number % len(self.sent)
            self._writer.send(key, value, partition=partition)
            self.sent[partition].append((key, value))
        self._writer.flush()

    def deviations(self, partition: int, records: Sequence[SourceRecord]) -> int:
        """Return how many records of a partition differ from what was sent to it."""
        sent, there = self.sent[partition], [(record.key, record.value) for record in records]
        return abs(len(sent) - len(there)) + sum(one != other for one, other in zip(sent, there, strict=False))

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
