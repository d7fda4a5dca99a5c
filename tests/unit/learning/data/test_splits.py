"""Splits are disjoint, and what is held out is not fitted.

Few readings with stamps of a wrong clock move no split, and readings with right stamps are never dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import structlog
import torch
from builders import HOUR_MS, START_MS
from trainings import NETWORK, OBSERVATION, PIPELINE, SHORT, same, seasonal_history, with_other_end

from forecaster.core.network.model import Checkpoint
from forecaster.errors import UsageError
from forecaster.formats.checkpoints import SEEN_UNTIL
from forecaster.history import SeriesHistory
from forecaster.learning.challenge import Challenge, challenge
from forecaster.learning.data.splits import drop_misdated, split_by_time
from forecaster.learning.data.training_data import build_training_data, training_sequences
from forecaster.learning.fitting.network_fit import NetworkFit, TrainingConfig
from forecaster.learning.fitting.readout_refit import refit_readout
from forecaster.learning.fitting.train import train

DAY_MS = 24 * HOUR_MS
IN_1970, IN_2099 = 86_400_000, 4_070_908_800_000
WRONG = [
    pytest.param([IN_1970], id="1970"),
    pytest.param([IN_2099], id="2099"),
    pytest.param([IN_1970, IN_2099], id="both"),
]
TRAINING = TrainingConfig(passes=2, promotion=0.2)


def history(*stamps: Sequence[int] | np.ndarray) -> SeriesHistory:
    """A history with these stamps of each series, epoch ms."""
    row = np.repeat(np.arange(len(stamps)), [len(series) for series in stamps])
    times = np.concatenate([np.asarray(series, np.int64) for series in stamps])
    order = np.lexsort((row, times))
    row, times = row[order], times[order]
    values = np.sin(times / HOUR_MS * 0.4 + row) + np.random.default_rng(0).normal(0, 0.1, len(times))
    return SeriesHistory([f"pump-{number}" for number in range(len(stamps))], row, times, values, np.arange(len(times)))


def every(step_ms: int, count: int, begin_ms: int = START_MS) -> np.ndarray:
    return begin_ms + step_ms * np.arange(count)


def with_wrong_clock(right: SeriesHistory, begins_ms: Sequence[int], count: int = 10) -> SeriesHistory:
    """The history with more readings of the first series, stamped at other times."""
    wrong = np.concatenate([every(HOUR_MS, count, begin) for begin in begins_ms])
    times = np.concatenate([right.timestamp_ms, wrong])
    order = np.argsort(times, kind="stable")
    row = np.concatenate([right.series_index, np.zeros(len(wrong), np.int64)])[order]
    values = np.concatenate([right.values, np.full(len(wrong), 5.0)])[order]
    return SeriesHistory(right.series_ids, row, times[order], values, np.arange(len(times)))


HOURLY = history(*[every(HOUR_MS, 300) for _ in range(2)])


def test_the_splits_are_disjoint_in_order_and_complete() -> None:
    readings = seasonal_history(200)
    splits = split_by_time(readings, 0.15, 0.1)
    stamps = readings.timestamp_ms
    fit, stop, promote = (
        (stamps >= begin) & (stamps < end)
        for begin, end in [
            (stamps[0], splits.early_stopping_ms),
            (splits.early_stopping_ms, splits.promotion_ms),
            (splits.promotion_ms, splits.end_ms + 1),
        ]
    )
    assert (fit.astype(int) + stop + promote == 1).all()
    assert 0 < promote.sum() < stop.sum() < fit.sum()
    assert split_by_time(readings, 0.15, 0.0).promotion_ms > stamps[-1]
    with pytest.raises(UsageError, match="no readings"):
        split_by_time(readings.first(0), 0.15, 0.1)


def test_no_target_of_the_early_stopping_split_is_fitted() -> None:
    readings = seasonal_history(300)
    config = replace(SHORT, passes=1)
    split_ms = split_by_time(readings, config.held_out, 0.0).early_stopping_ms

    def first_pass(version: SeriesHistory) -> float:
        trainer = NetworkFit(NETWORK, config, training_sequences(version, OBSERVATION), split_ms)
        for _ in trainer.updates():
            pass
        return float(sum(weight.double().sum() for weight in vars(trainer)["_network"].state_dict().values()))

    assert first_pass(readings) == first_pass(with_other_end(readings, split_ms))
    assert first_pass(readings) != first_pass(with_other_end(readings, split_ms - HOUR_MS))


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "right",
    [
        pytest.param(history(*[every(HOUR_MS, 2_160)] * 50), id="50 series of 90 days"),
        pytest.param(history(every(HOUR_MS, 400)), id="one series"),
        pytest.param(history(every(HOUR_MS, 400), [START_MS]), id="one reading"),
        pytest.param(
            history(every(DAY_MS, 700), every(HOUR_MS, 700, START_MS + 600 * DAY_MS)), id="of different lengths"
        ),
    ],
)
def test_misdated_readings_are_dropped_and_move_no_split(right: SeriesHistory, wrong: Sequence[int]) -> None:
    with structlog.testing.capture_logs() as logs:
        kept = drop_misdated(with_wrong_clock(right, wrong))
    assert split_by_time(kept, 0.15, 0.1) == split_by_time(right, 0.15, 0.1)
    for name in ("series_index", "timestamp_ms", "values"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(right, name))
    assert [(log["readings"], log["series"]) for log in logs] == [(10 * len(wrong), ["pump-0"])]


def silent(days: int, before: int, after: int) -> SeriesHistory:
    """A fleet that is silent for these days between these hours."""
    back = START_MS + before * HOUR_MS + days * DAY_MS
    return history(*[np.concatenate([every(HOUR_MS, before), every(HOUR_MS, after, back)]) for _ in range(3)])


@pytest.mark.parametrize(
    "right",
    [
        pytest.param(history([START_MS]), id="one reading"),
        pytest.param(history([0, START_MS, IN_2099]), id="too few to know"),
        pytest.param(history(every(HOUR_MS, 300)), id="short"),
        pytest.param(history(every(91 * DAY_MS, 60)), id="a reading a quarter"),
        pytest.param(
            history(every(DAY_MS, 700), *[every(60_000, 5_000, START_MS + 690 * DAY_MS)] * 5), id="one long series"
        ),
        pytest.param(history(*[every(HOUR_MS, 3 + 40 * number, START_MS) for number in range(20)]), id="ever shorter"),
        pytest.param(silent(31, 1_000, 1_000), id="silent for a month"),
        pytest.param(silent(31, 5, 300), id="silent for a month after hours"),
        pytest.param(silent(31, 300, 5), id="back for hours after a month"),
        pytest.param(silent(200, 300, 100), id="silent for long, and back"),
    ],
)
def test_readings_with_right_stamps_are_all_kept(right: SeriesHistory) -> None:
    with structlog.testing.capture_logs() as logs:
        assert drop_misdated(right) is right
    assert not logs


def test_many_readings_far_from_the_others_are_kept() -> None:
    """They are no sign of a wrong clock."""
    two_times = with_wrong_clock(HOURLY, [IN_2099], count=60)
    assert drop_misdated(two_times) is two_times


def challenged(history: SeriesHistory) -> Challenge:
    data = build_training_data(history, OBSERVATION, local=True)
    return challenge(data, PIPELINE, NETWORK, TRAINING, None)


@pytest.fixture(scope="module")
def undisturbed() -> Challenge:
    return challenged(HOURLY)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_clock_changes_neither_the_challenger_nor_the_decision(
    undisturbed: Challenge, wrong: Sequence[int]
) -> None:
    other = challenged(with_wrong_clock(HOURLY, wrong))
    assert same(undisturbed.challenger, other.challenger)
    assert undisturbed.decision == other.decision
    assert undisturbed.challenger.facts == other.challenger.facts


@pytest.fixture(scope="module")
def long() -> SeriesHistory:
    return history(*[every(HOUR_MS, 600) for _ in range(2)])


@pytest.fixture(scope="module")
def broken(long: SeriesHistory) -> Checkpoint:
    """A champion of the first 400 hours with a useless readout."""
    champion = train(build_training_data(long.first(800), OBSERVATION, local=True), NETWORK, TRAINING)
    return replace(champion, readout=torch.zeros_like(champion.readout))


def test_a_new_readout_has_not_seen_the_times_of_a_wrong_clock(long: SeriesHistory, broken: Checkpoint) -> None:
    right, other = (
        refit_readout(build_training_data(version, OBSERVATION, local=True), broken).checkpoint
        for version in (long, with_wrong_clock(long, [IN_2099]))
    )
    assert right is not None
    assert other is not None
    assert same(right, other)
    assert other.facts[SEEN_UNTIL] == int(long.timestamp_ms[-1])


def test_a_champion_misled_by_a_wrong_clock_still_gets_new_readouts(long: SeriesHistory, broken: Checkpoint) -> None:
    """A champion that was trained on later readings, by a right clock, gets one when they are here."""
    data, end_ms = build_training_data(long, OBSERVATION, local=True), int(long.timestamp_ms[-1])
    misled, newer = (replace(broken, facts={**broken.facts, SEEN_UNTIL: seen}) for seen in (IN_2099, end_ms + DAY_MS))
    refitted = refit_readout(data, misled).checkpoint
    assert refitted is not None
    assert refitted.facts[SEEN_UNTIL] == end_ms
    assert refit_readout(data, newer).checkpoint is None, "it was trained on later readings"
