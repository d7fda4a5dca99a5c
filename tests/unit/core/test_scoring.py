"""Scores are the numbers worked by hand; NaN counts nowhere."""

from __future__ import annotations

import numpy as np

from forecaster.core.scoring import last_value_forecasts, score
from forecaster.records import MaturedForecasts

LEVELS = (0.1, 0.5, 0.9)


def matured(truth: float, point: float, last_value: float) -> MaturedForecasts:
    """Return the matured forecast of one reading at one horizon, with quantiles one below and one above the point."""
    quantiles = np.array([[[point - 1.0], [point], [point + 1.0]]])
    value, forecast, last = np.array([truth]), np.array([[point]]), np.array([[last_value]])
    scale, experts = np.ones(1), np.empty((1, 0, 1))
    return MaturedForecasts(np.arange(1), value, forecast, quantiles, last, scale, experts)


def test_scores_are_the_numbers_worked_by_hand() -> None:
    scores = score(matured(truth=5.0, point=4.5, last_value=2.0), LEVELS)
    assert scores.met.tolist() == [[True]]
    assert scores.absolute_error.tolist() == [[0.5]]
    assert scores.last_value_error.tolist() == [[3.0]]
    np.testing.assert_allclose(scores.pinball_loss, [[(0.1 * 1.5 + 0.5 * 0.5 + 0.1 * 0.5) / 3]])
    assert scores.in_interval.tolist() == [[True]]


def test_the_bounds_belong_to_the_interval() -> None:
    for truth, expected in ((3.0, True), (5.0, True), (5.1, False), (2.9, False)):
        assert score(matured(truth, point=4.0, last_value=4.0), LEVELS).in_interval.tolist() == [[expected]]


def test_without_a_truth_or_a_forecast_nothing_is_met() -> None:
    for truth, point in ((np.nan, 4.0), (5.0, np.nan)):
        scores = score(matured(truth, point, last_value=2.0), LEVELS)
        assert not scores.met.any()
        assert not scores.in_interval.any()
        assert np.isnan(scores.absolute_error).all()
        assert np.isnan(scores.pinball_loss).all()


def test_the_last_value_is_scored_as_point_and_as_every_quantile() -> None:
    scores = score(last_value_forecasts(matured(truth=5.0, point=4.5, last_value=2.0)), LEVELS)
    assert scores.absolute_error.tolist() == scores.last_value_error.tolist() == [[3.0]]
    np.testing.assert_allclose(scores.pinball_loss, [[(0.1 + 0.5 + 0.9) * 3.0 / 3]])
    assert scores.in_interval.tolist() == [[False]]
