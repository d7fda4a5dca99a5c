"""Intervals that hold: each quantile is moved by what came true, by quantile tracking.

(1) q = point + offset + shift       (2) shift <- shift + step (1[y > q] - (1 - level)), clipped
(3) offset within +- max(|z|, 1/2) usual, z the level's quantile of the normal distribution

(2) is the quantile tracker of Angelopoulos, Candes and Tibshirani (2023, Conformal PID Control, equation 2): whatever
comes, of T truths whose error stays within b of the offset, a share within (2 b + step (1 + horizon)) / (step T) of the
level lies below. A forecast is scored by the quantile that was made then, before the levels were sorted. (3): an offset
that was learned of worse forecasts, as of the last value's before there was a network, would take thousands of truths
to be shifted back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from forecaster.records import F32

STEP = 0.03
"""A shift moves by so many usual errors."""
LEAST_NORMAL = 0.5
"""Offsets of levels about the middle may be as large as if their quantile of the normal distribution were this."""
SHIFT_CLIP = 32.0
"""A shift is at most so many scales: the bound holds for truths that stay nearer than this."""


@dataclass
class CalibrationState:
    """One row a series; `shift` of each level and horizon, in scales; (N, Q, J)."""

    shift: F32

    @classmethod
    def empty(cls, n: int, levels: int, horizons: int) -> CalibrationState:
        """Returns n series whose intervals are as they were forecast."""
        return cls(np.zeros((n, levels, horizons), np.float32))


@cache
def normal_quantiles(levels: tuple[float, ...]) -> F32:
    """Returns the quantiles of the normal distribution of deviation 1; (Q,)."""
    return np.array([NormalDist().inv_cdf(level) for level in levels], np.float32)


def believable(offsets: F32, levels: tuple[float, ...], usual: F32) -> F32:
    """Returns (3).

    Args:
        offsets: of the quantiles from the point, in scales; (B, Q, J).
        levels: ascending, in (0, 1); Q of them.
        usual: size of a usual error, in scales; NaN where none is known, and any offset stays as it is; (B, J).
    """
    reach = np.maximum(np.abs(normal_quantiles(levels)), np.float32(LEAST_NORMAL))[:, None] * usual[:, None]
    return np.asarray(np.fmax(np.fmin(offsets, reach), -reach), np.float32)


def learn(state: CalibrationState, levels: F32, truth: F32, quantiles: F32, usual: F32) -> None:
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
