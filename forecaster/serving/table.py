"""The rows of the partitions that this worker owns, and the copies that batches work on."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.core.arrays import concatenate, convert, first, put, take
from forecaster.core.state import SeriesState, StateShape
from forecaster.records import Integers

INITIAL_CAPACITY = 64


class Table:
    """The rows of one partition: a struct of arrays with spare capacity, and an index by series_id."""

    def __init__(self, shape: StateShape) -> None:
        self._shape = shape
        self._state = shape.empty(INITIAL_CAPACITY)
        self._index: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._index)

    @property
    def state(self) -> SeriesState:
        """A view of the rows in use."""
        return first(self._state, len(self))

    @property
    def series_ids(self) -> list[str]:
        """The series, in the order of their rows."""
        return list(self._index)

    def rows(self, series_ids: Sequence[str]) -> tuple[Integers, list[str]]:
        """Returns the row of each series, and the series that have none yet: theirs would be the next rows."""
        index = self._index
        found = [index.get(series_id, -1) for series_id in series_ids]
        fresh: dict[str, int] = {}
        if -1 in found:
            for position, row in enumerate(found):
                if row < 0:
                    found[position] = fresh.setdefault(series_ids[position], len(index) + len(fresh))
        return np.array(found, np.int64), list(fresh)

    def copy(self, rows: Integers) -> SeriesState:
        """Returns a copy of the rows; of those that are not there yet, rows without a reading."""
        existing = rows[rows < len(self)]
        copied = take(self._state, existing)
        if len(existing) == len(rows):
            return copied
        return concatenate([copied, self._shape.empty(len(rows) - len(existing))])

    def put(self, rows: Integers, state: SeriesState, fresh: Sequence[str]) -> None:
        """The rows are those of `state`, and the fresh series have rows."""
        for series_id in fresh:
            self._index[series_id] = len(self._index)
        missing = len(self) - len(self._state)
        if missing > 0:
            grown = self._shape.empty(max(missing, len(self._state)))
            self._state = concatenate([self._state, grown])
        put(self._state, rows, state)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a checkout took from one table: its rows, ascending, and the series that are new to it."""

    partition: int
    rows: Integers
    fresh: list[str]


@dataclass(frozen=True, slots=True)
class Checkout:
    """The batch's own copy of the rows it touches.

    Attributes:
        state: the copy; the rows of one partition after those of another.
        row: where in `state` the series of each reading stands; (N,).
    """

    state: SeriesState
    row: Integers
    parts: list[_Part]


class Partitions:
    """The tables of the partitions that are open."""

    def __init__(self, shape: StateShape) -> None:
        self._shape = shape
        self._tables: dict[int, Table] = {}

    def __contains__(self, partition: int) -> bool:
        return partition in self._tables

    def __getitem__(self, partition: int) -> Table:
        return self._tables[partition]

    def open(self, partition: int) -> None:
        """The partition has a table without rows: it begins cold."""
        self._tables[partition] = Table(self._shape)

    def close(self, partition: int) -> None:
        """The partition's rows are forgotten; nothing happens when it is not open."""
        self._tables.pop(partition, None)

    @property
    def series(self) -> int:
        """How many series have a row."""
        return sum(len(table) for table in self._tables.values())

    def checkout(self, series_ids: Sequence[str], partitions: Integers) -> Checkout:
        """Returns a copy of the rows of these series; the tables stay as they are.

        Args:
            series_ids: N of them, repeats allowed.
            partitions: the open partition of each; (N,).
        """
        row = np.empty(len(series_ids), np.int64)
        states: list[SeriesState] = []
        parts: list[_Part] = []
        before = 0
        for partition in sorted(set(partitions.tolist())):
            where = np.flatnonzero(partitions == partition)
            table = self._tables[partition]
            rows, fresh = table.rows([series_ids[position] for position in where.tolist()])
            distinct, inverse = np.unique(rows, return_inverse=True)
            row[where] = inverse + before
            before += len(distinct)
            states.append(table.copy(distinct))
            parts.append(_Part(partition, distinct, fresh))
        state = concatenate(states) if states else self._shape.empty(0)
        return Checkout(state, row, parts)

    def adopt(self, checkout: Checkout, partitions: Container[int]) -> None:
        """The tables of these partitions hold what the batch made of its copy."""
        begin = 0
        for part in checkout.parts:
            end = begin + len(part.rows)
            if part.partition in partitions:
                rows = convert(checkout.state, lambda array, span=slice(begin, end): array[span])  # type: ignore[misc]
                self._tables[part.partition].put(part.rows, rows, part.fresh)
            begin = end
