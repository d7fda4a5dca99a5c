"""Clocks: functions that return the present time, handed to whatever needs it, so that tests can set the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Returns seconds since an arbitrary moment; never goes back. For deadlines, pauses and durations."""
WallClock: TypeAlias = Callable[[], int]
"""Returns the time of day, epoch milliseconds, UTC; can be set back."""

monotonic: Clock = time.monotonic


def epoch_ms() -> int:
    """Return the time of day of this machine, epoch milliseconds, UTC."""
    return time.time_ns() // 1_000_000
