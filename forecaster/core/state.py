"""SeriesState: all state that is carried for each series from one reading to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.core.arrays import arrays
from forecaster.core.ensemble.combination import MAX_TRUTHS
from forecaster.core.ensemble.conformal import SHIFT_CLIP
from forecaster.core.ensemble.ensemble import EnsembleConfig, ExpertState
from forecaster.core.ensemble.pending import SCALE_ANCHOR, PendingState
from forecaster.core.series.grid import TimelineState
from forecaster.core.series.smoothing import COVARIANCE, VARIANCE
from forecaster.core.series.state import InputState, ObservationConfig
from forecaster.records import F32, I64, Bools

MAX_TIME_MS = 2**53
"""Largest time in a row, and largest number of ticks from its start, far beyond what the input may hold."""
MAX_COUNT = 2**53
MAX_VALUE, MAX_SQUARE = 1e37, 1e74
"""Largest values and squares in a row: sums and differences of inputs, which are clipped to 1e30."""
_TIMES = (-MAX_TIME_MS, MAX_TIME_MS)
_LIMITS: dict[str, tuple[float, float]] = {
    "timeline.interval_ms": (0, MAX_TIME_MS),
    "timeline.start_ms": _TIMES,
    "timeline.tick": (-1, MAX_TIME_MS),
    "timeline.recent_ms": _TIMES,
    "timeline.held_ms": _TIMES,
    "timeline.rival_ms": (0, MAX_TIME_MS),
    "timeline.rival_since_ms": _TIMES,
    "inputs.scaler.count": (0, MAX_COUNT),
    "inputs.scaler.variance": (0, MAX_SQUARE),
    "inputs.scaler.floor": (0, MAX_SQUARE),
    "inputs.denoise.spikes": (0, 127),
    "inputs.denoise.repeats": (0, MAX_COUNT),
    "inputs.denoise.rms_distance": (0, MAX_VALUE),
    "inputs.denoise.rms_change": (0, MAX_VALUE),
    "inputs.denoise.distances": (0, MAX_COUNT),
    "inputs.denoise.proved": (0, MAX_COUNT),
    "inputs.denoise.suspected": (0, MAX_COUNT),
    "inputs.denoise.kalman": (-MAX_SQUARE, MAX_SQUARE),
    "pending.last_value_rmse": (0, MAX_VALUE),
    "experts.profile.count": (0, 2**24),
    "experts.combination.fast": (0, MAX_VALUE),
    "experts.combination.slow": (0, MAX_VALUE),
    "experts.combination.truth_count": (0, MAX_TRUTHS),
    "experts.combination.gate_denominator": (0, MAX_VALUE),
    "experts.calibration.shift": (-SHIFT_CLIP, SHIFT_CLIP),
}
"""Smallest and largest numbers of the arrays of a row, by dotted name; of other arrays of floats, +-MAX_VALUE."""
_CAN_BE_NAN = {
    "inputs.reference",
    "inputs.last",
    "inputs.context",
    "inputs.warming",
    "inputs.denoise.recent",
    "inputs.denoise.repeated",
    "inputs.denoise.accepted",
    "inputs.denoise.average",
    "inputs.denoise.kalman",
    "pending.anchors",
    "pending.last_value_rmse",
    "experts.profile.reference",
    "experts.profile.means",
    "experts.combination.fast",
    "experts.combination.slow",
}
"""Arrays whose NaN stands for "none"."""
_NOT_FINITE = 0x7C00
"""Exponent of the 16-bit floats that are infinite or NaN."""


@dataclass
class SeriesState:
    """The state of N series, one row a series: a struct of arrays, and of such structs.

    Attributes:
        timeline: positions of the series on their grids.
        inputs: values, scale and filters.
        pending: forecasts that wait for their truth.
        experts: losses, gates and intervals, and the means of the seasonal experts.
        hidden: hidden states; a body with fewer columns uses the first ones; (N, S).
        body: code of the body that each hidden state belongs to (`checkpoint_ids.body_code`); (N,).
    """

    timeline: TimelineState
    inputs: InputState
    pending: PendingState
    experts: ExpertState
    hidden: F32
    body: I64

    def __len__(self) -> int:
        return len(self.hidden)


@dataclass(frozen=True, slots=True)
class StateShape:
    """The settings that rows are shaped by: rows of equal shapes are compatible.

    Attributes:
        observation: settings of the inputs.
        ensemble: settings of the forecasts.
        hidden: columns of the hidden states.
    """

    observation: ObservationConfig
    ensemble: EnsembleConfig
    hidden: int

    def empty(self, n: int) -> SeriesState:
        """Return n series without a reading."""
        return SeriesState(
            timeline=TimelineState.empty(n, self.observation.interval_ms),
            inputs=InputState.empty(n, self.observation),
            pending=self.ensemble.nothing_pending(n),
            experts=ExpertState.empty(n, self.ensemble),
            hidden=np.zeros((n, self.hidden), np.float32),
            body=np.zeros(n, np.int64),
        )

    def invalid(self, state: SeriesState) -> str:
        """Return the name of an array that no series of this shape can have; empty = all rows are valid.

        Rows that were written by `pipeline.advance` are valid. Other rows could end the worker, or spoil forecasts.

        Args:
            state: N rows of this shape.
        """
        for name, array in arrays(state):
            if not _within_limits(name, array):
                return name
        return next((name for name, valid in self._relations(state) if not valid.all()), "")

    def _relations(self, state: SeriesState) -> Iterator[tuple[str, Bools]]:
        """Yield names, and whether the array agrees with other arrays of the row, or with the settings."""
        times, profile = state.timeline, state.experts.profile
        interval = self.observation.interval_ms
        yield "timeline.interval_ms", np.asarray((times.interval_ms == interval) | (interval == 0))
        yield "timeline.tick", times.tick * times.interval_ms.astype(np.float64) <= MAX_TIME_MS
        yield "inputs.last", ~np.isnan(state.inputs.reference) | np.isnan(state.inputs.last)
        yield "pending.anchors", ~(state.pending.anchors[:, SCALE_ANCHOR] < 0)
        yield "experts.profile.bin", (profile.bin >= -1) & (profile.bin < np.array(self.ensemble.seasons.bins))
        yield "experts.profile.count", profile.count == np.floor(profile.count)
        yield "experts.profile.bin", (profile.count == 0) | (profile.bin >= 0)
        moments = state.inputs.denoise.kalman
        if moments.shape[1]:
            others = np.delete(moments, [VARIANCE, COVARIANCE], axis=1)
            yield "inputs.denoise.kalman", ~(np.abs(others) > MAX_VALUE)
            yield "inputs.denoise.kalman", moments[:, VARIANCE:] >= np.array([0, -MAX_SQUARE, 0, -1])


def _within_limits(name: str, array: NDArray[Any]) -> bool:
    """Return whether all numbers of an array of rows are within its limits."""
    if name == "body" or name == "timeline.held_run":
        return True
    if array.dtype == np.float16:  # pending.values: comparing bits is several times faster than comparing numbers
        bits = array.view(np.uint16)
        return not bool(((bits & 0x7FFF) == _NOT_FINITE).any())
    low, high = _LIMITS.get(name, (-MAX_VALUE, MAX_VALUE))
    if name == "hidden":  # the state of a relu network can be of any size
        return bool(np.isfinite(array).all())
    valid = (array >= low) & (array <= high)
    if name in _CAN_BE_NAN:
        valid |= np.isnan(array)
    return bool(valid.all())
