"""Scores are the numbers worked by hand; NaN counts nowhere."""

from __future__ import annotations

import numpy as np

from forecaster.core.scoring import last_value_scores, score
from forecaster.records import Scores

LEVELS = (0.1, 0.5, 0.9)


def scores(truth: float, point: float, last_value: float) -> Scores:
    """Return the scores of one reading at one horizon, with quantiles one below, at and one above the point."""
    quantiles = np.array([[[point - 1.0], [point], [point + 1.0]]])
    value, forecast, last = np.array([truth]), np.array([[point]]), np.array([[last_value]])
    return Scores(np.arange(1), value, forecast, quantiles, last, np.ones(1), np.empty((1, 0, 1)))


def test_scores_are_the_numbers_worked_by_hand() -> None:
    scored = score(scores(truth=5.0, point=4.5, last_value=2.0), LEVELS)
    assert scored.met.tolist() == [[True]]
    assert scored.absolute_error.tolist() == [[0.5]]
    assert scored.last_value_error.tolist() == [[3.0]]
    np.testing.assert_allclose(scored.pinball_loss, [[(0.1 * 1.5 + 0.5 * 0.5 + 0.1 * 0.5) / 3]])
    assert scored.in_interval.tolist() == [[True]]


def test_the_bounds_belong_to_the_interval() -> None:
    for truth, expected in ((3.0, True), (5.0, True), (5.1, False), (2.9, False)):
        assert score(scores(truth, point=4.0, last_value=4.0), LEVELS).in_interval.tolist() == [[expected]]


def test_without_a_truth_or_a_forecast_nothing_is_met() -> None:
    for truth, point in ((np.nan, 4.0), (5.0, np.nan)):
        scored = score(scores(truth, point, last_value=2.0), LEVELS)
        assert not scored.met.any()
        assert not scored.in_interval.any()
        assert np.isnan(scored.absolute_error).all()
        assert np.isnan(scored.pinball_loss).all()


def test_the_last_value_is_scored_as_point_and_as_every_quantile() -> None:
    scored = score(last_value_scores(scores(truth=5.0, point=4.5, last_value=2.0)), LEVELS)
    assert scored.absolute_error.tolist() == scored.last_value_error.tolist() == [[3.0]]
    np.testing.assert_allclose(scored.pinball_loss, [[(0.1 + 0.5 + 0.9) * 3.0 / 3]])
    assert scored.in_interval.tolist() == [[False]]
