"""Experts weighted by what their forecasts were worth when the truth came, and a gate towards the last value.

For each series and horizon, with e the error of an expert in deviations of the series, averaged over the neighbouring
horizons:

    (1) L_f <- L_f + (1 - .98) (e² - L_f)         (2) L_s <- L_s + (1 - .995) (e² - L_s)
    (3) w   ∝  (L_f L_s)^-2                        (4) mix = sum of w x expert
    (5) num <- .9995 num + (y - last)(mix - last)  (6) den <- .9995 den + (mix - last)²
    (7) g = num / (den + ridge), in [0, 1], pressed down where it is small
    (8) point = last + g (mix - last)

(3) is the exponentially weighted forecaster of Vovk (1990) with a logarithmic loss and a window of two lengths; (7) is
the least-squares slope of the truth on the mix, both from the last value, as in Bates and Granger (1969).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.records import Integers

Singles = NDArray[np.float32]
FAST, SLOW, GATE = 0.98, 0.995, 0.9995
ERROR_CLIP = 8.0
"""An error counts for at most so many scales."""
NEIGHBOURS = 3
LEAST_LOSS = 1e-10
GROUP_SHARE = 4.0
"""The other series of a group count for so much in the gate of each."""
RIDGE = 40.0
"""The gate begins to open when the moves of the mix amount to so many squared errors of the last value."""
CLOSED, OPEN = 0.3, 0.6


@dataclass
class CombinationState:
    """One row a series; E experts, J horizons.

    Attributes:
        fast: losses with a short memory; NaN = none yet; (N, E, J).
        slow: losses with a long one; (N, E, J).
        along: how far the truth went along with the mix, in squared deviations; (N, J).
        moved: how far the mix itself went; (N, J).
    """

    fast: Singles
    slow: Singles
    along: Singles
    moved: Singles

    @classmethod
    def empty(cls, n: int, experts: int, horizons: int) -> CombinationState:
        """Returns n series whose experts were never scored."""
        nothing = np.full((n, experts, horizons), np.nan, np.float32)
        zeros = np.zeros((n, horizons), np.float32)
        return cls(nothing, nothing.copy(), zeros, zeros.copy())


@dataclass(frozen=True, slots=True)
class Combined:
    """Forecasts as (forecast - last) / scale.

    Attributes:
        mix: before the gate; (B, J).
        point: after it; (B, J).
        weights: of each expert, 0 where it has nothing to say; (B, E, J).
        gate: 0 = the last value, 1 = the mix; (B, J).
    """

    mix: Singles
    point: Singles
    weights: Singles
    gate: Singles


@dataclass(frozen=True, slots=True)
class CameTrue:
    """What came true, and what had been forecast of it, as (value - last) / scale of then; NaN where there is nothing.

    Attributes:
        truth: (B, J).
        experts: (B, E, J).
        mix: (B, J).
        size: the scale of then in deviations of the series: an error in wild times counts for more; (B, J).
        seen: truths that each horizon may have met so far; (B, J).
    """

    truth: Singles
    experts: Singles
    mix: Singles
    size: Singles
    seen: Integers


def learn(state: CombinationState, last: int, horizons: Integers, came: CameTrue) -> None:
    """Losses and gate include what came true. An expert that is new begins with the loss of the last value. In place.

    Args:
        state: B rows.
        last: which expert is the last value.
        horizons: ticks ahead; (J,).
        came: true now.
    """
    error = np.clip(came.experts - came.truth[:, None], -ERROR_CLIP, ERROR_CLIP) * came.size[:, None]
    loss = smoothed(error * error, horizons)
    unscored = np.isnan(state.slow)
    if unscored.any():
        reference = np.broadcast_to(state.slow[:, last][:, None], unscored.shape)
        begin = np.where(np.isnan(reference), loss, reference)
        for losses in (state.fast, state.slow):
            np.copyto(losses, begin, where=unscored & ~np.isnan(loss))
    known = ~np.isnan(loss)
    for losses, memory in ((state.fast, FAST), (state.slow, SLOW)):
        rate = np.maximum(np.float32(1.0 - memory), 1.0 / came.seen.astype(np.float32))[:, None]
        np.add(losses, rate * (loss - losses), out=losses, where=known)
    move, truth = (np.clip(one, -ERROR_CLIP, ERROR_CLIP) * came.size for one in (came.mix, came.truth))
    both = smoothed(np.stack([truth * move, np.where(np.isnan(truth), truth, move * move)]), horizons)
    for sums, new_terms in zip((state.along, state.moved), both, strict=True):
        np.copyto(sums, np.float32(GATE) * sums + new_terms, where=~np.isnan(new_terms))


def combine(state: CombinationState, last: int, experts: Singles, record: Integers) -> Combined:
    """Returns the forecasts of all experts together.

    Args:
        state: B rows.
        last: which expert is the last value.
        experts: what each forecasts; NaN where one has nothing to say; (B, E, J).
        record: ascending; series of one record are of one group; (B,).
    """
    loss = np.maximum(state.fast * state.slow, np.float32(LEAST_LOSS))
    loss = np.where(np.isnan(experts) | np.isnan(loss), np.float32(np.inf), loss)
    best = loss.min(axis=1, keepdims=True)
    weights = np.where(np.isinf(best), np.float32(0.0), np.where(np.isinf(best), 1.0, best) / loss)
    weights *= weights
    weights[:, last] += np.isinf(best[:, 0])
    weights /= _sum(weights)[:, None]
    mix = _sum(weights * np.nan_to_num(experts, nan=0.0))
    gate = _gate(state, state.slow[:, last], record)
    return Combined(mix, gate * mix, weights, gate)


def smoothed(values: Singles, horizons: Integers) -> Singles:
    """Returns the mean over the neighbouring horizons that are known; NaN where none is; (..., J).

    A horizon's neighbours are at most half of it away, since short horizons are unlike each other.

    Args:
        values: NaN = not known; (..., J).
        horizons: one, or all from 1 on; (J,).
    """
    if len(horizons) == 1:
        return values
    known = ~np.isnan(values)
    if known.all():
        return _sums(values) / _sums(np.ones(len(horizons), np.float32))
    count = _sums(known.astype(np.float32))
    mean = _sums(np.where(known, values, np.float32(0.0))) / np.maximum(count, np.float32(1.0))
    return np.where(count > 0, mean, np.float32(np.nan))


def _sums(values: Singles) -> Singles:
    """Returns the sums over each horizon's neighbours, itself among them; horizons are 1, 2, 3 and so on; (..., J)."""
    sums = values.copy()
    for away in range(1, NEIGHBOURS + 1):
        first = 2 * away - 1  # the shortest horizon that is twice as long
        sums[..., first:] += values[..., first - away : -away]
        sums[..., first:-away] += values[..., first + away :]
    return sums


def _gate(state: CombinationState, loss: Singles, record: Integers) -> Singles:
    """Returns (7); a series of a group listens to the others as well, each in units of its own loss."""
    unit = np.where(np.isnan(loss) | (loss <= 0), np.float32(1.0), loss)
    along, moved = state.along / unit, state.moved / unit
    if len(record) > 1 and not (record[1:] != record[:-1]).all():
        begins = np.flatnonzero(np.diff(record, prepend=-1))
        sizes = np.diff(begins, append=len(record))
        for values in (along, moved):
            mean = np.add.reduceat(values, begins, axis=0) / sizes[:, None].astype(np.float32)
            values += np.where(sizes > 1, np.float32(GROUP_SHARE), np.float32(0.0)).repeat(sizes)[:, None] * np.repeat(
                mean, sizes, axis=0
            )
    slope = np.clip(along / (moved + np.float32(RIDGE)), 0.0, 1.0)
    return np.asarray(slope * np.clip((slope - CLOSED) / (OPEN - CLOSED), 0.0, 1.0), np.float32)


def _sum(values: Singles) -> Singles:
    """Returns the sum over the experts, one after the other: the order of a reduction may depend on the batch."""
    total = values[:, 0].copy()
    for expert in range(1, values.shape[1]):
        total += values[:, expert]
    return total
