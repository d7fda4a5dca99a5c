"""Totals of the scores of all series since the start of a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from forecaster.core.scoring import score
from forecaster.records import F64, MaturedForecasts

MOST_SCALES = 10.0
"""Limit of an error, in scales of its series: the first scales of a series are rough."""


@dataclass(slots=True)
class ScoreTotals:
    """Sums of scores over all series, by horizon; (J,) each, empty before the first score.

    Attributes:
        count: number of forecasts whose truth has come.
        error: absolute errors, in the units of the series.
        last_error: absolute errors of the last-value forecast.
        scaled_error: absolute errors in scales of their series, each limited to `MOST_SCALES`.
        scaled_last_error: the same of the last-value forecast.
        pinball: pinball losses, means over the quantile levels.
        inside: number of truths between the outermost quantiles.
    """

    count: F64 = field(default_factory=lambda: np.zeros(0))
    error: F64 = field(default_factory=lambda: np.zeros(0))
    last_error: F64 = field(default_factory=lambda: np.zeros(0))
    scaled_error: F64 = field(default_factory=lambda: np.zeros(0))
    scaled_last_error: F64 = field(default_factory=lambda: np.zeros(0))
    pinball: F64 = field(default_factory=lambda: np.zeros(0))
    inside: F64 = field(default_factory=lambda: np.zeros(0))

    def add(self, matured: MaturedForecasts, levels: Sequence[float]) -> None:
        """Add the scores of the matured forecasts of a batch."""
        scores = score(matured, levels)
        error, last_error = scores.absolute_error, scores.last_value_error
        per_scale = np.divide(1.0, matured.scale, where=matured.scale > 0, out=np.zeros_like(matured.scale))[:, None]
        columns = {
            "count": scores.met,
            "error": error,
            "last_error": last_error,
            "scaled_error": np.minimum(error * per_scale, MOST_SCALES),
            "scaled_last_error": np.minimum(last_error * per_scale, MOST_SCALES),
            "pinball": scores.pinball_loss,
            "inside": scores.in_interval,
        }
        for name, values in columns.items():
            total = np.where(scores.met, values, 0.0).sum(axis=0)
            before = getattr(self, name)
            setattr(self, name, before + total if len(before) else total)
