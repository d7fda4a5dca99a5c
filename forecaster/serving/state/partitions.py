"""The partitions that are open, and the batch's own copy of the rows that it touches."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.arrays import concatenate, convert
from forecaster.core.state import SeriesState
from forecaster.records import I64, Readings
from forecaster.serving.state.keeping import PartitionCheckout, StateConfig
from forecaster.serving.state.partition import Partition


@dataclass(frozen=True, slots=True)
class Checkout:
    """The batch's own copy of the rows it touches.

    Attributes:
        state: the copy; the rows of one partition after those of another.
        row: where in `state` the series of each reading stands, -1 = it can have no row; (N,).
        parts: what was taken from each partition.
    """

    state: SeriesState
    row: I64
    parts: dict[int, PartitionCheckout]


class Partitions:
    """The partitions that are open: their rows are whole, and they serve."""

    def __init__(self, config: StateConfig) -> None:
        self.config = config
        self._open: dict[int, Partition] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def __getitem__(self, number: int) -> Partition:
        return self._open[number]

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._open.values())

    def open(self, partition: Partition) -> None:
        """The partition serves."""
        self._open[partition.number] = partition

    def close(self, number: int) -> None:
        """The partition's rows are forgotten; nothing happens when it is not open."""
        self._open.pop(number, None)

    @property
    def series(self) -> int:
        """How many series have a row."""
        return sum(len(partition.table) for partition in self._open.values())

    def checkout(self, readings: Readings, numbers: I64) -> Checkout:
        """Returns a copy of the rows of the readings' series; the partitions stay as they are.

        Args:
            readings: N of them.
            numbers: the open partition of each; (N,).
        """
        row = np.empty(len(readings), np.int64)
        states: list[SeriesState] = []
        parts: dict[int, PartitionCheckout] = {}
        before = 0
        for number in sorted(set(numbers.tolist())):
            where = np.flatnonzero(numbers == number)
            positions, partition = where.tolist(), self._open[number]
            groups = None if readings.groups is None else [readings.groups[position] for position in positions]
            rows, part = partition.checkout(
                [readings.series_ids[position] for position in positions], groups, readings.records[where]
            )
            row[where] = np.where(rows < 0, -1, np.searchsorted(part.rows, rows) + before)
            before += len(part.rows)
            states.append(partition.table.copy(part.rows, part.fresh))
            parts[number] = part if part.refused < 0 else replace(part, refused=positions[part.refused])
        return Checkout(concatenate(states) if states else self.config.shape.empty(0), row, parts)

    def adopt(self, taken: Checkout, ends: Mapping[int, int], among: Container[int]) -> None:
        """These partitions hold what the batch made of its copy.

        Args:
            taken: the copy.
            ends: offset after the batch, of each of its partitions.
            among: the partitions that adopt it.
        """
        begin = 0
        for number, part in taken.parts.items():
            end = begin + len(part.rows)
            if number in among:
                rows = convert(taken.state, lambda array, span=slice(begin, end): array[span])  # type: ignore[misc]
                self._open[number].adopt(part, rows)
            begin = end
        for number, offset in ends.items():
            if number in among:
                self._open[number].position = offset
