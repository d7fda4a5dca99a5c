"""Measures of forecasts. NaN = unknown: nothing is measured there, and it never counts as 0."""

from __future__ import annotations

import numpy as np

from forecaster.records import F64, Bools


def pinball_loss(quantiles: F64, truth: F64, quantile_levels: F64) -> F64:
    """Return max(q d, (q - 1) d) with d = truth - quantile (Koenker and Bassett, 1978; without a factor 2).

    Args:
        quantiles: forecast quantiles; (..., Q, J).
        truth: true values; (..., J).
        quantile_levels: quantile levels; (Q,).

    Returns:
        The loss of each quantile, in units of the series; (..., Q, J).
    """
    difference = truth[..., None, :] - quantiles
    level = quantile_levels[:, None]
    return np.asarray(np.maximum(level * difference, (level - 1.0) * difference))


def in_interval(truth: F64, low: F64, high: F64) -> Bools:
    """Return whether the truth lies in the interval, bounds included; false if any of them is NaN."""
    return np.asarray((truth >= low) & (truth <= high))


def mase_scale(history: F64) -> float:
    """Return the mean absolute difference of neighbouring ticks; NaN if no two are known, or it is 0.

    The denominator of the mean absolute scaled error (Hyndman and Koehler, 2006), fixed from history.
    """
    differences = np.abs(np.diff(history))
    known = differences[~np.isnan(differences)]
    scale = float(known.mean()) if len(known) else np.nan
    return scale if scale > 0 else np.nan


def mase(errors: F64, history: F64) -> float:
    """Return the mean absolute error divided by `mase_scale(history)`, without the NaN errors; NaN if all are NaN."""
    known = errors[~np.isnan(errors)]
    return float(np.abs(known).mean()) / mase_scale(history) if len(known) else np.nan
