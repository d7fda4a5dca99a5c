"""The decision whether a challenger replaces the champion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import HOUR_MS, LEVELS, START_MS
from trainings import NETWORK, OBSERVATION, PIPELINE, seasonal_history

from forecaster.core.network.model import Checkpoint
from forecaster.learning.promotion import PromotionDecision, Rule, evaluate_challenger
from forecaster.learning.simulation import ServingSimulation


def decide(champion: Checkpoint | None, challenger: Checkpoint, rule: Rule | None = None) -> PromotionDecision:
    """Decide on seventy hours, after a hundred to warm up on."""
    recent = seasonal_history(470).since(START_MS + 300 * HOUR_MS)
    return evaluate_challenger(PIPELINE, champion, challenger, recent, START_MS + 400 * HOUR_MS, rule)


def test_only_a_better_challenger_is_promoted(champion: Checkpoint) -> None:
    worse = replace(champion, readout=torch.zeros_like(champion.readout))
    good = decide(None, champion)
    assert good.promote
    assert good.challenger_loss < 0.9 * good.champion_loss
    assert good.scored == 2 * 3 * 70
    bad, equal = decide(champion, worse), decide(champion, champion)
    assert not bad.promote
    assert bad.challenger_loss > bad.champion_loss
    assert not equal.promote
    assert equal.challenger_loss == equal.champion_loss


def test_a_challenger_with_forecasts_that_are_not_finite_is_rejected(champion: Checkpoint) -> None:
    broken = replace(champion, readout=torch.full_like(champion.readout, torch.nan))
    outcome = decide(champion, broken)
    assert not outcome.promote
    assert np.isnan(outcome.challenger_loss)
    assert "finite" in outcome.reason
    assert decide(broken, champion).promote


def test_too_few_scored_forecasts_promote_no_challenger(champion: Checkpoint) -> None:
    outcome = decide(None, champion, Rule(min_scored=421))
    assert not outcome.promote
    assert "421" in outcome.reason


def test_a_constant_series_does_not_count_in_the_decision(champion: Checkpoint) -> None:
    readings = seasonal_history(470).since(START_MS + 300 * HOUR_MS)
    flat = replace(readings, values=np.where(readings.series_index == 1, 5.0, readings.values))
    outcome = evaluate_challenger(PIPELINE, None, champion, flat, START_MS + 400 * HOUR_MS)
    assert outcome.promote
    nothing = replace(readings, values=np.full(len(readings), 5.0))
    assert not evaluate_challenger(PIPELINE, None, champion, nothing, START_MS + 400 * HOUR_MS).promote


def pinball(truth: float, quantiles: list[float]) -> float:
    pairs = zip(LEVELS, quantiles, strict=True)
    return float(np.mean([max(q * (truth - x), (q - 1.0) * (truth - x)) for q, x in pairs]))


def test_the_loss_equals_that_of_the_forecasts_looked_up_by_time(champion: Checkpoint) -> None:
    """The oracle finds the truths of every forecast by their time; it knows no pending forecasts."""
    readings, begin = seasonal_history(460), 400
    truths = readings.values.reshape(-1, 2)
    warm_up = OBSERVATION.context + max(NETWORK.horizons) + 336
    known = readings.since(START_MS + (begin - warm_up) * HOUR_MS)
    errors = np.zeros((2, 4))
    for _, outputs in ServingSimulation(PIPELINE, known, champion).until(len(known)):
        forecasts = outputs.forecasts
        for number, reading in enumerate(forecasts.reading.tolist()):
            row, hour = reading % 2, int(forecasts.timestamp_ms[number] - START_MS) // HOUR_MS
            for j, horizon in enumerate(NETWORK.horizons):
                if begin <= hour + horizon < len(truths):
                    truth, last = truths[hour + horizon, row], truths[hour, row]
                    losses = pinball(truth, forecasts.quantiles[number, :, j].tolist()), pinball(truth, [last] * 3)
                    errors[row] += abs(truth - forecasts.point[number, j]), abs(truth - last), *losses
    expected = np.mean([errors[:, 0] / errors[:, 1], errors[:, 2] / errors[:, 3]])
    outcome = evaluate_challenger(PIPELINE, None, champion, readings, START_MS + begin * HOUR_MS)
    assert outcome.challenger_loss == pytest.approx(expected, rel=2e-3)
