"""Whether the live forecasts get worse against the last value: then the network should be trained before it is due."""

from __future__ import annotations

import numpy as np

from forecaster.records import Scores

LEAST_SCORES = 500
TOLERANCE = 0.02
"""A rise of the mean loss by less than this is none ..."""
THRESHOLD = 0.15
"""... and what is above it must add up to so much."""


class DriftWatch:
    """The test of Page and Hinkley (Page, 1954) on the mean loss of stretches of time.

    The loss of a scored forecast is e / (e + e0), e its absolute error and e0 that of the last value: between 0 and 1
    whatever the units, 0.5 where the forecast is as good as the last value. The test is on means over a horizon's worth
    of readings, so that the hours of the day do not look like a drift.

    (1) m_n = mean of x_1 .. x_n   (2) U_n = U_{n-1} + x_n - m_n - tolerance   (3) alarm: U_n - min U > threshold.

    Args:
        horizon: ticks of a stretch.
    """

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self._begin_anew()

    def add(self, scores: Scores, series: int) -> bool:
        """Returns whether the loss has drifted with these scores; then the test begins anew.

        Args:
            scores: of a batch.
            series: how many there are.
        """
        error = np.abs(scores.truth[:, None] - scores.point)
        total = error + np.abs(scores.truth[:, None] - scores.last_value)
        known = total > 0  # false of NaN, too
        self._sum += float((error[known] / total[known]).sum())
        self._count += int(known.sum())
        self._readings += len(scores.reading)
        if self._readings < self._horizon * series or self._count < LEAST_SCORES:
            return False
        loss, self._sum, self._count, self._readings = self._sum / self._count, 0.0, 0, 0
        return self._test(loss)

    def _test(self, loss: float) -> bool:
        self._stretches += 1
        self._mean += (loss - self._mean) / self._stretches  # (1)
        self._rise += loss - self._mean - TOLERANCE  # (2)
        self._least = min(self._least, self._rise)
        if self._rise - self._least <= THRESHOLD:  # (3)
            return False
        self._begin_anew()
        return True

    def _begin_anew(self) -> None:
        self._sum, self._count, self._readings = 0.0, 0, 0
        self._stretches, self._mean, self._rise, self._least = 0, 0.0, 0.0, 0.0
