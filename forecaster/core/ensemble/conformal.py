"""Calibration of the intervals by quantile tracking: each quantile is shifted by the truths that come.

    (1) q = point + offset + shift       (2) shift <- shift + step (1[y > q] - (1 - level)), clipped
    (3) offset within +- max(|z|, 1/2) RMS error, z the level's quantile of the normal distribution

(2) is the quantile tracker of Angelopoulos, Candes and Tibshirani (2023, Conformal PID Control, equation 2). It holds
for any sequence: of T truths whose error stays within b of the offset, the share below the quantile differs from the
level by at most (2 b + step (1 + horizon)) / (step T). The quantile in (2) is the one of the matured forecast, before
the quantiles were sorted.

(3) bounds offsets that were learned on worse forecasts, such as the last value's before there was a network: shifting
them back would take thousands of truths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from forecaster.records import F32

STEP = 0.03
"""Step of a shift, in RMS errors."""
MIN_NORMAL_QUANTILE = 0.5
"""Smallest |z| in (3), for the quantile levels around the middle."""
SHIFT_CLIP = 32.0
"""Shifts are clipped to this many scales; the bound holds for truths that stay nearer than this."""


@dataclass
class CalibrationState:
    """Shifts of each level and horizon, in scales, one row a series; (N, Q, J)."""

    shift: F32

    @classmethod
    def empty(cls, n: int, levels: int, horizons: int) -> CalibrationState:
        """Return n series with zero shifts."""
        return cls(np.zeros((n, levels, horizons), np.float32))


@cache
def normal_quantiles(quantile_levels: tuple[float, ...]) -> F32:
    """Return the quantiles of the standard normal distribution; (Q,)."""
    return np.array([NormalDist().inv_cdf(level) for level in quantile_levels], np.float32)


def bounded(offsets: F32, quantile_levels: tuple[float, ...], rms_error: F32) -> F32:
    """Return the offsets bounded by (3); (B, Q, J).

    Args:
        offsets: quantiles minus the point, in scales; (B, Q, J).
        quantile_levels: quantile levels in (0, 1), ascending; Q.
        rms_error: root mean square error of the best expert, in scales; NaN = unknown: no bound; (B, J).
    """
    reach = (
        np.maximum(np.abs(normal_quantiles(quantile_levels)), np.float32(MIN_NORMAL_QUANTILE))[:, None]
        * rms_error[:, None]
    )
    return np.asarray(np.fmax(np.fmin(offsets, reach), -reach), np.float32)


def learn(state: CalibrationState, quantile_levels: F32, truth: F32, quantiles: F32, rms_error: F32) -> None:
    """Update the shifts by (2), in place.

    Args:
        state: B rows, changed in place.
        quantile_levels: quantile levels in (0, 1), ascending; (Q,).
        truth: (truth - last) / scale at the time of the forecast; NaN where there is no truth or no forecast; (B, J).
        quantiles: matured forecasts for this tick by (1), unsorted; (B, Q, J).
        rms_error: root mean square error of the best expert, in scales; NaN = unknown: nothing is shifted; (B, J).
    """
    above = (truth[:, None] > quantiles).astype(np.float32)
    step = np.float32(STEP) * np.nan_to_num(rms_error)[:, None]
    shift = np.clip(state.shift + step * (above - (1.0 - quantile_levels[:, None])), -SHIFT_CLIP, SHIFT_CLIP)
    known = ~np.isnan(truth)[:, None] & ~np.isnan(quantiles)
    np.copyto(state.shift, shift.astype(np.float32), where=known)
