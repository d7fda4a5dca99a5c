"""Whether the live forecasts get worse against the last value: then the network should be trained before it is due."""

from __future__ import annotations

from dataclasses import dataclass

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
        self._stretch = _Stretch()
        self._test = _Test()

    def add(self, scores: Scores, series: int) -> bool:
        """Returns whether the loss has drifted with these scores; then the test begins anew.

        Args:
            scores: of a batch.
            series: how many there are.
        """
        error = np.abs(scores.truth[:, None] - scores.point)
        total = error + np.abs(scores.truth[:, None] - scores.last_value)
        known = total > 0  # false of NaN, too
        stretch = self._stretch
        stretch.loss += float((error[known] / total[known]).sum())
        stretch.scores += int(known.sum())
        stretch.readings += len(scores.reading)
        if stretch.readings < self._horizon * series or stretch.scores < LEAST_SCORES:
            return False
        self._stretch = _Stretch()
        has_drifted = self._test.add(stretch.loss / stretch.scores)
        if has_drifted:
            self._test = _Test()
        return has_drifted


@dataclass(slots=True)
class _Stretch:
    """Sums of a stretch of time."""

    loss: float = 0.0
    scores: int = 0
    readings: int = 0


@dataclass(slots=True)
class _Test:
    """n, m_n, U_n and min U."""

    split_by_time: int = 0
    mean: float = 0.0
    rise: float = 0.0
    least: float = 0.0

    def add(self, loss: float) -> bool:
        self.split_by_time += 1
        self.mean += (loss - self.mean) / self.split_by_time  # (1)
        self.rise += loss - self.mean - TOLERANCE  # (2)
        self.least = min(self.least, self.rise)
        return self.rise - self.least > THRESHOLD  # (3)
