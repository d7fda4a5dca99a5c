"""The grid of a series: the times of its ticks, its newest tick, and the longest silence that it continues after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import I8, I64

AGREEING = 4
"""Timestamps in a row that must agree on an interval before it is known."""
MIN_GAP_TICKS = 8
"""A grid continues after a gap of up to this many ticks, however short the configured limit is."""
UNKNOWN = -1
"""Value that stands for a missing timestamp."""
WARMING_GAP_MS = 366 * 86_400_000
"""While the interval is unknown, only a jump of more than a year needs a second reading to confirm it."""


@dataclass
class TimelineState:
    """Positions of N series on their grids, one row a series.

    Attributes:
        interval_ms: spacing of the grid; 0 = not known yet; (N,).
        start_ms: timestamp of tick 0; (N,).
        tick: last tick that had a reading; -1 = none yet; (N,).
        recent_ms: last timestamps, newest first; UNKNOWN = none; (N, AGREEING).
        held_ms: last timestamp far ahead or far behind; UNKNOWN = none; (N,).
        held_run: number of readings in a row that were far behind and in order; negative: far ahead; (N,).
        rival_ms: another interval that the recent timestamps agreed on; 0 = none; (N,).
        rival_since_ms: timestamp at which they first agreed on it; (N,).
    """

    interval_ms: I64
    start_ms: I64
    tick: I64
    recent_ms: I64
    held_ms: I64
    held_run: I8
    rival_ms: I64
    rival_since_ms: I64

    @classmethod
    def empty(cls, n: int, interval_ms: int) -> TimelineState:
        """Return n series without a reading; `interval_ms` 0 = to be learned."""
        return cls(
            interval_ms=np.full(n, interval_ms, np.int64),
            start_ms=np.zeros(n, np.int64),
            tick=np.full(n, -1, np.int64),
            recent_ms=np.full((n, AGREEING), UNKNOWN, np.int64),
            held_ms=np.full(n, UNKNOWN, np.int64),
            held_run=np.zeros(n, np.int8),
            rival_ms=np.zeros(n, np.int64),
            rival_since_ms=np.zeros(n, np.int64),
        )


@dataclass(frozen=True, slots=True)
class GridConfig:
    """Limits of the grids.

    Attributes:
        interval_ms: spacing; 0 = learned for each series.
        max_gap_ms: after a longer gap the grid starts again, except after gaps of up to MIN_GAP_TICKS ticks.
        ttl_ms: time to live: after a longer gap the reading counts as the first of a new series of the same name.
    """

    interval_ms: int = 0
    max_gap_ms: int = 86_400_000
    ttl_ms: int = 30 * 86_400_000


def largest_gap(config: GridConfig, interval_ms: I64) -> I64:
    """Return the largest gap after which a grid continues, in ticks; (B,)."""
    return np.maximum(config.max_gap_ms // interval_ms, MIN_GAP_TICKS)


def last_timestamp(state: TimelineState) -> I64:
    """Return the event time of the last tick, or of the last reading while the interval is unknown; (B,)."""
    return np.where(state.interval_ms > 0, state.start_ms + state.tick * state.interval_ms, state.recent_ms[:, 0])


def idle_after_ms(config: GridConfig, state: TimelineState) -> I64:
    """Return how long after its last timestamp a series counts as idle; (B,).

    That is its time to live or the largest gap after which its grid continues, whichever is longer: until then its
    next reading may be an ordinary one.
    """
    known = state.interval_ms > 0
    ordinary = (2 * largest_gap(config, np.maximum(state.interval_ms, 1)) + 1) * state.interval_ms // 2
    return np.maximum(config.ttl_ms, np.where(known, ordinary, max(WARMING_GAP_MS, config.max_gap_ms)))
