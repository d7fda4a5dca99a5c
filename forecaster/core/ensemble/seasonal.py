"""Seasons of a series: how many ticks they have, and what the series was at each of their phases, on average.

A season that the context does not reach back over is kept as means of at most MAX_BINS phases. A phase's mean takes in
what was seen there when the series leaves it: what was forecast from it before is what it says until then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import F32, F64, I16, I64, Bools

MAX_BINS = 168
MEAN_RATE = 0.2
"""A phase's mean moves so far towards what was seen in its last season: about as much as a mean of the last nine."""
LEAST_TICKS = 2
DAY_MS = 86_400_000
DAY_AND_WEEK = (DAY_MS, 7 * DAY_MS)


@dataclass(frozen=True, slots=True)
class Seasons:
    """Which seasons are kept.

    Attributes:
        lengths_ms: of each.
        interval_ms: spacing of all grids; 0 = each series has its own.
        context: ticks of inputs that are kept.
    """

    lengths_ms: tuple[int, ...]
    interval_ms: int
    context: int

    @property
    def bins(self) -> tuple[int, ...]:
        """How many phases of each season there is room for."""
        if not self.interval_ms:
            return (MAX_BINS,) * len(self.lengths_ms)
        return tuple(min(max(length // self.interval_ms, 1), MAX_BINS) for length in self.lengths_ms)

    @property
    def in_context(self) -> tuple[bool, ...]:
        """Whether the context may hold a whole season, of each."""
        return tuple(not self.interval_ms or length // self.interval_ms < self.context for length in self.lengths_ms)


@dataclass
class ProfileState:
    """One row a series; S seasons.

    Attributes:
        origin: what the means are counted from; NaN until there was a step; (N,).
        bin: the phase that the series is in, -1 = none yet; (N, S).
        total: sum of the values seen in it so far; (N, S).
        count: how many those are; (N, S).
        means: of every phase of each season, one season after the other; NaN = never seen; (N, sum of bins).
    """

    reference: F64
    bin: I16
    total: F32
    count: F32
    means: F32

    @classmethod
    def empty(cls, n: int, seasons: Seasons) -> ProfileState:
        """Returns n series that were never seen."""
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
        seasons: which there are.
        number: which of them.
        interval_ms: spacing of the grids; (B,).
    """

    def __init__(self, seasons: Seasons, number: int, interval_ms: I64) -> None:
        self._length = seasons.lengths_ms[number]
        self._interval = interval_ms
        self._number = number
        self._context = seasons.context
        self.in_context = seasons.in_context[number]
        self._first = sum(seasons.bins[:number])
        self.ticks = (self._length + interval_ms // 2) // interval_ms
        self._bins = np.minimum(np.maximum(self.ticks, 1), seasons.bins[number])
        self._reach = self.ticks - -(-self.ticks // self._bins)

    def known(self, horizons: I64) -> Bools:
        """Returns which horizons the means may speak of, if it is a season at all; (B, J).

        What they said of the next season once is known later where all values since then are in the context (see
        `mean_before`); else only what they said of this one.
        """
        ticks = self.ticks[:, None]
        rounds = -(-horizons // np.maximum(ticks, 1))
        in_context = (self.ticks == self._bins)[:, None] & ((rounds - 1) * ticks < self._context)
        return np.asarray(((horizons <= self._reach[:, None]) | in_context) & (ticks >= LEAST_TICKS))

    def mean_before(self, mean: F32, context: F32, horizons: I64) -> F32:
        """Returns what the means had said of this tick as many ticks ago as the horizons: (2) undone; (B, J).

        Args:
            mean: of this tick's phase, before the tick itself is in it; (B,).
            context: by tick, newest first; (B, W).
            horizons: (J,).
        """
        ticks = np.maximum(self.ticks, 1)
        found = np.repeat(mean[:, None], len(horizons), axis=1)
        for rounds in range(1, -(-int(horizons.max()) // int(ticks.min(initial=horizons.max())))):
            back = rounds * ticks
            seen = np.take_along_axis(context, np.minimum(back, context.shape[1] - 1)[:, None], axis=1)[:, 0]
            before = (mean - np.float32(MEAN_RATE) * seen) / np.float32(1.0 - MEAN_RATE)
            mean = np.where(np.isnan(seen) | (back >= context.shape[1]), mean, before)
            np.copyto(found, mean[:, None], where=horizons > back[:, None])
        return found

    def mean_at(self, state: ProfileState, time_ms: I64) -> F32:
        """Returns the mean of the phase of each time; NaN = never seen; (B,) or (B, J), as the times are."""
        bins = self._bins if time_ms.ndim == 1 else self._bins[:, None]
        place = self._first + time_ms % self._length * bins // self._length
        if time_ms.ndim == 1:
            return np.take_along_axis(state.means, place[:, None], axis=1)[:, 0]
        return np.take_along_axis(state.means, place, axis=1)

    def add(self, state: ProfileState, time_ms: I64, values: F64) -> None:
        """The phases that the series have left include what was seen in them, and those they are in the values.

        Args:
            state: B rows, changed in place.
            time_ms: of the tick; (B,).
            values: minus the origin of the state; NaN where there is none; (B,).
        """
        column = self._number
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
    """The means are counted from these origins. In place; (B,)."""
    moved = np.flatnonzero(state.reference != reference)  # a NaN differs from everything
    if len(moved):
        change = np.nan_to_num(state.reference[moved] - reference[moved])[:, None]
        state.means[moved] = state.means[moved] + change
        state.total[moved] = state.total[moved] + change * state.count[moved]
        state.reference[moved] = reference[moved]
