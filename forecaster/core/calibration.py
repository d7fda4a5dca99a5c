"""Intervals that hold: each quantile is moved by what came true, by quantile tracking.

(1) q = point + offset + shift       (2) shift <- shift + step (1[y > q] - (1 - level)), clipped

(2) is the quantile tracker of Angelopoulos, Candes and Tibshirani (2023, Conformal PID Control, equation 2): whatever
comes, of T truths whose error stays within b of the offset, a share within (2 b + step (1 + horizon)) / (step T) of the
level lies below. A forecast is scored by the quantile that was made then, before the levels were sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]
STEP = 0.03
"""A shift moves by so many usual errors."""
SHIFT_CLIP = 32.0
"""A shift is at most so many scales: the bound holds for truths that stay nearer than this."""


@dataclass
class CalibrationState:
    """One row a series; `shift` of each level and horizon, in scales; (N, Q, J)."""

    shift: Singles

    @classmethod
    def empty(cls, n: int, levels: int, horizons: int) -> CalibrationState:
        """Returns n series whose intervals are as they were forecast."""
        return cls(np.zeros((n, levels, horizons), np.float32))


def learn(state: CalibrationState, levels: Singles, truth: Singles, quantiles: Singles, usual: Singles) -> None:
    """The shifts include what came true. In place.

    Args:
        state: B rows.
        levels: ascending, in (0, 1); (Q,).
        truth: (truth - last) / scale of then; NaN where there is none, or nothing was forecast; (B, J).
        quantiles: what had been forecast for now, as the trackers made it; (B, Q, J).
        usual: size of a usual error, in scales; NaN where none is known; (B, J).
    """
    above = (truth[:, None] > quantiles).astype(np.float32)
    step = np.float32(STEP) * np.nan_to_num(usual)[:, None]
    moved = np.clip(state.shift + step * (above - (1.0 - levels[:, None])), -SHIFT_CLIP, SHIFT_CLIP)
    known = ~np.isnan(truth)[:, None] & ~np.isnan(quantiles)
    np.copyto(state.shift, moved.astype(np.float32), where=known)
