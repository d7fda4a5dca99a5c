"""The interval of a series' grid, learned from its timestamps.

An unknown interval becomes known when `AGREEING` timestamps in a row agree on one. A rival is another interval that the
recent timestamps agree on. It replaces a known interval under three conditions, so that a short burst is no new
interval:

- The rival is finer than the known interval, or longer than `SPARSE_TICKS` of its ticks.
- The timestamps have agreed on the rival for long enough: see `FINER_SPANS` and `COARSER_SPANS`.
- No timestamp has refuted the rival in the meantime.
"""

from __future__ import annotations

import numpy as np

from forecaster.core.series.grid import MIN_GAP_TICKS, UNKNOWN, TimelineState
from forecaster.records import I64, Bools

SPARSE_TICKS = 24
"""If readings are more ticks apart than this, the grid is much too fine: few forecasts would ever meet a truth."""
FINER_SPANS, COARSER_SPANS = 2, 8
"""Time that timestamps must agree on a rival: this many known intervals if it is finer, else this many of its own."""
JITTER = 0.1
"""Share of the interval by which timestamps may miss their tick."""

_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
COMMON_INTERVALS_MS = np.array(
    [1, 2, 5, 10, 20, 25, 40, 50, 100, 200, 250, 500]
    + [n * _SECOND for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)]
    + [n * _MINUTE for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)]
    + [n * _HOUR for n in (1, 2, 3, 4, 6, 8, 12)]
    + [n * _DAY for n in (1, 7)],
    dtype=np.int64,
)
"""Usual spacings of sensor readings, ascending, ms."""


def learn_interval(
    state: TimelineState, timestamp_ms: I64, ahead: I64, on_time: Bools, begins: Bools, known: Bools
) -> Bools:
    """Add the timestamps to the recent ones and learn intervals from them, in place.

    Args:
        state: B rows.
        timestamp_ms: event times, epoch ms; (B,).
        ahead: ticks from the last tick to the reading; (B,).
        on_time: the reading continues its grid; (B,).
        begins: the grid starts again at the reading; (B,).
        known: the interval was known before the reading; (B,).

    Returns:
        True if an interval is known from this reading on, or another one than before; (B,).
    """
    state.recent_ms[begins] = UNKNOWN
    state.rival_ms[begins] = 0
    crowded = known & ~begins & (ahead == 0) & (timestamp_ms > state.recent_ms[:, 0])
    remember = np.flatnonzero(on_time | begins | crowded)
    state.recent_ms[remember, 1:] = state.recent_ms[remember, :-1]
    state.recent_ms[remember, 0] = timestamp_ms[remember]
    doubtful = crowded | (known & on_time & ((ahead > SPARSE_TICKS) | (state.rival_ms > 0)))
    return _settle(state, on_time & ~known, doubtful, crowded)


def _settle(state: TimelineState, warming: Bools, doubtful: Bools, crowded: Bools) -> Bools:
    """Set the intervals that the recent timestamps agree on, or the rivals that have lasted; return the changed rows.

    Args:
        state: B rows, changed in place.
        warming: the interval is unknown; (B,).
        doubtful: the newest timestamp speaks against the known interval; (B,).
        crowded: the newest timestamp belongs to the last tick; (B,).
    """
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
    """Update the rivals of the rows by their recent timestamps; return the rows whose rival has lasted long enough.

    A finer rival shows in several timestamps of one tick and is refuted by a pause of nearly a tick. A coarser rival
    shows in timestamps many ticks apart and is refuted by two that are close to each other. A rival that has not lasted
    yet is kept when the timestamps agree on a longer interval, because ticks may be missing.

    Args:
        state: B rows, changed in place.
        rows: indices of M rows.
        interval: interval that the recent timestamps agree on; 0 = none; (M,).
        crowded: the newest timestamp belongs to the last tick; (M,).
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
    """Return the interval that all timestamps agree on (0 = none) and the ticks from the oldest to the newest.

    Timestamps agree if each difference is a multiple of the smallest one, up to a jitter of a tenth of it, and most
    multiples are small: one stray timestamp makes no grid. An exact agreement is taken as it is; a jittery one snaps to
    a common interval (a minute, an hour, ...) close to it.

    Args:
        recent_ms: timestamps, newest first, strictly descending; (B, AGREEING).
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
