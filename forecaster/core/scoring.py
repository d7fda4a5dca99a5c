"""Scores of forecasts once their truth has come: errors, pinball losses and interval coverage.

Publishing, totals, evaluation and promotion all score forecasts here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.metrics import in_interval, pinball_loss
from forecaster.records import F64, Bools, MaturedForecasts


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of the forecasts made for M readings, at J horizons; values are in units of the series.

    Attributes:
        met: a truth met a forecast; the other fields hold NaN or false elsewhere; (M, J).
        truth: the truth of each reading, for every horizon; (M, J).
        absolute_error: distance of the point from the truth; (M, J).
        last_value_error: distance of the last value at the time of the forecast from the truth; (M, J).
        pinball_loss: mean pinball loss over the quantile levels; (M, J).
        in_interval: the truth lies between the outermost quantiles; (M, J).
    """

    met: Bools
    truth: F64
    absolute_error: F64
    last_value_error: F64
    pinball_loss: F64
    in_interval: Bools


def score(matured: MaturedForecasts, quantile_levels: Sequence[float]) -> Scores:
    """Return the scores of matured forecasts.

    Args:
        matured: truths of M readings with the forecasts made for them.
        quantile_levels: quantile levels, ascending; Q.
    """
    truth = np.broadcast_to(matured.truth[:, None], matured.point.shape)
    return Scores(
        met=~np.isnan(truth) & ~np.isnan(matured.point),
        truth=truth,
        absolute_error=np.abs(truth - matured.point),
        last_value_error=np.abs(truth - matured.last_value),
        pinball_loss=pinball_loss(matured.quantiles, truth, np.array(quantile_levels)).mean(axis=1),
        in_interval=in_interval(truth, matured.quantiles[:, 0], matured.quantiles[:, -1]),
    )


def last_value_forecasts(matured: MaturedForecasts) -> MaturedForecasts:
    """Return the same truths with the last value as the point and as every quantile of the forecasts."""
    quantiles = np.broadcast_to(matured.last_value[:, None], matured.quantiles.shape)
    return replace(matured, point=matured.last_value, quantiles=quantiles)
