"""Experts weighted by what their forecasts were worth when the truth came, and a gate towards the last value.

For each series and horizon, with e the error of an expert in deviations of the series, averaged over the neighbouring
horizons:

    (1) L_f <- L_f + r (1 - .98) (e² - L_f)       (2) L_s <- L_s + r (1 - .995) (e² - L_s)
    (3) w   ∝  (L_f L_s)^-2                        (4) mix = sum of w x expert
    (5) num <- .9995 num + (y - last)(mix - last)  (6) den <- .9995 den + (mix - last)²
    (7) slope = num / (den + ridge)
    (8) point = last + g (mix - last), g = 0 up to a slope of .3, 1 from .6 on, and a straight line between

Errors at long horizons last for long, so that they are remembered for longer: r = 1 / (1 + .1 (h - 1)). While a loss is
of few truths, 1 of n counts for a share of 1 / n. An expert that comes later than the last value begins with the losses
of that one, as if they were of ten truths: it need not be doubted for as long as it would take to forget them.
(3) is the exponentially weighted forecaster of Vovk (1990) with a logarithmic loss and a window of two lengths; (7) is
the least-squares slope of the truth on the mix, both from the last value, as in Bates and Granger (1969). In (4) an
expert that is far from the last value counts as nearer: a small weight must not undo what the others know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import F32, I16, I64

FAST, SLOW, GATE = 0.98, 0.995, 0.9995
LONGER = 0.1
"""With each tick of the horizon losses are remembered for longer by this share."""
LATE = 10
"""Of so many truths are the losses that an expert begins with that comes later than the last value."""
MOST_MET = 30_000
"""More truths are not counted: every rate is as small as it gets."""
ERROR_CLIP = 16.0
"""An error counts for at most so many scales."""
MOVE_CLIP = 12.0
"""An expert moves the mix by at most so many scales, and the gate learns from no longer moves."""
NEIGHBOURS = 3
LEAST_LOSS = 1e-10
LEAST_UNIT = 1e-24
"""In units of a smaller loss the sums of the gate might not stay finite."""
GROUP_SHARE = 4.0
"""The other series of a group count for so much in the gate of each."""
RIDGE = 40.0
"""The gate begins to open when the moves of the mix amount to so many squared errors of the last value."""
LAST = 0
"""Which expert is the last value."""
CLOSED, OPEN = 0.3, 0.6
"""The gate is closed up to the one slope, and open from the other on."""


@dataclass
class CombinationState:
    """One row a series; E experts, J horizons.

    Attributes:
        fast: losses with a short memory; NaN = none yet; (N, E, J).
        slow: losses with a long one; (N, E, J).
        met: truths that they are of at the first horizon; (N, E).
        along: how far the truth went along with the mix, in squared deviations; (N, J).
        moved: how far the mix itself went; (N, J).
    """

    fast: F32
    slow: F32
    met: I16
    along: F32
    moved: F32

    @classmethod
    def empty(cls, n: int, experts: int, horizons: int) -> CombinationState:
        """Returns n series whose experts were never scored."""
        nothing = np.full((n, experts, horizons), np.nan, np.float32)
        zeros = np.zeros((n, horizons), np.float32)
        return cls(nothing, nothing.copy(), np.zeros((n, experts), np.int16), zeros, zeros.copy())


@dataclass(frozen=True, slots=True)
class Combined:
    """Forecasts as (forecast - last) / scale.

    Attributes:
        mix: before the gate; (B, J).
        point: after it; (B, J).
        weights: of each expert, 0 where it has nothing to say; (B, E, J).
        gate: 0 = the last value, 1 = the mix; (B, J).
    """

    mix: F32
    point: F32
    weights: F32
    gate: F32


@dataclass(frozen=True, slots=True)
class MaturedPairs:
    """What came true, and what had been forecast of it, as (value - last) / scale of then; NaN where there is nothing.

    Attributes:
        truth: (B, J).
        experts: (B, E, J).
        mix: (B, J).
        size: the scale of then in deviations of the series: an error in wild times counts for more; (B, J).
    """

    truth: F32
    experts: F32
    mix: F32
    size: F32


def learn(state: CombinationState, horizons: I64, came: MaturedPairs) -> None:
    """Losses and gate include what came true. In place.

    Args:
        state: B rows.
        horizons: ticks ahead; (J,).
        came: true now.
    """
    _learn_losses(state, horizons, came)
    move, truth = (np.clip(one, -MOVE_CLIP, MOVE_CLIP) * came.size for one in (came.mix, came.truth))
    both = smoothed(np.stack([truth * move, np.where(np.isnan(truth), truth, move * move)], axis=1), horizons)
    for sums, new_terms in ((state.along, both[:, 0]), (state.moved, both[:, 1])):
        np.copyto(sums, np.float32(GATE) * sums + new_terms, where=~np.isnan(new_terms))


def _learn_losses(state: CombinationState, horizons: I64, came: MaturedPairs) -> None:
    """(1) and (2)."""
    speaking = _speaking(came.experts)
    error = came.experts[:, speaking] - came.truth[:, None]
    np.clip(error, -ERROR_CLIP, ERROR_CLIP, out=error)
    error *= came.size[:, None]
    loss = smoothed(error * error, horizons)
    fast, slow, met = state.fast[:, speaking], state.slow[:, speaking], state.met[:, speaking]
    unscored = np.isnan(slow)
    if unscored.any():
        begins = unscored & ~np.isnan(loss)
        reference = np.broadcast_to(slow[:, LAST][:, None], unscored.shape)
        begin = np.where(np.isnan(reference), loss, reference)
        for losses in (fast, slow):
            np.copyto(losses, begin, where=begins)
        met[(met == 0) & begins.any(axis=2) & (met[:, LAST] > 0)[:, None]] = LATE
    met += ~np.isnan(loss[:, :, 0]) & (met < MOST_MET)
    usual, first = 1.0 / (1.0 + LONGER * (horizons - 1.0).astype(np.float32)), _first_rate(met, horizons)
    for losses, memory in ((fast, FAST), (slow, SLOW)):
        change = (loss - losses) * np.maximum(np.float32(1.0 - memory) * usual, first)
        np.copyto(change, np.float32(0.0), where=np.isnan(change))
        losses += change


def _first_rate(met: I16, horizons: I64) -> F32:
    """Returns 1 / n, n the truths that each horizon has met, of those that the first has met; (B, E, J)."""
    later = (horizons - horizons[0]).astype(np.float32)
    return np.asarray(1.0 / np.maximum(met[:, :, None] - later, np.float32(1.0)), np.float32)


def combine(state: CombinationState, experts: F32, record: I64) -> Combined:
    """Returns the forecasts of all experts together.

    Args:
        state: B rows.
        experts: what each forecasts; NaN where one has nothing to say; (B, E, J).
        record: ascending; series of one record are of one group; (B,).
    """
    speaking = _speaking(experts)
    said, weights = experts[:, speaking], np.zeros_like(state.slow)
    weights[:, speaking] = some = _weights(state.fast[:, speaking] * state.slow[:, speaking], said)
    moves = np.clip(said, -MOVE_CLIP, MOVE_CLIP)
    np.copyto(moves, np.float32(0.0), where=np.isnan(moves))
    mix = _sum(some * moves)
    gate = _gate(state, state.slow[:, LAST], record)
    return Combined(mix, gate * mix, weights, gate)


def _weights(loss: F32, said: F32) -> F32:
    """Returns (3) of the products of both losses; 0 where an expert has nothing to say or was never scored."""
    loss = np.maximum(loss, np.float32(LEAST_LOSS))
    np.copyto(loss, np.float32(np.inf), where=np.isnan(said) | np.isnan(loss))
    best = loss.min(axis=1, keepdims=True)
    unknown = np.isinf(best)
    weights: F32 = np.asarray(np.where(unknown, 1.0, best), np.float32) / loss
    weights *= weights
    weights[:, LAST] += unknown[:, 0]
    weights /= _sum(weights)[:, None]
    return weights


def _speaking(experts: F32) -> slice:
    """Returns the first experts, up to the last one with something to say in any row; (B, E, J)."""
    count = experts.shape[1]
    while count > 1 and np.isnan(experts[:, count - 1]).all():
        count -= 1
    return slice(count)


def smoothed(values: F32, horizons: I64) -> F32:
    """Returns the mean over the neighbouring horizons that are known; NaN where none is; (B, E, J).

    A horizon's neighbours are at most half of it away, since short horizons are unlike each other.

    Args:
        values: NaN = not known; (B, E, J).
        horizons: one, or all from 1 on; (J,).
    """
    if len(horizons) == 1:
        return values
    known = ~np.isnan(values)
    partly = np.flatnonzero(~known.all(axis=(1, 2)))
    mean = _sums(np.where(known, values, np.float32(0.0)) if len(partly) else values)
    sums = mean[partly]
    mean /= _sums(np.ones((1, 1, len(horizons)), np.float32))
    if len(partly):
        count = _sums(known[partly].astype(np.float32))
        mean[partly] = np.where(count > 0, sums / np.maximum(count, np.float32(1.0)), np.float32(np.nan))
    return mean


def _sums(values: F32) -> F32:
    """Returns the sums over each horizon's neighbours, itself among them; horizons are 1, 2, 3 and so on; (B, E, J).

    All rows lie in one line, zeros between them, so that each addition is one of long lines and not of many short ones.
    """
    batch, experts, horizons = values.shape
    line = np.zeros((batch, experts, horizons + NEIGHBOURS), np.float32)
    line[:, :, :horizons] = values
    total = line.copy()
    flat, sums = line.reshape(-1), total.reshape(-1)
    for away in range(1, NEIGHBOURS + 1):
        sums[away:] += flat[:-away]
        sums[:-away] += flat[away:]
    for column in range(min(2 * NEIGHBOURS - 1, horizons)):  # fewer neighbours than the others have
        total[:, :, column] = line[:, :, column]
        for away in range(1, (column + 1) // 2 + 1):
            total[:, :, column] += line[:, :, column - away] + line[:, :, column + away]
    return total[:, :, :horizons]


def _gate(state: CombinationState, loss: F32, record: I64) -> F32:
    """Returns (7); a series of a group listens to the others as well, each in units of its own loss."""
    unit = np.where(np.isnan(loss) | (loss <= 0), np.float32(1.0), np.maximum(loss, np.float32(LEAST_UNIT)))
    along, moved = state.along / unit, state.moved / unit
    if len(record) > 1 and not (record[1:] != record[:-1]).all():
        begins = np.flatnonzero(np.diff(record, prepend=-1))
        sizes = np.diff(begins, append=len(record))
        for values in (along, moved):
            mean = np.add.reduceat(values, begins, axis=0) / sizes[:, None].astype(np.float32)
            values += np.where(sizes > 1, np.float32(GROUP_SHARE), np.float32(0.0)).repeat(sizes)[:, None] * np.repeat(
                mean, sizes, axis=0
            )
    slope = along / (moved + np.float32(RIDGE))
    return np.asarray(np.clip((slope - CLOSED) / (OPEN - CLOSED), 0.0, 1.0), np.float32)


def _sum(values: F32) -> F32:
    """Returns the sum over the experts, one after the other: the order of a reduction may depend on the batch."""
    total = values[:, 0].copy()
    for expert in range(1, values.shape[1]):
        total += values[:, expert]
    return total
