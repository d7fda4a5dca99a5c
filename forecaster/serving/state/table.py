"""The rows of one partition's series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from forecaster.core.arrays import concatenate, first, put, take
from forecaster.core.state import SeriesState, StateShape
from forecaster.records import I64, Bools

INITIAL_CAPACITY = 64
FREE = ""
"""Name of a row that has no series."""


class Table:
    """A struct of arrays with spare capacity, and an index by series_id. Freed rows are reused."""

    def __init__(self, shape: StateShape) -> None:
        self._shape = shape
        self._state = shape.empty(INITIAL_CAPACITY)
        self._index: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []
        self._active = np.zeros(INITIAL_CAPACITY, np.bool_)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def state(self) -> SeriesState:
        """View of the rows up to the last one in use; `names` tells which of them are."""
        return first(self._state, len(self._names))

    @property
    def names(self) -> list[str]:
        """Series of each row; FREE = none."""
        return self._names

    @property
    def used(self) -> Bools:
        """Whether each row has a series."""
        return np.array([name != FREE for name in self._names], np.bool_)

    def row(self, series_id: str) -> int:
        """Return the row of a series; -1 = it has none."""
        return self._index.get(series_id, -1)

    def find(self, series_ids: Sequence[str], room: int) -> tuple[I64, dict[str, int]]:
        """Return the row of each series, and the rows that series without one would get.

        Args:
            series_ids: N series, repeats allowed.
            room: number of new series that may get a row; the others have row -1.
        """
        index = self._index
        rows = [index.get(series_id, -1) for series_id in series_ids]
        fresh: dict[str, int] = {}
        if -1 in rows:
            for reading, row in enumerate(rows):
                if row < 0:
                    name = series_ids[reading]
                    if name not in fresh and len(fresh) < room:
                        fresh[name] = self._spare(len(fresh))
                    rows[reading] = fresh.get(name, -1)
        return np.array(rows, np.int64), fresh

    def copy(self, rows: I64, fresh: Mapping[str, int]) -> SeriesState:
        """Return a copy of the rows; the rows of fresh series are empty."""
        copied = take(self._state, np.minimum(rows, len(self._state) - 1))
        if fresh:
            new = np.flatnonzero(np.isin(rows, list(fresh.values())))
            put(copied, new, self._shape.empty(len(new)))
        return copied

    def put(self, rows: I64, state: SeriesState, fresh: Mapping[str, int]) -> None:
        """Replace the rows by those of `state`, and give the fresh series the rows that `find` named."""
        reused = [name for name, row in fresh.items() if row < len(self._names)]
        del self._free[len(self._free) - len(reused) :]
        for name in reused:
            self._names[fresh[name]] = name
        self._names += list(fresh)[len(reused) :]
        self._index.update(fresh)
        missing = len(self._names) - len(self._state)
        if missing > 0:
            grown = self._shape.empty(max(missing, len(self._state)))
            self._state = concatenate([self._state, grown])
        put(self._state, rows, state)

    def mark_active(self, rows: I64) -> None:
        """Note that the rows have had readings."""
        self._grow_active()
        self._active[rows] = True

    def active(self) -> Bools:
        """Return which rows have had readings since the last `clear_active`; a view."""
        self._grow_active()
        return self._active[: len(self._names)]

    def clear_active(self) -> None:
        """Forget which rows have had readings."""
        self._active[:] = False

    def free(self, series_ids: Sequence[str]) -> None:
        """Free the rows of the series."""
        for name in series_ids:
            row = self._index.pop(name)
            self._names[row] = FREE
            self._free.append(row)

    def _grow_active(self) -> None:
        missing = len(self._names) - len(self._active)
        if missing > 0:
            self._active = np.concatenate([self._active, np.zeros(max(missing, len(self._active)), np.bool_)])

    def _spare(self, index: int) -> int:
        """Return the row that the new series of this index would get."""
        if index < len(self._free):
            return self._free[-1 - index]
        return len(self._names) + index - len(self._free)
