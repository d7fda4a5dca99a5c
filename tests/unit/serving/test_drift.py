"""A live loss that gets worse against the last value is noticed; one that stays as it is, is not."""

from __future__ import annotations

import numpy as np

from forecaster.records import Scores
from forecaster.serving.drift import DriftWatch

SERIES, HORIZON = 10, 24


def scores(dice: np.random.Generator, error: float, hour: int, units: float = 1.0) -> Scores:
    """A reading of each series; forecasts are wrong by about `error` of what the last value is, more so by day."""
    truth = dice.normal(size=SERIES) * units
    last = truth[:, None] + dice.normal(size=(SERIES, HORIZON)) * units
    daily = 1.0 + 0.5 * np.sin(2 * np.pi * hour / 24)
    point = truth[:, None] + dice.normal(size=(SERIES, HORIZON)) * units * error * daily
    return Scores(np.arange(SERIES), truth, point, point[:, None], last, np.ones(SERIES), point[:, None])


def first_alarm(errors: list[float], units: float = 1.0) -> int | None:
    dice, watch = np.random.default_rng(0), DriftWatch(HORIZON)
    for hour, error in enumerate(errors):
        if watch.add(scores(dice, error, hour, units), SERIES):
            return hour
    return None


def test_no_drift_raises_no_alarm_whatever_the_hours_of_the_day_do() -> None:
    assert first_alarm([0.3] * 5_000) is None
    assert first_alarm([1.0] * 5_000, units=1e6) is None


def test_a_loss_that_rises_raises_an_alarm_within_days() -> None:
    alarm = first_alarm([0.3] * 1_000 + [1.0] * 1_000)
    assert alarm is not None
    assert 1_000 < alarm < 1_000 + 5 * 24


def test_a_loss_that_falls_raises_none() -> None:
    assert first_alarm([1.0] * 1_000 + [0.3] * 1_000) is None


def test_after_an_alarm_the_new_level_is_the_usual_one() -> None:
    dice, watch = np.random.default_rng(0), DriftWatch(HORIZON)
    errors = [0.3] * 500 + [1.0] * 2_000
    alarms = [hour for hour, error in enumerate(errors) if watch.add(scores(dice, error, hour), SERIES)]
    assert len(alarms) == 1


def test_scores_without_a_truth_or_a_forecast_count_for_nothing() -> None:
    watch, none = DriftWatch(1), np.full((SERIES, HORIZON), np.nan)
    zeros, one = np.zeros((SERIES, HORIZON)), np.ones(SERIES)
    missing = Scores(np.arange(SERIES), one * np.nan, none, none[:, None], none, one, none[:, None])
    exact = Scores(np.arange(SERIES), one * 0.0, zeros, none[:, None], zeros, one, none[:, None])
    assert not any(watch.add(one, SERIES) for one in [missing, exact] * 500)
