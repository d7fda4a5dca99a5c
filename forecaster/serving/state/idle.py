"""Idle series: which rows are freed because their series had no reading for too long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecaster.core.series.grid import GridConfig, idle_after_ms, last_timestamp
from forecaster.records import I64
from forecaster.serving.state.table import Table

FREED_AT_ONCE = 1_000
MAX_FREED_NAME_BYTES = 256 * 1024
"""Names of freed series that the floor may hold, bytes."""
QUORUM_SHARE, SMALLEST_QUORUM, LARGEST_QUORUM = 0.05, 3, 100
"""The active series set the present time if they are at least this share of all series, within these bounds: the clocks
of a few may be wrong."""


class IdleSweep:
    """Looks for idle series from time to time; the present time is that of the active series, not of a wall clock.

    A series is active if it had a reading since the marks were last cleared. A sweep clears the marks if enough series
    are active. The present time is the lower median of the last timestamps of the active series. The floor records
    which series are freed, so that a replay frees the same ones.

    Args:
        grid: tells how long a series may be silent.

    Attributes:
        readings: number of readings since the last sweep.
    """

    def __init__(self, grid: GridConfig) -> None:
        self._grid = grid
        self.readings = 0

    def is_due(self, series: int) -> bool:
        """Return whether a partition of that many series is to be swept."""
        return self.readings >= max(FREED_AT_ONCE, series)

    def idle_rows(self, table: Table, busy: I64, *, full: bool) -> list[int]:
        """Sweep: return the rows of idle series.

        Args:
            table: the rows.
            busy: rows with readings in the present batch; they are not idle.
            full: no new series can get a row: series whose interval is unknown make room earlier.
        """
        self.readings = 0
        times, used = table.state.timeline, table.used
        stamps, active = last_timestamp(times), used & table.active()
        if not active.any():
            return []
        now = _lower_median(stamps[active])
        if active.sum() < min(max(QUORUM_SHARE * used.sum(), SMALLEST_QUORUM), LARGEST_QUORUM):
            now = min(now, _lower_median(stamps[used]))
        else:
            table.clear_active()
        limit = idle_after_ms(self._grid, times)
        if full:
            limit[times.interval_ms == 0] = self._grid.ttl_ms
        idle = used & (now - stamps > limit)
        idle[busy[busy < len(idle)]] = False
        return np.flatnonzero(idle).tolist()


def names_to_free(names: Sequence[str], idle: Sequence[int], recorded: Sequence[str]) -> list[str]:
    """Return the series of the first idle rows: as many as can be freed at once and recorded in the floor.

    Args:
        names: series of each row.
        idle: idle rows.
        recorded: freed series that the floor holds already.
    """
    size = sum(len(name.encode()) for name in recorded)
    freed: list[str] = []
    for row in idle[:FREED_AT_ONCE]:
        size += len(names[row].encode())
        if size > MAX_FREED_NAME_BYTES:
            break
        freed.append(names[row])
    return freed


def _lower_median(stamps: I64) -> int:
    """Return the event time that more than half of the rows have reached."""
    middle = (len(stamps) - 1) // 2
    return int(np.partition(stamps, middle)[middle])
