"""Event time onto the grid of a series: what is on time, late, twice, too far ahead, and how large a gap is.

Every decision rests on the reading's stamp and on its own series alone: no clock, nothing shared between series. A
stamp rounds to the nearest tick of a grid that starts at the first stamp of the series.

| stamp | becomes |
|---|---|
| after the last tick, by at most the largest gap | a step; ticks between are a gap |
| of the last tick | DUPLICATE; the first reading of a tick counts |
| before the last tick | LATE |
| farther ahead than the largest gap | AHEAD, until the next reading is near it too: then the grid begins anew there |
| so far ahead, confirmed by one that is many ticks on, or `AHEAD_RUN` in a row | a learned interval is unknown again |
| farther behind than the largest gap | LATE, until `BEHIND_RUN` in a row agree: then the grid begins anew there |
| farther ahead than the time to live, confirmed | the first of a new series: nothing of the old one counts |

With an unknown interval (0), readings are WARMING until `AGREEING` stamps in a row agree on one. A learned interval
gives way to a finer one, or to one of more than `SPARSE_TICKS` ticks, when the stamps have agreed on it for long enough
and none has spoken against it: a burst is no new interval. The grid begins anew then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import I8, I64, Bools, Outcome

AGREEING = 4
BEHIND_RUN = 4
AHEAD_RUN = 4
MIN_GAP_TICKS = 8
SPARSE_TICKS = 24
"""An interval of more ticks than these makes the grid much too fine: few forecasts would ever meet their truth."""
FINER_SPANS, COARSER_SPANS = 2, 8
"""A finer interval counts after so many of the old one, a coarser one after so many of its own."""
JITTER = 0.1
UNKNOWN = -1
WARMING_GAP_MS = 366 * 86_400_000
"""While the interval is unknown, only a jump of more than a year needs a second reading to confirm it."""

_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
COMMON_INTERVALS_MS = np.array(
    [1, 2, 5, 10, 20, 25, 40, 50, 100, 200, 250, 500]
    + [n * _SECOND for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)]
    + [n * _MINUTE for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)]
    + [n * _HOUR for n in (1, 2, 3, 4, 6, 8, 12)]
    + [n * _DAY for n in (1, 7)],
    dtype=np.int64,
)


@dataclass
class TimelineState:
    """One row a series.

    Attributes:
        interval_ms: spacing of the grid; 0 = not known yet.
        start_ms: stamp of tick 0.
        tick: the last tick that had a reading; -1 = none yet.
        recent_ms: the last stamps, newest first, -1 = none; (N, AGREEING).
        held_ms: the last stamp far ahead or far behind; -1 = none.
        held_run: how many readings in a row were far behind and in order; negative: far ahead.
        rival_ms: another interval that the recent stamps agreed on; 0 = none.
        rival_since_ms: the stamp at which they first did.
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
        """Returns n series that had no reading yet; `interval_ms` 0 = to be learned."""
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
class Placement:
    """Where a wave of readings came to stand; all (B,).

    Attributes:
        outcome: FORECAST where the reading is a step of its grid.
        gap: ticks since the reading before; 1 = none missing; meaningful for steps.
        restarted: the grid begins at this reading: nothing before it counts as neighbouring.
        settled: the interval became known at this reading: the warming readings before it are `recent_ms`.
        expired: the series was idle for longer than its time to live: all of its row begins anew.
    """

    outcome: I8
    gap: I64
    restarted: Bools
    settled: Bools
    expired: Bools


@dataclass(frozen=True, slots=True)
class GridConfig:
    """What a grid may do.

    Attributes:
        interval_ms: its spacing; 0 = learned for each series.
        max_gap_ms: a longer gap begins the grid anew, though never one of up to MIN_GAP_TICKS ticks.
        ttl_ms: a longer gap makes it another series of the same name.
    """

    interval_ms: int = 0
    max_gap_ms: int = 86_400_000
    ttl_ms: int = 30 * 86_400_000


def place(config: GridConfig, state: TimelineState, timestamp_ms: I64) -> Placement:
    """Every reading has an outcome, and `state` holds what the next reading needs; changed in place.

    Args:
        config: of the grids.
        state: B rows, all distinct series.
        timestamp_ms: event times, epoch ms; (B,).
    """
    outcome = np.full(len(timestamp_ms), Outcome.WARMING, np.int8)
    gap = np.ones(len(timestamp_ms), np.int64)
    restarted = np.zeros(len(timestamp_ms), np.bool_)
    settled = np.zeros(len(timestamp_ms), np.bool_)
    known = state.interval_ms > 0
    interval = np.maximum(state.interval_ms, 1)
    begun = state.tick >= 0

    position = (timestamp_ms - state.start_ms + interval // 2) // interval
    ahead = position - state.tick
    limit = largest_gap(config, interval)
    unknown = ~known
    if unknown.any():
        newest = state.recent_ms[:, 0]
        begun = np.where(known, begun, newest != UNKNOWN)
        ahead = np.where(known, ahead, timestamp_ms - newest)
        limit = np.where(known, limit, max(WARMING_GAP_MS, config.max_gap_ms))

    on_time = begun & (ahead > 0) & (ahead <= limit)
    outcome[begun & (ahead == 0)] = Outcome.DUPLICATE
    outcome[begun & (ahead < 0)] = Outcome.LATE
    begins = ~begun
    relearned = np.zeros(len(timestamp_ms), np.bool_)
    wild = begun & (np.abs(ahead) > limit)
    if wild.any():
        forward = wild & (ahead > 0)
        far = forward & known & (timestamp_ms - state.held_ms > np.minimum(limit, SPARSE_TICKS) * interval)
        begins |= _confirm(state, timestamp_ms, np.where(known, limit * interval, limit), ahead, wild)
        outcome[forward] = Outcome.AHEAD
        if config.interval_ms == 0:
            begins |= forward & (state.held_run <= -AHEAD_RUN)
            relearned = begins & far
    state.held_ms[~wild | begins] = UNKNOWN
    state.held_run[~wild | begins] = 0

    steps = known & (on_time | begins)
    outcome[steps] = Outcome.FORECAST
    outcome[unknown & (on_time | begins)] = Outcome.WARMING
    restarted |= begins
    expired = begins & begun & (timestamp_ms - last_stamp(state) > config.ttl_ms)
    if config.interval_ms == 0:
        state.interval_ms[expired | relearned] = 0
        outcome[expired | relearned] = Outcome.WARMING
    gap = np.where(on_time & known, ahead, 1)
    state.start_ms[begins] = timestamp_ms[begins]
    np.copyto(state.tick, np.where(begins, 0, position), where=steps)
    if config.interval_ms == 0:
        settled = _learn(state, timestamp_ms, ahead, on_time, begins, known)
        outcome[settled] = Outcome.FORECAST
        restarted |= settled
        settled &= unknown
    return Placement(outcome, gap, restarted, settled, expired)


def largest_gap(config: GridConfig, interval_ms: I64) -> I64:
    """Returns how many ticks a gap may have that does not begin the grid anew; (B,)."""
    return np.maximum(config.max_gap_ms // interval_ms, MIN_GAP_TICKS)


def last_stamp(state: TimelineState) -> I64:
    """Returns the event time of the last tick, or of the last reading while the interval is unknown; (B,)."""
    return np.where(state.interval_ms > 0, state.start_ms + state.tick * state.interval_ms, state.recent_ms[:, 0])


def patience_ms(config: GridConfig, state: TimelineState) -> I64:
    """Returns how long after its last stamp a series is not idle: its next reading may be an ordinary one; (B,).

    That is its time to live, or a gap that does not begin its grid anew, whichever is longer.
    """
    known = state.interval_ms > 0
    ordinary = (2 * largest_gap(config, np.maximum(state.interval_ms, 1)) + 1) * state.interval_ms // 2
    return np.maximum(config.ttl_ms, np.where(known, ordinary, max(WARMING_GAP_MS, config.max_gap_ms)))


def _confirm(state: TimelineState, timestamp_ms: I64, limit_ms: I64, ahead: I64, wild: Bools) -> Bools:
    """Holds the wild stamps; true where those held before say that this one is right."""
    spacing = timestamp_ms - state.held_ms
    ordered = (state.held_ms != UNKNOWN) & (spacing > 0)
    near = ordered & (spacing <= limit_ms)
    in_a_year = ordered & (spacing <= WARMING_GAP_MS)
    was_behind, was_ahead = state.held_run > 0, state.held_run < 0
    forward = wild & (ahead > 0)
    confirmed: Bools = forward & near & ~was_behind
    behind_run = np.where(near & was_behind, state.held_run + 1, 1)
    ahead_run = np.where(in_a_year & was_ahead, np.maximum(state.held_run - 1, -AHEAD_RUN), -1)
    run = np.where(forward, ahead_run, behind_run).astype(np.int8)
    confirmed |= wild & (run >= BEHIND_RUN)
    state.held_run[wild] = run[wild]
    state.held_ms[wild] = timestamp_ms[wild]
    return confirmed


def _learn(state: TimelineState, timestamp_ms: I64, ahead: I64, on_time: Bools, begins: Bools, known: Bools) -> Bools:
    """The recent stamps include these; true where the interval is known from here on, or another one."""
    state.recent_ms[begins] = UNKNOWN
    state.rival_ms[begins] = 0
    crowded = known & ~begins & (ahead == 0) & (timestamp_ms > state.recent_ms[:, 0])
    remember = np.flatnonzero(on_time | begins | crowded)
    state.recent_ms[remember, 1:] = state.recent_ms[remember, :-1]
    state.recent_ms[remember, 0] = timestamp_ms[remember]
    doubtful = crowded | (known & on_time & ((ahead > SPARSE_TICKS) | (state.rival_ms > 0)))
    return _settle(state, on_time & ~known, doubtful, crowded)


def _settle(state: TimelineState, warming: Bools, doubtful: Bools, crowded: Bools) -> Bools:
    """The interval is known where the recent stamps agree on one, and another one where they doubt it for long."""
    settled = np.zeros(len(warming), np.bool_)
    rows = np.flatnonzero((warming | doubtful) & (state.recent_ms[:, -1] != UNKNOWN))
    if not len(rows):
        return settled
    interval, ticks = agreed_interval(state.recent_ms[rows])
    agreed = (interval > 0) & (warming[rows] | _outlasted(state, rows, interval, crowded[rows]))
    rows = rows[agreed]
    state.interval_ms[rows] = interval[agreed]
    state.start_ms[rows] = state.recent_ms[rows, -1]
    state.tick[rows] = ticks[agreed]
    state.rival_ms[rows] = 0
    settled[rows] = True
    return settled


def _outlasted(state: TimelineState, rows: I64, interval: I64, crowded: Bools) -> Bools:
    """The rows' rivals follow from their recent stamps; true where the rival has held for long enough.

    A finer one is seen where several stamps are of one tick, and refuted by a pause of nearly a tick; a coarser one is
    seen where stamps are many ticks apart, and refuted by two that are near. Until it is old, a rival stays though
    stamps agree on a longer one: ticks may be missing.

    Args:
        state: changed in place.
        rows: which of them; (M,).
        interval: that the recent stamps agree on; 0 = none; (M,).
        crowded: the newest stamp is of the last tick; (M,).
    """
    recent, known = state.recent_ms[rows], state.interval_ms[rows]
    newest, spacings = recent[:, 0], recent[:, :-1] - recent[:, 1:]
    rival, since = state.rival_ms[rows], state.rival_since_ms[rows]
    refuted = np.where(rival < known, spacings[:, 0] * 8 > known * 7, spacings[:, 0] * 2 < rival)
    rival = np.where(refuted, 0, rival)
    dense = np.median(spacings, axis=1) * 2 < interval * 3
    seen = dense & np.where(crowded, interval * 4 <= known * 3, interval > known * SPARSE_TICKS)
    lasted = newest - since >= np.where(interval < known, FINER_SPANS * known, COARSER_SPANS * interval)
    same = seen & (np.abs(interval - rival) <= JITTER * rival)
    replaced = seen & ~same & ((rival == 0) | (interval < rival) | lasted)
    state.rival_ms[rows] = np.where(replaced, interval, rival)
    state.rival_since_ms[rows] = np.where(replaced, newest, since)
    outlasted: Bools = same & lasted
    return outlasted


def agreed_interval(recent_ms: I64) -> tuple[I64, I64]:
    """Returns the interval that all stamps agree on (0 = none) and the ticks from the oldest to the newest.

    They agree where each difference is a multiple of the smallest one, but for a jitter of a tenth of it, and most of
    them are few of it: one stray stamp is no grid. An exact agreement is taken as it is; a jittery one snaps to a
    common interval (a minute, an hour, ...) near it.

    Args:
        recent_ms: newest first, strictly descending; (B, AGREEING).
    """
    differences = recent_ms[:, :-1] - recent_ms[:, 1:]
    smallest = differences.min(axis=1, keepdims=True)
    multiples = (differences + smallest // 2) // np.maximum(smallest, 1)
    residual = np.abs(differences - multiples * smallest)
    ticks = multiples.sum(axis=1)
    estimate = (recent_ms[:, 0] - recent_ms[:, -1]) / np.maximum(ticks, 1)
    nearest = COMMON_INTERVALS_MS[np.abs(COMMON_INTERVALS_MS - estimate[:, None]).argmin(axis=1)]
    snapped = np.where(np.abs(nearest - estimate) <= JITTER / 2 * estimate, nearest, np.rint(estimate))
    interval = np.where(residual.max(axis=1) == 0, smallest[:, 0], snapped.astype(np.int64))
    agree = (residual <= JITTER * smallest).all(axis=1) & (smallest[:, 0] > 0)
    agree &= np.median(multiples, axis=1) <= MIN_GAP_TICKS
    return np.where(agree, interval, 0), ticks
