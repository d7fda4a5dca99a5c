"""Experts are scored by the forecasts that they made, and do not know later readings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import HOUR_MS, START_MS, pipeline_config, readings

from forecaster.core.ensemble.experts import expert_names
from forecaster.core.ensemble.seasonal import DAY_MS, MAX_BINS, ProfileState, Season, Seasons
from forecaster.pipeline import Batch, PipelineConfig, advance
from forecaster.records import F64, I64, Outputs

MINUTE_MS = 60_000
DETAILED = replace(pipeline_config(horizon=30, context=60), with_details=True)


def with_interval(config: PipelineConfig, interval_ms: int) -> PipelineConfig:
    return replace(config, observation=replace(config.observation, interval_ms=interval_ms, max_gap_ms=DAY_MS * 30))


def served(config: PipelineConfig, ticks: I64, values: F64, step_ms: int) -> list[Outputs]:
    """Return the outputs of one series, reading by reading."""
    state = config.shape(0).empty(1)
    results = []
    for tick, value in zip(ticks.tolist(), values.tolist(), strict=True):
        reading = readings([("pump", START_MS + tick * step_ms, value)])
        results.append(advance(config, [None], state, Batch.of_one_model(reading, np.zeros(1, np.int64))))
    return results


def wave(count: int, season: int, seed: int = 0) -> F64:
    noise = np.random.default_rng(seed).normal(size=count) * 0.1
    return np.sin(np.arange(count) * 2.0 * np.pi / season) * 3.0 + 10.0 + noise


@pytest.mark.parametrize("step_ms", [HOUR_MS, 15 * MINUTE_MS, 7 * MINUTE_MS, DAY_MS], ids=["1h", "15m", "7m", "1d"])
def test_an_expert_is_scored_by_the_forecast_that_it_made(step_ms: int) -> None:
    """The recomputed forecast does not depend on values that came after it was made."""
    config = with_interval(DETAILED, step_ms)
    dice = np.random.default_rng(1)
    ticks = np.cumsum(dice.choice([1, 1, 1, 1, 2, 5], size=300))
    values = wave(300, 24)
    values[dice.random(300) < 0.05] = np.nan
    expected = served(config, ticks, values, step_ms)
    for cut in (60, 150, 280):
        other = values.copy()
        other[cut:-1] += 50.0 * dice.random(299 - cut)  # every later value except the truth
        changed = served(config, ticks[: cut + 14], other[: cut + 14], step_ms)
        for place in range(cut, cut + 14):
            for column in range(30):
                if ticks[place] - (column + 1) in ticks[:cut].tolist():
                    before = expected[place].matured.experts[0, :, column]
                    after = changed[place].matured.experts[0, :, column]
                    np.testing.assert_allclose(after, before, rtol=2e-4, atol=2e-3)


def test_seasonal_experts_gain_weight_and_beat_the_last_value() -> None:
    config = DETAILED
    outputs = served(config, np.arange(24 * 20), wave(24 * 20, 24), HOUR_MS)
    late = outputs[24 * 10 :]
    error = np.mean([np.abs(output.matured.point - output.matured.truth[:, None]) for output in late])
    naive = np.mean([np.abs(output.matured.last_value - output.matured.truth[:, None]) for output in late])
    assert error < 0.15 * naive
    names = config.ensemble.experts
    weights = late[-1].forecasts.weights[0, : len(names), 11]
    assert weights[names.index("mean 1d")] > weights[names.index("last value")]


def test_on_a_drifting_season_the_change_expert_beats_the_others() -> None:
    """It beats the last value, the mean and the naive expert at the first twelve horizons."""
    walk = np.cumsum(np.random.default_rng(2).normal(size=24 * 30)) * 0.5
    outputs = served(DETAILED, np.arange(24 * 30), wave(24 * 30, 24) + walk, HOUR_MS)[24 * 10 :]
    names = DETAILED.ensemble.experts
    error = np.mean([np.abs(output.matured.experts[0] - output.matured.truth[:, None]) for output in outputs], axis=0)
    near = error[[names.index(name) for name in ("change 1d", "last value", "mean 1d", "naive 1d")], :12].mean(axis=1)
    assert near[0] < 0.8 * near[1:].min()


@pytest.mark.parametrize(("interval_ms", "bins"), [(HOUR_MS, (24, 168)), (15 * MINUTE_MS, (96, 168)), (0, (168, 168))])
def test_a_season_has_a_mean_for_each_tick_or_for_168_phases(interval_ms: int, bins: tuple[int, ...]) -> None:
    assert Seasons((DAY_MS, 7 * DAY_MS), interval_ms, 96).bins == bins
    assert max(bins) <= MAX_BINS


def test_a_season_as_long_as_the_context_has_no_naive_expert() -> None:
    names = expert_names(1, Seasons((DAY_MS, 7 * DAY_MS), HOUR_MS, 96))
    assert names == ("last value", "naive 1d", "mean 1d", "change 1d", "mean 1w", "change 1w", "level", "network")


def test_a_season_of_86400_ticks_is_kept_by_phases() -> None:
    seasons = Seasons((DAY_MS,), 1_000, 96)
    state, season = ProfileState.empty(1, seasons), Season(seasons, 0, np.array([1_000]))
    shape = lambda seconds: np.sin(seconds / 86_400 * 2 * np.pi)  # noqa: E731
    for second in range(0, 3 * 86_400, 60):
        season.add(state, np.array([second * 1_000]), np.array([shape(second)]))
    at = np.arange(0, 86_400, 500)
    means = season.mean_at(state, at[None] * 1_000)[0]
    np.testing.assert_allclose(means, shape(at), atol=0.05)
