"""A live loss that rises against the last value raises an alarm; a steady one does not."""

from __future__ import annotations

import numpy as np

from forecaster.records import MaturedForecasts
from forecaster.serving.drift import DriftWatch

SERIES, HORIZON = 10, 24


def scores(dice: np.random.Generator, error: float, hour: int, units: float = 1.0) -> MaturedForecasts:
    """A reading of each series; the forecasts' errors are about `error` times the last value's, larger by day."""
    truth = dice.normal(size=SERIES) * units
    last = truth[:, None] + dice.normal(size=(SERIES, HORIZON)) * units
    daily = 1.0 + 0.5 * np.sin(2 * np.pi * hour / 24)
    point = truth[:, None] + dice.normal(size=(SERIES, HORIZON)) * units * error * daily
    return MaturedForecasts(np.arange(SERIES), truth, point, point[:, None], last, np.ones(SERIES), point[:, None])


def first_alarm(errors: list[float], units: float = 1.0) -> int | None:
    dice, watch = np.random.default_rng(0), DriftWatch(HORIZON)
    for hour, error in enumerate(errors):
        if watch.add(scores(dice, error, hour, units), SERIES):
            return hour
    return None


def test_a_daily_pattern_is_no_drift() -> None:
    assert first_alarm([0.3] * 5_000) is None
    assert first_alarm([1.0] * 5_000, units=1e6) is None


def test_a_rising_loss_raises_an_alarm_within_days() -> None:
    alarm = first_alarm([0.3] * 1_000 + [1.0] * 1_000)
    assert alarm is not None
    assert 1_000 < alarm < 1_000 + 5 * 24


def test_a_falling_loss_raises_no_alarm() -> None:
    assert first_alarm([1.0] * 1_000 + [0.3] * 1_000) is None


def test_a_lasting_rise_raises_only_one_alarm() -> None:
    dice, watch = np.random.default_rng(0), DriftWatch(HORIZON)
    errors = [0.3] * 500 + [1.0] * 2_000
    alarms = [hour for hour, error in enumerate(errors) if watch.add(scores(dice, error, hour), SERIES)]
    assert len(alarms) == 1


def test_scores_without_truth_or_forecast_do_not_count() -> None:
    watch, none = DriftWatch(1), np.full((SERIES, HORIZON), np.nan)
    zeros, ones = np.zeros((SERIES, HORIZON)), np.ones(SERIES)
    missing = MaturedForecasts(np.arange(SERIES), ones * np.nan, none, none[:, None], none, ones, none[:, None])
    exact = MaturedForecasts(np.arange(SERIES), ones * 0.0, zeros, none[:, None], zeros, ones, none[:, None])
    assert not any(watch.add(batch, SERIES) for batch in [missing, exact] * 500)
