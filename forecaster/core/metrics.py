"""How good forecasts were. NaN = there is nothing to judge by; it is never taken as 0."""

from __future__ import annotations

import numpy as np

from forecaster.records import F64, Bools


def pinball_loss(quantiles: F64, truth: F64, levels: F64) -> F64:
    """Returns max(q d, (q - 1) d), d = truth - quantile (Koenker and Bassett, 1978; without a factor 2).

    Args:
        quantiles: (..., Q, J).
        truth: (..., J).
        levels: (Q,).
    """
    difference = truth[..., None, :] - quantiles
    level = levels[:, None]
    return np.asarray(np.maximum(level * difference, (level - 1.0) * difference))


def in_interval(truth: F64, low: F64, high: F64) -> Bools:
    """Returns where the truth lies in the interval, its bounds included."""
    return np.asarray((truth >= low) & (truth <= high))


def mase_scale(history: F64) -> float:
    """Returns the mean absolute difference of neighbours in a history by tick; NaN where there is none, or it is 0.

    The scale of the mean absolute scaled error (Hyndman and Koehler, 2006), fixed from history.
    """
    differences = np.abs(np.diff(history))
    known = differences[~np.isnan(differences)]
    scale = float(known.mean()) if len(known) else np.nan
    return scale if scale > 0 else np.nan


def mase(errors: F64, history: F64) -> float:
    """Returns the mean absolute error over `mase_scale(history)`; NaN errors are left out."""
    known = errors[~np.isnan(errors)]
    return float(np.abs(known).mean()) / mase_scale(history) if len(known) else np.nan
