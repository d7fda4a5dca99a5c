"""The value of forecasts once their truth has come: errors, pinball losses and intervals.

Publishing, totals, evaluation and promotion all score forecasts here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.metrics import in_interval, pinball_loss
from forecaster.records import F64, Bools, Scores


@dataclass(frozen=True, slots=True)
class ScoredForecasts:
    """Forecasts of M readings at J horizons, compared with their truths; values are in units of the series.

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


def score(scores: Scores, levels: Sequence[float]) -> ScoredForecasts:
    """Return the forecasts compared with their truths.

    Args:
        scores: truths of M readings with the forecasts made of them.
        levels: quantile levels, ascending; Q.
    """
    truth = np.broadcast_to(scores.truth[:, None], scores.point.shape)
    return ScoredForecasts(
        met=~np.isnan(truth) & ~np.isnan(scores.point),
        truth=truth,
        absolute_error=np.abs(truth - scores.point),
        last_value_error=np.abs(truth - scores.last_value),
        pinball_loss=pinball_loss(scores.quantiles, truth, np.array(levels)).mean(axis=1),
        in_interval=in_interval(truth, scores.quantiles[:, 0], scores.quantiles[:, -1]),
    )


def last_value_scores(scores: Scores) -> Scores:
    """Return the same truths with the last value as the point and as every quantile of the forecasts."""
    quantiles = np.broadcast_to(scores.last_value[:, None], scores.quantiles.shape)
    return replace(scores, point=scores.last_value, quantiles=quantiles)
