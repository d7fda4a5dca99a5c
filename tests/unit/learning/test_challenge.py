"""A challenger and the champion are compared on readings that neither has seen."""

from __future__ import annotations

from dataclasses import replace

from builders import HOUR_MS
from trainings import NETWORK, OBSERVATION, PIPELINE, SHORT, same, seasonal_history, with_other_end

from forecaster.core.network.model import Checkpoint
from forecaster.learning.challenge import challenge
from forecaster.learning.data.splits import split_by_time
from forecaster.learning.data.training_data import build_training_data
from forecaster.learning.fitting.readout_refit import with_refitted_readout
from forecaster.learning.promotion import evaluate_challenger


def test_no_reading_of_the_promotion_split_reaches_the_weights() -> None:
    readings = seasonal_history(200)
    config = replace(SHORT, promotion=0.2)
    promotion_ms = split_by_time(readings, config.held_out, config.promotion).promotion_ms
    trained, other, earlier = (
        challenge(build_training_data(version, OBSERVATION, local=True), PIPELINE, NETWORK, config, None)
        for version in (
            readings,
            with_other_end(readings, promotion_ms),
            with_other_end(readings, promotion_ms - HOUR_MS),
        )
    )
    assert same(trained.challenger, other.challenger)
    assert trained.decision != other.decision
    assert not same(trained.challenger, earlier.challenger)


def test_a_champion_is_compared_without_what_it_knows_of_the_split(champion: Checkpoint) -> None:
    """Its readout is refitted without the promotion split."""
    readings = seasonal_history(250)
    config = replace(SHORT, promotion=0.2, passes=1)
    splits = split_by_time(readings, config.held_out, config.promotion)
    data = build_training_data(readings, OBSERVATION, local=True)
    fresh = with_refitted_readout(data, champion)
    outcome = challenge(data, PIPELINE, NETWORK, config, fresh)
    fair = with_refitted_readout(data.before(splits.promotion_ms), champion)
    expected = evaluate_challenger(PIPELINE, fair, outcome.challenger, readings, splits.promotion_ms)
    assert outcome.decision == expected
    other = challenge(data, PIPELINE, NETWORK, config, replace(champion, network=replace(NETWORK, horizons=(1, 2))))
    assert (
        other.decision.champion_loss
        == evaluate_challenger(PIPELINE, None, champion, readings, splits.promotion_ms).champion_loss
    )
