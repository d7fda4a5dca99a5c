"""Filters that smooth a series' inputs, each with a state of fixed size. NaN = no input; it changes no state.

    ewma     (1) level <- level + a (x - level)                    a: from the half-life
    kalman   (2) x = level + e, level <- level + w                 local level: e, w white, of variances R and Q
             (3) d = x - x before: var d = Q + 2 R, cov(d, d before) = -R
             (4) level <- level + K (x - level), K = 2 / (1 + sqrt(1 + 4 R / Q)), at least MIN_GAIN

(2) and the steady-state gain (4): Muth (1960), Harvey (1989, section 4.1.2); (3): method of moments, Mehra (1970).
If neighbouring differences do not tend to cancel, there is no white noise to remove: R = 0 and K = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import F64

LEVEL, PREVIOUS, DIFFERENCE, VARIANCE, COVARIANCE, COUNT, JUMPS = range(7)
"""Columns of the kalman filter's state; JUMPS: sign of a far-off reading that the next one may confirm, else 0."""
COLUMNS = 7
MOMENT_RATE = 1.0 - 0.5 ** (1.0 / 336.0)
"""Rate of the moments: a half-life of 336 readings."""
MIN_DIFFERENCES = 24
"""Number of differences below which nothing is smoothed."""
WINSOR_RMS = 3.0
"""A difference counts as at most this many root mean squares of the differences before it, from `WINSOR_FROM` on."""
WINSOR_FROM = 48
"""Number of earlier differences from which on a difference is limited by `WINSOR_RMS`."""
MIN_GAIN = 0.2
"""Smallest gain: a smaller Q, being the difference of two estimates, is not reliable."""
JUMP_DEVIATIONS = 4.0
"""Deviations of the innovation that make a jump; a second jump in a row on the same side is a new level."""


@dataclass(frozen=True, slots=True)
class Smoothed:
    """The state after the values, (B, columns), and the smoothed values, NaN where there was no input; (B,)."""

    state: F64
    values: F64


def ewma(state: F64, values: F64, half_life: float) -> Smoothed:
    """Smooth by (1): an exponentially weighted moving average.

    Args:
        state: level; NaN = none yet; (B, 1).
        values: inputs, NaN where there is none; (B,).
        half_life: half-life of the average, in readings.
    """
    level, known = state[:, 0], ~np.isnan(values)
    average = level + (1.0 - 0.5 ** (1.0 / half_life)) * (values - level)
    level = np.where(known, np.where(np.isnan(level), values, average), level)
    return Smoothed(level[:, None], np.where(known, level, np.nan))


def kalman(state: F64, values: F64) -> Smoothed:
    """Smooth by (4), with variances estimated from the differences by (3).

    Args:
        state: columns as named above; (B, COLUMNS).
        values: inputs, NaN where there is none; (B,).
    """
    known = ~np.isnan(values)
    after = _with_moments(state, values)
    level, noise, step = state[:, LEVEL], np.maximum(-after[:, COVARIANCE], 0.0), after[:, VARIANCE]
    step = np.maximum(step - 2.0 * noise, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gain = np.maximum(2.0 / (1.0 + np.sqrt(1.0 + 4.0 * (noise / step))), MIN_GAIN)
    gain = np.where((noise == 0) | (after[:, COUNT] < MIN_DIFFERENCES), 1.0, gain)
    innovation = values - level
    deviation = np.sqrt((step + noise) / np.maximum(1.0 - gain, 1e-6))
    far = np.where(np.abs(innovation) > JUMP_DEVIATIONS * deviation, np.sign(innovation), 0.0)
    before = state[:, JUMPS]
    jumps = np.where(known, far, before)
    is_new_level = (far != 0) & (far == before)
    updated = np.where(np.isnan(level) | is_new_level, values, level + gain * innovation)
    after[:, LEVEL] = np.where(known, updated, level)
    after[:, JUMPS] = np.where(is_new_level, 0.0, jumps)
    return Smoothed(after, np.where(known, after[:, LEVEL], np.nan))


def empty_kalman(n: int) -> F64:
    """Return the states of n series without a reading; (n, COLUMNS)."""
    state = np.zeros((n, COLUMNS))
    state[:, [LEVEL, PREVIOUS, DIFFERENCE]] = np.nan
    return state


def _with_moments(state: F64, values: F64) -> F64:
    """Return a copy of the state whose moments (3) include the values."""
    after = state.copy()
    known = ~np.isnan(values)
    difference = values - state[:, PREVIOUS]
    count, variance = state[:, COUNT], state[:, VARIANCE]
    limit = np.where(count >= WINSOR_FROM, WINSOR_RMS * np.sqrt(variance), np.inf)
    difference = np.clip(difference, -limit, limit)
    has_difference = ~np.isnan(difference)
    rate = np.maximum(MOMENT_RATE, 1.0 / (count + 1.0))
    square = np.where(has_difference, difference, 0.0) ** 2
    after[:, VARIANCE] = np.where(has_difference, variance + rate * (square - variance), variance)
    product = difference * state[:, DIFFERENCE]
    both = ~np.isnan(product)
    covariance = state[:, COVARIANCE]
    after[:, COVARIANCE] = np.where(both, covariance + rate * (np.where(both, product, 0.0) - covariance), covariance)
    after[:, COUNT] = np.minimum(count + has_difference, 1e6)
    after[:, PREVIOUS] = np.where(known, values, state[:, PREVIOUS])
    after[:, DIFFERENCE] = np.where(known, difference, state[:, DIFFERENCE])
    return after
