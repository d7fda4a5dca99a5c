"""Seasons of a series, and its mean at each of their phases.

A season is divided into at most MAX_BINS phases. The mean of a phase is updated when the series leaves the phase, so
that it does not change between a forecast and the same phase's truth:

    (1) mean <- mean + MEAN_RATE (mean of the values seen in the phase - mean)
    (2) mean before = (mean - MEAN_RATE seen) / (1 - MEAN_RATE), for a phase of one tick
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import F32, F64, I16, I64, Bools

MAX_BINS = 168
"""Largest number of phases of a season: a week in hours."""
MEAN_RATE = 0.2
"""Rate of (1): about that of a mean over the last nine seasons."""
MIN_TICKS = 2
"""Smallest length of a season, in ticks: a shorter one has a single phase."""
DAY_MS = 86_400_000
DAY_AND_WEEK = (DAY_MS, 7 * DAY_MS)


@dataclass(frozen=True, slots=True)
class Seasons:
    """The seasons that are kept.

    Attributes:
        lengths_ms: length of each season.
        interval_ms: spacing of all grids; 0 = each series has its own.
        context: number of ticks of inputs that are kept, W.
    """

    lengths_ms: tuple[int, ...]
    interval_ms: int
    context: int

    @property
    def bins(self) -> tuple[int, ...]:
        """Number of phases of each season that rows have room for."""
        if not self.interval_ms:
            return (MAX_BINS,) * len(self.lengths_ms)
        return tuple(min(max(length // self.interval_ms, 1), MAX_BINS) for length in self.lengths_ms)

    @property
    def in_context(self) -> tuple[bool, ...]:
        """For each season, true if the context may hold it whole."""
        return tuple(not self.interval_ms or length // self.interval_ms < self.context for length in self.lengths_ms)


@dataclass
class ProfileState:
    """Seasonal profiles of N series, one row a series; S seasons.

    Attributes:
        reference: value that is subtracted from the means, in units of the series; NaN until there was a step; (N,).
        bin: current phase; -1 = none yet; (N, S).
        total: sum of the values seen in the current phase so far, minus the reference; (N, S).
        count: number of those values; (N, S).
        means: mean of every phase of each season, one season after the other, minus the reference; NaN = never seen;
            (N, sum of bins).
    """

    reference: F64
    bin: I16
    total: F32
    count: F32
    means: F32

    @classmethod
    def empty(cls, n: int, seasons: Seasons) -> ProfileState:
        """Return n series without a reading."""
        kept = len(seasons.lengths_ms)
        return cls(
            reference=np.full(n, np.nan),
            bin=np.full((n, kept), -1, np.int16),
            total=np.zeros((n, kept), np.float32),
            count=np.zeros((n, kept), np.float32),
            means=np.full((n, sum(seasons.bins)), np.nan, np.float32),
        )


class Season:
    """One season on the grids of B series.

    Args:
        seasons: all seasons.
        season_index: index of this season among them.
        interval_ms: spacing of the grids; (B,).

    Attributes:
        in_context: the context may hold a whole season.
        ticks: number of ticks of the season; (B,).
    """

    def __init__(self, seasons: Seasons, season_index: int, interval_ms: I64) -> None:
        self._length = seasons.lengths_ms[season_index]
        self._interval = interval_ms
        self._season_index = season_index
        self._context = seasons.context
        self.in_context = seasons.in_context[season_index]
        self._first = sum(seasons.bins[:season_index])
        self.ticks = (self._length + interval_ms // 2) // interval_ms
        self._bins = np.minimum(np.maximum(self.ticks, 1), seasons.bins[season_index])
        self._reach = self.ticks - -(-self.ticks // self._bins)

    def known(self, horizons: I64) -> Bools:
        """Return the horizons that the means may forecast; false if the season has too few ticks; (B, J).

        A forecast from a mean is recomputed when its truth comes. That is possible for horizons within the season, and
        beyond it only if all values since the forecast are in the context, see `mean_before`.
        """
        ticks = self.ticks[:, None]
        rounds = -(-horizons // np.maximum(ticks, 1))
        in_context = (self.ticks == self._bins)[:, None] & ((rounds - 1) * ticks < self._context)
        return np.asarray(((horizons <= self._reach[:, None]) | in_context) & (ticks >= MIN_TICKS))

    def mean_before(self, mean: F32, context: F32, horizons: I64) -> F32:
        """Return the mean of this tick's phase as it was each horizon ago, by undoing (1) with (2); (B, J).

        Args:
            mean: mean of this tick's phase, without the tick itself; (B,).
            context: inputs by tick, newest first; (B, W).
            horizons: ticks ahead; (J,).
        """
        ticks = np.maximum(self.ticks, 1)
        means = np.repeat(mean[:, None], len(horizons), axis=1)
        for rounds in range(1, -(-int(horizons.max()) // int(ticks.min(initial=horizons.max())))):
            back = rounds * ticks
            seen = np.take_along_axis(context, np.minimum(back, context.shape[1] - 1)[:, None], axis=1)[:, 0]
            before = (mean - np.float32(MEAN_RATE) * seen) / np.float32(1.0 - MEAN_RATE)
            mean = np.where(np.isnan(seen) | (back >= context.shape[1]), mean, before)
            np.copyto(means, mean[:, None], where=horizons > back[:, None])
        return means

    def mean_at(self, state: ProfileState, time_ms: I64) -> F32:
        """Return the mean of the phase at each time; NaN = never seen; (B,) or (B, J), like the times."""
        bins = self._bins if time_ms.ndim == 1 else self._bins[:, None]
        place = self._first + time_ms % self._length * bins // self._length
        if time_ms.ndim == 1:
            return np.take_along_axis(state.means, place[:, None], axis=1)[:, 0]
        return np.take_along_axis(state.means, place, axis=1)

    def add(self, state: ProfileState, time_ms: I64, values: F64) -> None:
        """Add the values of a tick to the current phases, in place; update the phases that were left by (1).

        Args:
            state: B rows, changed in place.
            time_ms: event time of the tick; (B,).
            values: values minus the reference of the state; NaN where there is none; (B,).
        """
        column = self._season_index
        now = time_ms % self._length * self._bins // self._length
        left = np.flatnonzero((now != state.bin[:, column]) & (state.count[:, column] > 0))
        place = self._first + state.bin[left, column].astype(np.int64)
        seen = state.total[left, column] / state.count[left, column]
        before = state.means[left, place]
        state.means[left, place] = np.where(np.isnan(before), seen, before + np.float32(MEAN_RATE) * (seen - before))
        state.total[left, column] = state.count[left, column] = 0.0
        state.bin[:, column] = now
        known = ~np.isnan(values)
        state.total[:, column] += np.where(known, values, 0.0)
        state.count[:, column] += known


def rebase(state: ProfileState, reference: F64) -> None:
    """Make the means relative to new references, in place; (B,)."""
    rows = np.flatnonzero(state.reference != reference)  # a NaN differs from everything
    if len(rows):
        change = np.nan_to_num(state.reference[rows] - reference[rows])[:, None]
        state.means[rows] = state.means[rows] + change
        state.total[rows] = state.total[rows] + change * state.count[rows]
        state.reference[rows] = reference[rows]
