"""Drift: whether the live forecasts lose against the last value, so that the network should be trained early."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.records import MaturedForecasts

MIN_SCORES = 500
"""A window with fewer scores is extended."""
TOLERANCE = 0.02
"""Rise of the mean loss of one window that the test ignores (delta of the test)."""
THRESHOLD = 0.15
"""Sum of the rises beyond TOLERANCE that raises the alarm (lambda of the test)."""


class DriftWatch:
    """Page and Hinkley's test (Page, Continuous inspection schemes, 1954) on the mean loss of windows of time.

    The loss of a scored forecast is e / (e + e0), with its absolute error e and that of the last value, e0: between 0
    and 1 in any units, 0.5 if the forecast is as good as the last value. A window is as long as the longest horizon,
    so that the hours of the day do not look like a drift.

    (1) m_n = mean of x_1 .. x_n   (2) U_n = U_{n-1} + x_n - m_n - tolerance   (3) alarm: U_n - min U > threshold.

    Args:
        horizon: length of a window, ticks.
    """

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self._window = _Window()
        self._test = _Test()

    def add(self, matured: MaturedForecasts, series: int) -> bool:
        """Add the matured forecasts of a batch; return whether the loss has drifted, and start the test again if so.

        Args:
            matured: matured forecasts of the batch.
            series: number of series that are served.
        """
        error = np.abs(matured.truth[:, None] - matured.point)
        total = error + np.abs(matured.truth[:, None] - matured.last_value)
        known = total > 0  # false for NaN, too
        window = self._window
        window.loss += float((error[known] / total[known]).sum())
        window.scores += int(known.sum())
        window.readings += len(matured.reading)
        if window.readings < self._horizon * series or window.scores < MIN_SCORES:
            return False
        self._window = _Window()
        has_drifted = self._test.add(window.loss / window.scores)
        if has_drifted:
            self._test = _Test()
        return has_drifted


@dataclass(slots=True)
class _Window:
    """Sums over a window of time."""

    loss: float = 0.0
    scores: int = 0
    readings: int = 0


@dataclass(slots=True)
class _Test:
    """State of the test: n, m_n, U_n and min U."""

    count: int = 0
    mean: float = 0.0
    rise: float = 0.0
    least: float = 0.0

    def add(self, loss: float) -> bool:
        """Add the mean loss of a window; return whether it raises the alarm."""
        self.count += 1
        self.mean += (loss - self.mean) / self.count  # (1)
        self.rise += loss - self.mean - TOLERANCE  # (2)
        self.least = min(self.least, self.rise)
        return self.rise - self.least > THRESHOLD  # (3)
