"""The places of event times on the grid of a series: on time, late, duplicate or too far ahead, and the gap before.

Every decision rests on the reading's timestamp and on its own series alone: no clock, nothing shared between series. A
timestamp rounds to the nearest tick of a grid that starts at the first timestamp of the series.

| timestamp | becomes |
|---|---|
| after the last tick, by at most the largest gap | a step; the ticks between are its gap |
| of the last tick | DUPLICATE; the first reading of a tick counts |
| before the last tick | LATE |
| farther ahead than the largest gap | AHEAD, until the next reading is near it too: then the grid starts again there |
| as far ahead, confirmed by a reading many ticks later, or `AHEAD_RUN` in a row | the learned interval is forgotten |
| farther behind than the largest gap | LATE, until `BEHIND_RUN` in a row agree: then the grid starts again there |
| farther ahead than the time to live, confirmed | the first reading of a new series of the same name |

With an unknown interval (0), readings are WARMING until the interval is learned (see `intervals`). When an interval is
learned or replaced, the grid starts again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.core.series.grid import UNKNOWN, WARMING_GAP_MS, GridConfig, TimelineState, largest_gap, last_timestamp
from forecaster.core.series.intervals import SPARSE_TICKS, learn_interval
from forecaster.records import I8, I64, Bools, Outcome

BEHIND_RUN = 4
"""Readings in a row, far behind and in order, after which the grid starts again there."""
AHEAD_RUN = 4
"""Readings in a row, far ahead of one another, after which a learned interval is forgotten."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Places of a wave of B readings on their grids; all (B,).

    Attributes:
        outcome: value of `Outcome`; FORECAST = the reading takes its tick of the grid, as the next step of its series.
        gap: ticks since the previous reading; 1 = none is missing; only meaningful for steps.
        restarted: the grid starts at this reading: no earlier reading is its neighbour.
        settled: the interval became known at this reading: the warming readings before it are `recent_ms`.
        expired: the series was idle for longer than its time to live: its whole row starts again.
    """

    outcome: I8
    gap: I64
    restarted: Bools
    settled: Bools
    expired: Bools


def place(config: GridConfig, state: TimelineState, timestamp_ms: I64) -> Placement:
    """Place one reading of each series on its grid and update the state in place.

    Args:
        config: limits of the grids.
        state: B rows, all distinct series.
        timestamp_ms: event times, epoch ms; (B,).
    """
    distance = _distance(config, state, timestamp_ms)
    begins, relearned = _grid_starts(config, state, timestamp_ms, distance)
    outcome = _outcomes(distance, begins)
    known, on_time = distance.known, distance.on_time
    expired = begins & distance.begun & (timestamp_ms - last_timestamp(state) > config.ttl_ms)
    if config.interval_ms == 0:
        state.interval_ms[expired | relearned] = 0
        outcome[expired | relearned] = Outcome.WARMING
    gap = np.where(on_time & known, distance.ahead, 1)
    state.start_ms[begins] = timestamp_ms[begins]
    np.copyto(state.tick, np.where(begins, 0, distance.tick), where=known & (on_time | begins))
    restarted, settled = begins.copy(), np.zeros(len(timestamp_ms), np.bool_)
    if config.interval_ms == 0:
        settled = learn_interval(state, timestamp_ms, distance.ahead, on_time, begins, known)
        outcome[settled] = Outcome.FORECAST
        restarted |= settled
        settled &= ~known
    return Placement(outcome, gap, restarted, settled, expired)


@dataclass(frozen=True, slots=True)
class _Distance:
    """Distances of B readings from the newest readings of their series; all (B,).

    Attributes:
        known: the interval of the series is known; otherwise distances are milliseconds instead of ticks.
        begun: the series has an earlier reading.
        tick: tick of the reading on the present grid; only meaningful if the interval is known.
        ahead: distance from the newest reading, in ticks or ms; negative = behind.
        limit: largest distance after which the grid continues, in ticks or ms.
        limit_ms: the same limit, in ms.
    """

    known: Bools
    begun: Bools
    tick: I64
    ahead: I64
    limit: I64
    limit_ms: I64

    @property
    def on_time(self) -> Bools:
        """Readings that continue their grid; (B,)."""
        return np.asarray(self.begun & (self.ahead > 0) & (self.ahead <= self.limit))

    @property
    def outlying(self) -> Bools:
        """Readings farther from the newest one than the limit; (B,)."""
        return np.asarray(self.begun & (np.abs(self.ahead) > self.limit))


def _distance(config: GridConfig, state: TimelineState, timestamp_ms: I64) -> _Distance:
    """Return how far each reading is from the newest reading of its series."""
    known = state.interval_ms > 0
    interval = np.maximum(state.interval_ms, 1)
    begun = state.tick >= 0
    tick = (timestamp_ms - state.start_ms + interval // 2) // interval
    ahead = tick - state.tick
    limit = largest_gap(config, interval)
    if not known.all():  # without a grid, distances are milliseconds from the newest timestamp
        newest = state.recent_ms[:, 0]
        begun = np.where(known, begun, newest != UNKNOWN)
        ahead = np.where(known, ahead, timestamp_ms - newest)
        limit = np.where(known, limit, max(WARMING_GAP_MS, config.max_gap_ms))
    return _Distance(known, begun, tick, ahead, limit, limit * np.where(known, interval, 1))


def _grid_starts(
    config: GridConfig, state: TimelineState, timestamp_ms: I64, distance: _Distance
) -> tuple[Bools, Bools]:
    """Hold outlying timestamps until the next readings confirm them, in place.

    Returns:
        Readings at which a grid starts: the first of a series, and confirmed ones far away. Among them, those that show
        that the learned interval is too fine, because readings far apart follow one another. Each (B,).
    """
    begins = ~distance.begun
    relearned = np.zeros(len(timestamp_ms), np.bool_)
    outlying = distance.outlying
    if outlying.any():
        forward = outlying & (distance.ahead > 0)
        sparse_ms = np.minimum(distance.limit, SPARSE_TICKS) * np.maximum(state.interval_ms, 1)
        far_apart = forward & distance.known & (timestamp_ms - state.held_ms > sparse_ms)
        begins |= _confirm(state, timestamp_ms, distance.limit_ms, distance.ahead, outlying)
        if config.interval_ms == 0:
            begins |= forward & (state.held_run <= -AHEAD_RUN)
            relearned = begins & far_apart
    state.held_ms[~outlying | begins] = UNKNOWN
    state.held_run[~outlying | begins] = 0
    return begins, relearned


def _outcomes(distance: _Distance, begins: Bools) -> I8:
    """Return the outcome of each reading before its series may learn or forget an interval; (B,)."""
    begun, ahead, enters = distance.begun, distance.ahead, distance.on_time | begins
    outcome = np.full(len(begins), Outcome.WARMING, np.int8)
    outcome[begun & (ahead == 0)] = Outcome.DUPLICATE
    outcome[begun & (ahead < 0)] = Outcome.LATE
    outcome[distance.outlying & (ahead > 0)] = Outcome.AHEAD
    outcome[distance.known & enters] = Outcome.FORECAST
    outcome[~distance.known & enters] = Outcome.WARMING
    return outcome


def _confirm(state: TimelineState, timestamp_ms: I64, limit_ms: I64, ahead: I64, outlying: Bools) -> Bools:
    """Hold the outlying timestamps, in place; return which of them the timestamps held before confirm.

    Args:
        state: B rows, changed in place.
        timestamp_ms: event times, epoch ms; (B,).
        limit_ms: largest gap; (B,).
        ahead: ticks from the last tick to the reading, negative = before it; (B,).
        outlying: the reading is farther from the last tick than the largest gap; (B,).
    """
    spacing = timestamp_ms - state.held_ms
    ordered = (state.held_ms != UNKNOWN) & (spacing > 0)
    near = ordered & (spacing <= limit_ms)
    in_a_year = ordered & (spacing <= WARMING_GAP_MS)
    was_behind, was_ahead = state.held_run > 0, state.held_run < 0
    forward = outlying & (ahead > 0)
    confirmed: Bools = forward & near & ~was_behind
    behind_run = np.where(near & was_behind, state.held_run + 1, 1)
    ahead_run = np.where(in_a_year & was_ahead, np.maximum(state.held_run - 1, -AHEAD_RUN), -1)
    run = np.where(forward, ahead_run, behind_run).astype(np.int8)
    confirmed |= outlying & (run >= BEHIND_RUN)
    state.held_run[outlying] = run[outlying]
    state.held_ms[outlying] = timestamp_ms[outlying]
    return confirmed
