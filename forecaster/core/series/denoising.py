"""A chain of causal filters over a series' raw values, each with a fixed-size state.

| filter | finds | as input | as truth |
|---|---|---|---|
| `range` | values outside the physical range, and sentinels such as -9999 | missing | missing |
| `hampel` | spikes against the recent median | masked | kept |
| `stuck` | a sensor that repeats one value for too long | masked | kept |
| `ewma`, `kalman` | noise: see `smoothing` | smoothed | kept |

Only inputs are denoised: a forecast is scored on the raw truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from forecaster.core.series import smoothing
from forecaster.records import F64, I8, I64

FilterName = Literal["range", "hampel", "stuck", "ewma", "kalman"]

LARGEST = 1e30
"""Larger inputs count as this: of what follows from them nothing leaves the range of 32 bits."""
MAD_TO_DEVIATION = 1.4826
MEAN_DEVIATION_TO_DEVIATION = 1.2533
"""Ratios of a normal distribution's standard deviation to its median and mean absolute deviation."""
HAMPEL_LEAST = 5
"""Fewer previous values than this say too little about what a spike is."""
USUAL_RATE = 1.0 - 0.5 ** (1.0 / 336.0)
"""The usual deviation forgets with a half-life of 336 readings."""
WINSOR = 3.0
"""One reading counts in the usual deviation as at most so many of it."""
WINSOR_FROM = 48
"""From so many readings on: before, the usual deviation must find its size."""
LONGEST_SPIKE = 2
"""So many readings in a row can be a spike; those that follow are a new level, and pass."""
PRIOR_SHARE, PRIOR_WEIGHT = 0.7, 2.0
"""Before anything is known of a series, so much of what looks like a spike is one; it counts like so many of them."""
RECORD_MEMORY = 0.95
"""What came of a suspicion counts for so much of that after the next one."""


@dataclass(frozen=True, slots=True)
class DenoiseConfig:
    """Which filters, in which order, with what limits.

    Attributes:
        chain: names of the filters; none = raw values.
        low: values below are missing; in the units of the series.
        high: values above are missing.
        sentinels: values that stand for "missing".
        hampel_window: previous values that a spike is judged by.
        hampel_threshold: deviations from their median that make a spike.
        stuck_ticks: so many equal readings in a row make a stuck sensor.
        ewma_half_life: readings after which `ewma` has gone half-way to a new level.
    """

    chain: tuple[FilterName, ...] = ("range", "hampel")
    low: float = -np.inf
    high: float = np.inf
    sentinels: tuple[float, ...] = ()
    hampel_window: int = 11
    hampel_threshold: float = 4.0
    stuck_ticks: int = 24
    ewma_half_life: float = 1.0


@dataclass
class DenoiseState:
    """One row a series.

    Attributes:
        recent: the last valid values, newest first, NaN = none yet; width 0 without `hampel`; (N, hampel_window).
        spikes: how many readings in a row were spikes.
        repeated: the last valid value.
        repeats: how many readings in a row had it.
        usual: root mean square of the distances from the recent median.
        accepted: the last value that was not masked.
        change: root mean square of the distances from it.
        judged: how many distances that is of.
        proved: suspicions that proved to be spikes, fading; the prior among them.
        suspected: suspicions that the next reading has judged, fading; the prior among them.
        average: of `ewma`, width 0 without it; (N, 1).
        kalman: of `kalman`, width 0 without it; (N, COLUMNS).
    """

    recent: F64
    spikes: I8
    repeated: F64
    repeats: I64
    usual: F64
    accepted: F64
    change: F64
    judged: I64
    proved: F64
    suspected: F64
    average: F64
    kalman: F64

    @classmethod
    def empty(cls, n: int, config: DenoiseConfig) -> DenoiseState:
        """Returns n series that had no reading yet."""
        window = config.hampel_window if "hampel" in config.chain else 0
        return cls(
            recent=np.full((n, window), np.nan),
            spikes=np.zeros(n, np.int8),
            repeated=np.full(n, np.nan),
            repeats=np.zeros(n, np.int64),
            usual=np.zeros(n),
            accepted=np.full(n, np.nan),
            change=np.zeros(n),
            judged=np.zeros(n, np.int64),
            proved=np.full(n, PRIOR_SHARE * PRIOR_WEIGHT),
            suspected=np.full(n, PRIOR_WEIGHT),
            average=np.full((n, 1 if "ewma" in config.chain else 0), np.nan),
            kalman=smoothing.empty_kalman(n)[:, : smoothing.COLUMNS if "kalman" in config.chain else 0],
        )


@dataclass(frozen=True, slots=True)
class Signal:
    """What is left of the values of B series: `inputs` for the network, `truth` to score by; NaN = none."""

    inputs: F64
    truth: F64


def denoise(config: DenoiseConfig, state: DenoiseState, values: F64) -> tuple[DenoiseState, F64, F64]:
    """Every filter of the chain has seen the values.

    Args:
        config: the chain.
        state: B rows; not modified.
        values: raw, NaN where missing; (B,).

    Returns:
        The new state, the denoised inputs and the truths, both (B,).
    """
    signal = Signal(np.clip(values, -LARGEST, LARGEST), values)
    for name in config.chain:
        state, signal = FILTERS[name](config, state, signal)
    return state, signal.inputs, signal.truth


def _range(config: DenoiseConfig, state: DenoiseState, signal: Signal) -> tuple[DenoiseState, Signal]:
    values = np.where(np.abs(signal.inputs) >= LARGEST, signal.truth, signal.inputs)
    wrong = (values < config.low) | (values > config.high)
    for sentinel in config.sentinels:
        wrong |= values == sentinel
    if not wrong.any():
        return state, signal
    return state, Signal(np.where(wrong, np.nan, signal.inputs), np.where(wrong, np.nan, signal.truth))


def _hampel(config: DenoiseConfig, state: DenoiseState, signal: Signal) -> tuple[DenoiseState, Signal]:
    """Hampel's identifier (1974), causal: |x - median| > threshold x 1.4826 MAD of the values before.

    A quiet window must not make a spike of every ordinary change, such as the morning's rise of a load: the deviation
    must also be more than threshold x the usual one, the root mean square of |x - median| over a long memory. Where
    more than half of the window is equal, the mean absolute deviation stands in; where all is, nothing is a spike.

    A series that goes far within a window, but not at once, has spikes that are not far from the median: what is more
    than threshold x the usual change away from the last accepted value is far as well.

    What is far is masked only while most of what was far before, in this series, did not last: see `_record`.
    """
    values = signal.inputs
    valid = ~np.isnan(values)
    known = np.count_nonzero(~np.isnan(state.recent), axis=1)
    centre = _median(state.recent, known)
    far = np.abs(values - centre)
    moved = np.abs(values - state.accepted)
    spike = far > config.hampel_threshold * np.maximum(_deviation(state.recent, known, centre), state.usual)
    spike |= (moved > config.hampel_threshold * state.change) & (state.judged >= WINSOR_FROM) & (state.change > 0)
    spike &= known >= min(HAMPEL_LEAST, config.hampel_window)
    spikes = np.where(spike, state.spikes + 1, np.where(valid, 0, state.spikes)).astype(np.int8)
    proved, suspected = _record(state, values, centre)
    masked = spike & (spikes <= LONGEST_SPIKE) & (proved > 0.5 * suspected)
    recent = np.concatenate([values[:, None], state.recent[:, :-1]], axis=1)
    if not valid.all():
        recent[~valid] = state.recent[~valid]
    new = replace(
        state,
        recent=recent,
        spikes=np.minimum(spikes, LONGEST_SPIKE + 1).astype(np.int8),
        usual=_usual(state.usual, state.judged, far, known),
        accepted=np.where(valid & ~masked, values, state.accepted),
        change=_usual(state.change, state.judged, moved, known),
        judged=state.judged + (~np.isnan(far)),
        proved=proved,
        suspected=suspected,
    )
    return new, Signal(np.where(masked, np.nan, values), signal.truth) if masked.any() else signal


def _record(state: DenoiseState, values: F64, centre: F64) -> tuple[F64, F64]:
    """Returns what suspicions were worth, by now: `proved` and `suspected`, both (B,).

    The reading after a suspected one says whether that was a spike: 1 where it is back at the median, 0 where it has
    stayed, and the share of the squared distances between. A series that jumps often is believed to.
    """
    waits = (state.spikes > 0) & (state.spikes <= LONGEST_SPIKE)
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
    """Returns a robust deviation of each window; infinite where all of its values are equal."""
    distance = np.abs(recent - centre[:, None])
    deviation = MAD_TO_DEVIATION * _median(distance, known)
    flat = np.flatnonzero(deviation == 0)
    if len(flat):
        deviation[flat] = MEAN_DEVIATION_TO_DEVIATION * np.nansum(distance[flat], axis=1) / np.maximum(known[flat], 1)
    return np.where(deviation > 0, deviation, np.inf)


def _usual(usual: F64, judged: I64, far: F64, known: I64) -> F64:
    """Returns a usual deviation, of so many judged ones, with this one in it, winsorised; (B,)."""
    square = usual * usual
    seen = far * far
    limit = np.where(judged >= WINSOR_FROM, WINSOR * WINSOR * square, np.inf)
    rate = np.maximum(USUAL_RATE, 1.0 / (judged + 1.0))
    moved = square + (np.minimum(seen, limit) - square) * rate
    return np.asarray(np.sqrt(np.where(np.isnan(far) | (known == 0), square, moved)))


def _median(values: F64, known: I64) -> F64:
    """Returns the median of the first `known` values in the order of size (NaN sorts last); NaN where none is."""
    ordered = np.sort(values, axis=1)
    rows = np.arange(len(values))
    low = ordered[rows, np.maximum(known - 1, 0) // 2]
    high = ordered[rows, np.minimum(known // 2, values.shape[1] - 1)]
    return np.asarray(0.5 * low + 0.5 * high)


def _stuck(config: DenoiseConfig, state: DenoiseState, signal: Signal) -> tuple[DenoiseState, Signal]:
    values = signal.inputs
    valid = ~np.isnan(values)
    repeats = np.where(valid, np.where(values == state.repeated, state.repeats + 1, 1), state.repeats)
    new = replace(state, repeated=np.where(valid, values, state.repeated), repeats=repeats)
    masked = valid & (repeats >= config.stuck_ticks)
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
