"""A chain of causal filters on a series' raw values, each with a state of fixed size.

| filter | finds | as input | as truth |
|---|---|---|---|
| `range` | values outside the physical range, and sentinels such as -9999 | missing | missing |
| `hampel` | spikes against the recent median | masked | kept |
| `stuck` | a sensor that repeats one value for too long | masked | kept |
| `ewma`, `kalman` | noise; see `smoothing` | smoothed | kept |

Only inputs are denoised: forecasts are scored on the raw truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from forecaster.core.series import smoothing
from forecaster.records import F64, I8, I64

FilterName = Literal["range", "hampel", "stuck", "ewma", "kalman"]
"""`settings` has the same names: it imports nothing from `core`. mypy compares both in `app.configs`."""

MAX_MAGNITUDE = 1e30
"""Larger inputs are clipped to this, so that everything computed from them stays in the range of 32 bits."""
MAD_TO_DEVIATION = 1.4826
"""Ratio of a normal distribution's standard deviation to its median absolute deviation."""
MEAN_DEVIATION_TO_DEVIATION = 1.2533
"""Ratio of a normal distribution's standard deviation to its mean absolute deviation."""
MIN_HAMPEL_VALUES = 5
"""Number of previous values below which nothing counts as a spike."""
RMS_RATE = 1.0 - 0.5 ** (1.0 / 336.0)
"""Rate of both root mean squares of distances: a half-life of 336 readings."""
WINSOR_RMS = 3.0
"""A distance counts as at most this many root mean squares of the distances before it, from `WINSOR_FROM` on."""
WINSOR_FROM = 48
"""Number of earlier distances from which on a distance is limited by `WINSOR_RMS`: before, the mean is unreliable."""
MAX_SPIKE_READINGS = 2
"""At most this many readings in a row are masked as a spike; the next ones are a new level, and pass."""
PRIOR_SHARE, PRIOR_WEIGHT = 0.7, 2.0
"""Prior: this share of suspicions prove to be spikes; it weighs as much as this many judged suspicions."""
RECORD_MEMORY = 0.95
"""Factor by which the record of judged suspicions fades with each new one."""


@dataclass(frozen=True, slots=True)
class DenoiseConfig:
    """The filters in their order, and their limits.

    Attributes:
        chain: names of the filters; empty = raw values.
        low: smallest valid value, in units of the series.
        high: largest valid value, in units of the series.
        sentinels: values that stand for "missing".
        hampel_window: number of previous values that a spike is judged by.
        hampel_threshold: deviations from their median that make a spike.
        stuck_readings: equal readings in a row that make a stuck sensor.
        ewma_half_life: readings after which `ewma` has gone half-way to a new level.
    """

    chain: tuple[FilterName, ...] = ("range", "hampel")
    low: float = -np.inf
    high: float = np.inf
    sentinels: tuple[float, ...] = ()
    hampel_window: int = 11
    hampel_threshold: float = 4.0
    stuck_readings: int = 24
    ewma_half_life: float = 1.0


@dataclass
class DenoiseState:
    """States of all filters, one row a series; values are in units of the series.

    Attributes:
        recent: last valid values, newest first; NaN = none yet; (N, hampel_window), or (N, 0) without `hampel`.
        spikes: number of readings in a row that looked like spikes; (N,).
        repeated: last valid value; (N,).
        repeats: number of readings in a row with that value; (N,).
        rms_distance: root mean square of the distances from the recent median; (N,).
        accepted: last value that was not masked; (N,).
        rms_change: root mean square of the distances from the last accepted value; (N,).
        distances: number of distances in both root mean squares; (N,).
        proved: suspicions that proved to be spikes, fading, prior included; (N,).
        suspected: suspicions that the next reading has judged, fading, prior included; (N,).
        average: level of `ewma`; (N, 1), or (N, 0) without it.
        kalman: state of `kalman`; (N, COLUMNS), or (N, 0) without it.
    """

    recent: F64
    spikes: I8
    repeated: F64
    repeats: I64
    rms_distance: F64
    accepted: F64
    rms_change: F64
    distances: I64
    proved: F64
    suspected: F64
    average: F64
    kalman: F64

    @classmethod
    def empty(cls, n: int, config: DenoiseConfig) -> DenoiseState:
        """Return the states of n series without a reading."""
        window = config.hampel_window if "hampel" in config.chain else 0
        return cls(
            recent=np.full((n, window), np.nan),
            spikes=np.zeros(n, np.int8),
            repeated=np.full(n, np.nan),
            repeats=np.zeros(n, np.int64),
            rms_distance=np.zeros(n),
            accepted=np.full(n, np.nan),
            rms_change=np.zeros(n),
            distances=np.zeros(n, np.int64),
            proved=np.full(n, PRIOR_SHARE * PRIOR_WEIGHT),
            suspected=np.full(n, PRIOR_WEIGHT),
            average=np.full((n, 1 if "ewma" in config.chain else 0), np.nan),
            kalman=smoothing.empty_kalman(n)[:, : smoothing.COLUMNS if "kalman" in config.chain else 0],
        )


@dataclass(frozen=True, slots=True)
class Signal:
    """Values of B series after a filter: inputs of the network, and truths to score by; NaN = none; (B,)."""

    inputs: F64
    truth: F64


def denoise(config: DenoiseConfig, state: DenoiseState, values: F64) -> tuple[DenoiseState, F64, F64]:
    """Pass one value of each series through all filters of the chain.

    Args:
        config: the chain.
        state: B rows; not modified.
        values: raw values, NaN where missing; (B,).

    Returns:
        The new state, the denoised inputs, (B,), and the truths, (B,).
    """
    signal = Signal(np.clip(values, -MAX_MAGNITUDE, MAX_MAGNITUDE), values)
    for name in config.chain:
        state, signal = FILTERS[name](config, state, signal)
    return state, signal.inputs, signal.truth


def _range(config: DenoiseConfig, state: DenoiseState, signal: Signal) -> tuple[DenoiseState, Signal]:
    """Remove values outside the physical range and sentinels, from the inputs and from the truths."""
    # an input at MAX_MAGNITUDE was clipped: compare the raw value
    values = np.where(np.abs(signal.inputs) >= MAX_MAGNITUDE, signal.truth, signal.inputs)
    wrong = (values < config.low) | (values > config.high)
    for sentinel in config.sentinels:
        wrong |= values == sentinel
    if not wrong.any():
        return state, signal
    return state, Signal(np.where(wrong, np.nan, signal.inputs), np.where(wrong, np.nan, signal.truth))


def _hampel(config: DenoiseConfig, state: DenoiseState, signal: Signal) -> tuple[DenoiseState, Signal]:
    """Mask spikes by Hampel's identifier (1974), causal: |x - median| > threshold x 1.4826 MAD of the values before.

    An ordinary change after a quiet window, such as the morning's rise of a load, must not look like a spike: the
    distance must also exceed threshold x the root mean square of |x - median| over a long memory.
    If more than half of the window is equal, the mean absolute deviation stands in for the MAD; if all of it is
    equal, nothing is a spike.

    In a series that moves far within a window, in small steps, a spike may be close to the median. A value is therefore
    suspect, too, if its distance from the last accepted value exceeds threshold x the root mean square of such
    distances.

    Suspects are masked only while most of the earlier suspects of this series did not last: see `_judge_suspicions`.
    """
    values = signal.inputs
    valid = ~np.isnan(values)
    known = np.count_nonzero(~np.isnan(state.recent), axis=1)
    centre = _median(state.recent, known)
    far = np.abs(values - centre)
    change = np.abs(values - state.accepted)
    spike = far > config.hampel_threshold * np.maximum(_deviation(state.recent, known, centre), state.rms_distance)
    spike |= (
        (change > config.hampel_threshold * state.rms_change)
        & (state.distances >= WINSOR_FROM)
        & (state.rms_change > 0)
    )
    spike &= known >= min(MIN_HAMPEL_VALUES, config.hampel_window)
    spikes = np.where(spike, state.spikes + 1, np.where(valid, 0, state.spikes)).astype(np.int8)
    proved, suspected = _judge_suspicions(state, values, centre)
    masked = spike & (spikes <= MAX_SPIKE_READINGS) & (proved > 0.5 * suspected)
    recent = np.concatenate([values[:, None], state.recent[:, :-1]], axis=1)
    if not valid.all():
        recent[~valid] = state.recent[~valid]
    new = replace(
        state,
        recent=recent,
        spikes=np.minimum(spikes, MAX_SPIKE_READINGS + 1).astype(np.int8),
        rms_distance=_updated_rms(state.rms_distance, state.distances, far, known),
        accepted=np.where(valid & ~masked, values, state.accepted),
        rms_change=_updated_rms(state.rms_change, state.distances, change, known),
        distances=state.distances + (~np.isnan(far)),
        proved=proved,
        suspected=suspected,
    )
    return new, Signal(np.where(masked, np.nan, values), signal.truth) if masked.any() else signal


def _judge_suspicions(state: DenoiseState, values: F64, centre: F64) -> tuple[F64, F64]:
    """Return the record of suspicions after these values: `proved` and `suspected`, each (B,).

    The reading after a suspect tells whether that was a spike: 1 where it is back at the median, 0 where it has stayed
    at the suspect, in between the share of the squared distances. A series that often jumps thus keeps its jumps.
    """
    waits = (state.spikes > 0) & (state.spikes <= MAX_SPIKE_READINGS)
    if not waits.any():
        return state.proved, state.suspected
    to_suspect, to_centre = np.abs(values - state.recent[:, 0]), np.abs(values - centre)
    longer = np.maximum(to_suspect, to_centre)
    told = waits & (longer > 0) & np.isfinite(longer)
    unit = np.where(told, longer, 1.0)
    share = (to_suspect / unit) ** 2 / np.where(told, (to_suspect / unit) ** 2 + (to_centre / unit) ** 2, 1.0)
    proved = np.where(told, RECORD_MEMORY * state.proved + share, state.proved)
    return proved, np.where(told, RECORD_MEMORY * state.suspected + 1.0, state.suspected)


def _deviation(recent: F64, known: I64, centre: F64) -> F64:
    """Return a robust deviation of each window; infinite if all of its values are equal; (B,)."""
    distance = np.abs(recent - centre[:, None])
    deviation = MAD_TO_DEVIATION * _median(distance, known)
    flat = np.flatnonzero(deviation == 0)
    if len(flat):
        deviation[flat] = MEAN_DEVIATION_TO_DEVIATION * np.nansum(distance[flat], axis=1) / np.maximum(known[flat], 1)
    return np.where(deviation > 0, deviation, np.inf)


def _updated_rms(rms: F64, distances: I64, distance: F64, known: I64) -> F64:
    """Return a root mean square over a number of `distances`, updated by a new, winsorised `distance`; (B,)."""
    square = rms * rms
    new = distance * distance
    limit = np.where(distances >= WINSOR_FROM, WINSOR_RMS * WINSOR_RMS * square, np.inf)
    rate = np.maximum(RMS_RATE, 1.0 / (distances + 1.0))
    updated = square + (np.minimum(new, limit) - square) * rate
    return np.asarray(np.sqrt(np.where(np.isnan(distance) | (known == 0), square, updated)))


def _median(values: F64, known: I64) -> F64:
    """Return the median of the known values of each row, `known` of them; NaN where there is none; (B,)."""
    # NaN sorts last
    ordered = np.sort(values, axis=1)
    rows = np.arange(len(values))
    low = ordered[rows, np.maximum(known - 1, 0) // 2]
    high = ordered[rows, np.minimum(known // 2, values.shape[1] - 1)]
    return np.asarray(0.5 * low + 0.5 * high)


def _stuck(config: DenoiseConfig, state: DenoiseState, signal: Signal) -> tuple[DenoiseState, Signal]:
    """Mask a value that the series has repeated for at least `stuck_readings` valid readings in a row."""
    values = signal.inputs
    valid = ~np.isnan(values)
    repeats = np.where(valid, np.where(values == state.repeated, state.repeats + 1, 1), state.repeats)
    new = replace(state, repeated=np.where(valid, values, state.repeated), repeats=repeats)
    masked = valid & (repeats >= config.stuck_readings)
    return new, Signal(np.where(masked, np.nan, values), signal.truth)


def _ewma(config: DenoiseConfig, state: DenoiseState, signal: Signal) -> tuple[DenoiseState, Signal]:
    smoothed = smoothing.ewma(state.average, signal.inputs, config.ewma_half_life)
    return replace(state, average=smoothed.state), Signal(smoothed.values, signal.truth)


def _kalman(_: DenoiseConfig, state: DenoiseState, signal: Signal) -> tuple[DenoiseState, Signal]:
    smoothed = smoothing.kalman(state.kalman, signal.inputs)
    return replace(state, kalman=smoothed.state), Signal(smoothed.values, signal.truth)


FILTERS: dict[FilterName, Callable[[DenoiseConfig, DenoiseState, Signal], tuple[DenoiseState, Signal]]] = {
    "range": _range,
    "hampel": _hampel,
    "stuck": _stuck,
    "ewma": _ewma,
    "kalman": _kalman,
}
