"""The mix of the experts, weighted by their matured losses, and a gate towards the last value.

For each series and horizon, with e² the squared error of an expert in deviations of the series, averaged over the
neighbouring horizons:

    (1) L_f <- L_f + r (1 - .98) (e² - L_f)       (2) L_s <- L_s + r (1 - .995) (e² - L_s)
    (3) w   ∝  (L_f L_s)^-2                        (4) mix = sum of w x expert
    (5) num <- .9995 num + (y - last)(mix - last)  (6) den <- .9995 den + (mix - last)²
    (7) slope = num / (den + ridge)
    (8) point = last + g (mix - last), g = 0 up to a slope of .3, 1 from .6 on, and linear between them

Errors at long horizons are correlated over more ticks, so they are remembered for longer: r = 1 / (1 + .1 (h - 1)).
While a loss rests on n < 1/rate truths, the rate is 1/n, which makes it a plain mean. An expert whose first loss comes
later than the last value's starts with the losses of the last value, as if they rested on ten truths, so that it can
gain weight soon.

(3) is the exponentially weighted forecaster of Vovk (1990) with a logarithmic loss and a window of two lengths; (7) is
the least-squares slope of the truth on the mix, both from the last value, as in Bates and Granger (1969). In (4) the
distance of an expert from the last value is clipped, so that an expert with a small weight cannot dominate the mix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import F32, I16, I64

FAST_LOSS_DECAY, SLOW_LOSS_DECAY = 0.98, 0.995
"""Factors of (1) and (2) by which a loss fades with each truth, at a horizon of one tick."""
GATE_DECAY = 0.9995
"""Factor of (5) and (6) by which the sums of the gate fade with each truth."""
HORIZON_MEMORY_GROWTH = 0.1
"""Growth of the memory of the losses with each further tick of the horizon."""
LATE_START_TRUTHS = 10
"""Number of truths that the initial losses of an expert count for if it starts later than the last value."""
MAX_TRUTHS = 30_000
"""Limit of the counts of truths: all rates have reached their minimum by then."""
ERROR_CLIP = 16.0
"""Errors are clipped to this many scales."""
MOVE_CLIP = 12.0
"""Distances of experts from the last value are clipped to this many scales, in the mix and in what the gate learns.

The scales are those of the time of the forecast: distances are converted to deviations of the series after the clip.
"""
NEIGHBOURS = 3
"""Neighbours of a horizon, on each side, that losses are averaged over."""
MIN_LOSS = 1e-10
"""Smallest product of both losses in (3), so that no weight is infinite."""
MIN_UNIT = 1e-24
"""Smallest unit of the gate's sums, so that they stay finite."""
GROUP_SHARE = 4.0
"""Weight of the group's mean in the gate of each of its series."""
RIDGE = 40.0
"""Ridge of (7): the gate cannot open before den amounts to about this many squared errors of the last value."""
LAST_VALUE_INDEX = 0
"""Index of the last value among the experts."""
CLOSED, OPEN = 0.3, 0.6
"""Slopes up to which the gate is closed, and from which on it is open."""


@dataclass
class CombinationState:
    """Losses and gates of N series, one row a series; E experts, J horizons.

    Attributes:
        fast: losses with a short memory, L_f, in squared deviations; NaN = none yet; (N, E, J).
        slow: losses with a long memory, L_s; (N, E, J).
        truth_count: number of truths that the losses rest on at the first horizon, n; (N, E).
        gate_numerator: num of (5), in squared deviations; (N, J).
        gate_denominator: den of (6), in squared deviations; (N, J).
    """

    fast: F32
    slow: F32
    truth_count: I16
    gate_numerator: F32
    gate_denominator: F32

    @classmethod
    def empty(cls, n: int, experts: int, horizons: int) -> CombinationState:
        """Return n series whose experts were never scored."""
        nothing = np.full((n, experts, horizons), np.nan, np.float32)
        zeros = np.zeros((n, horizons), np.float32)
        return cls(nothing, nothing.copy(), np.zeros((n, experts), np.int16), zeros, zeros.copy())


@dataclass(frozen=True, slots=True)
class Combined:
    """Combined forecasts, as (forecast - last) / scale.

    Attributes:
        mix: forecast before the gate; (B, J).
        point: forecast after the gate; (B, J).
        weights: weight of each expert, 0 where it makes no forecast; (B, E, J).
        gate: 0 = the last value, 1 = the mix; (B, J).
    """

    mix: F32
    point: F32
    weights: F32
    gate: F32


@dataclass(frozen=True, slots=True)
class MaturedPairs:
    """Truths with their forecasts, as (value - last) / scale at the time of the forecast; NaN where there is none.

    Attributes:
        truth: true values; (B, J).
        experts: forecasts of the experts; (B, E, J).
        mix: mix before the gate; (B, J).
        relative_scale: scale at the time of the forecast, in deviations of the series: an error in a volatile phase
            counts for more; (B, J).
    """

    truth: F32
    experts: F32
    mix: F32
    relative_scale: F32


def learn(state: CombinationState, horizons: I64, pairs: MaturedPairs) -> None:
    """Update losses and gate by (1), (2), (5) and (6), in place.

    Args:
        state: B rows, changed in place.
        horizons: ticks ahead; (J,).
        pairs: truths of this tick with their forecasts.
    """
    _learn_losses(state, horizons, pairs)
    mix = np.clip(pairs.mix, -MOVE_CLIP, MOVE_CLIP) * pairs.relative_scale
    truth = np.clip(pairs.truth, -MOVE_CLIP, MOVE_CLIP) * pairs.relative_scale
    squares = np.where(np.isnan(truth), np.float32(np.nan), mix * mix)
    terms = smoothed(np.stack([truth * mix, squares], axis=1), horizons)
    _add_terms(state.gate_numerator, terms[:, 0])
    _add_terms(state.gate_denominator, terms[:, 1])


def _add_terms(sums: F32, terms: F32) -> None:
    """Let the sums of (5) or (6) fade and add the new terms, in place; a NaN changes nothing; (B, J)."""
    np.copyto(sums, np.float32(GATE_DECAY) * sums + terms, where=~np.isnan(terms))


def _learn_losses(state: CombinationState, horizons: I64, pairs: MaturedPairs) -> None:
    """Update the losses by (1) and (2), in place."""
    present = _present(pairs.experts)
    error = pairs.experts[:, present] - pairs.truth[:, None]
    np.clip(error, -ERROR_CLIP, ERROR_CLIP, out=error)
    error *= pairs.relative_scale[:, None]
    loss = smoothed(error * error, horizons)
    fast, slow, truth_count = state.fast[:, present], state.slow[:, present], state.truth_count[:, present]
    unscored = np.isnan(slow)
    if unscored.any():
        starts = unscored & ~np.isnan(loss)
        last_value = np.broadcast_to(slow[:, LAST_VALUE_INDEX][:, None], unscored.shape)
        initial = np.where(np.isnan(last_value), loss, last_value)
        for losses in (fast, slow):
            np.copyto(losses, initial, where=starts)
        starts_late = (truth_count == 0) & starts.any(axis=2) & (truth_count[:, LAST_VALUE_INDEX] > 0)[:, None]
        truth_count[starts_late] = LATE_START_TRUTHS
    truth_count += ~np.isnan(loss[:, :, 0]) & (truth_count < MAX_TRUTHS)
    horizon_rate = 1.0 / (1.0 + HORIZON_MEMORY_GROWTH * (horizons - 1.0).astype(np.float32))
    mean_rate = _mean_rate(truth_count, horizons)
    for losses, decay in ((fast, FAST_LOSS_DECAY), (slow, SLOW_LOSS_DECAY)):
        change = (loss - losses) * np.maximum(np.float32(1.0 - decay) * horizon_rate, mean_rate)
        np.copyto(change, np.float32(0.0), where=np.isnan(change))
        losses += change


def _mean_rate(truth_count: I16, horizons: I64) -> F32:
    """Return 1 / n, where n is the number of truths of each horizon, from the number at the first one; (B, E, J)."""
    later = (horizons - horizons[0]).astype(np.float32)
    return np.asarray(1.0 / np.maximum(truth_count[:, :, None] - later, np.float32(1.0)), np.float32)


def combine(state: CombinationState, experts: F32, record: I64) -> Combined:
    """Return the combined forecasts by (3), (4), (7) and (8).

    Args:
        state: B rows.
        experts: forecast of each expert, in scales from the last value; NaN where it makes none; (B, E, J).
        record: index of each row's record in the batch, ascending; series of one record belong to one group; (B,).
    """
    present = _present(experts)
    forecasts, weights = experts[:, present], np.zeros_like(state.slow)
    present_weights = _weights(state.fast[:, present] * state.slow[:, present], forecasts)
    weights[:, present] = present_weights
    moves = np.clip(forecasts, -MOVE_CLIP, MOVE_CLIP)
    np.copyto(moves, np.float32(0.0), where=np.isnan(moves))
    mix = _sum_over_experts(present_weights * moves)
    gate = _gate(state, state.slow[:, LAST_VALUE_INDEX], record)
    return Combined(mix, gate * mix, weights, gate)


def _weights(loss: F32, forecasts: F32) -> F32:
    """Return (3) from the products of both losses; 0 if an expert makes no forecast or was never scored."""
    loss = np.maximum(loss, np.float32(MIN_LOSS))
    np.copyto(loss, np.float32(np.inf), where=np.isnan(forecasts) | np.isnan(loss))
    best = loss.min(axis=1, keepdims=True)
    unknown = np.isinf(best)
    weights: F32 = np.asarray(np.where(unknown, 1.0, best), np.float32) / loss
    weights *= weights
    weights[:, LAST_VALUE_INDEX] += unknown[:, 0]
    weights /= _sum_over_experts(weights)[:, None]
    return weights


def _present(experts: F32) -> slice:
    """Return the slice of the first experts, up to the last one with a forecast in any row; (B, E, J)."""
    count = experts.shape[1]
    while count > 1 and np.isnan(experts[:, count - 1]).all():
        count -= 1
    return slice(count)


def smoothed(values: F32, horizons: I64) -> F32:
    """Return the mean over the known values of neighbouring horizons; NaN where none is known; (B, E, J).

    The neighbours of a horizon h are at most h / 2 ticks away, because short horizons differ much from one another.

    Args:
        values: values by horizon; NaN = unknown; (B, E, J).
        horizons: a single horizon, or all from 1 on; (J,).
    """
    if len(horizons) == 1:
        return values
    known = ~np.isnan(values)
    partly = np.flatnonzero(~known.all(axis=(1, 2)))
    mean = _sum_over_neighbours(np.where(known, values, np.float32(0.0)) if len(partly) else values)
    sums = mean[partly]
    mean /= _sum_over_neighbours(np.ones((1, 1, len(horizons)), np.float32))
    if len(partly):
        count = _sum_over_neighbours(known[partly].astype(np.float32))
        mean[partly] = np.where(count > 0, sums / np.maximum(count, np.float32(1.0)), np.float32(np.nan))
    return mean


def _sum_over_neighbours(values: F32) -> F32:
    """Return the sums over each horizon and its neighbours, for horizons 1, 2, 3, ...; (B, E, J).

    All rows are joined to one long vector, with NEIGHBOURS zeros after each row so that no sum reaches into the next
    row: numpy adds one long vector faster than many short ones.
    """
    batch, experts, horizons = values.shape
    padded = np.zeros((batch, experts, horizons + NEIGHBOURS), np.float32)
    padded[:, :, :horizons] = values
    total = padded.copy()
    flat, sums = padded.reshape(-1), total.reshape(-1)
    for away in range(1, NEIGHBOURS + 1):
        sums[away:] += flat[:-away]
        sums[:-away] += flat[away:]
    for column in range(min(2 * NEIGHBOURS - 1, horizons)):  # short horizons have fewer neighbours
        total[:, :, column] = padded[:, :, column]
        for away in range(1, (column + 1) // 2 + 1):
            total[:, :, column] += padded[:, :, column - away] + padded[:, :, column + away]
    return total[:, :, :horizons]


def _gate(state: CombinationState, loss: F32, record: I64) -> F32:
    """Return g of (8) from (7); the sums of a group's series are pooled, each in units of its own loss; (B, J)."""
    unit = np.where(np.isnan(loss) | (loss <= 0), np.float32(1.0), np.maximum(loss, np.float32(MIN_UNIT)))
    numerator, denominator = state.gate_numerator / unit, state.gate_denominator / unit
    if len(record) > 1 and not (record[1:] != record[:-1]).all():
        begins = np.flatnonzero(np.diff(record, prepend=-1))
        sizes = np.diff(begins, append=len(record))
        for values in (numerator, denominator):
            mean = np.add.reduceat(values, begins, axis=0) / sizes[:, None].astype(np.float32)
            values += np.where(sizes > 1, np.float32(GROUP_SHARE), np.float32(0.0)).repeat(sizes)[:, None] * np.repeat(
                mean, sizes, axis=0
            )
    slope = numerator / (denominator + np.float32(RIDGE))
    return np.asarray(np.clip((slope - CLOSED) / (OPEN - CLOSED), 0.0, 1.0), np.float32)


def _sum_over_experts(values: F32) -> F32:
    """Return the sum over the experts, one by one: the order of a reduction may depend on the batch; (B, J)."""
    total = values[:, 0].copy()
    for expert in range(1, values.shape[1]):
        total += values[:, expert]
    return total
