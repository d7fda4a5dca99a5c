"""A local readout knows what sets its series apart, and a cross one what the other series of the group tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import HOUR_MS, START_MS
from numpy.typing import NDArray

from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.history import SeriesHistory
from forecaster.learning.data import groups as groups_module
from forecaster.learning.data.groups import series_groups_of
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.learning.simulation import ServingSimulation
from forecaster.pipeline import PipelineConfig
from forecaster.records import Outputs

LEVELS = (0.1, 0.5, 0.9)
OBSERVATION = ObservationConfig(interval_ms=HOUR_MS, context=12)
NETWORK = NetworkConfig(horizons=(1, 2, 3), quantile_levels=LEVELS, hidden_size=16, features=FeatureConfig(12))
PIPELINE = PipelineConfig(OBSERVATION, NETWORK.horizons, LEVELS, heads=3, seasons_ms=(), with_details=True)
QUICK = TrainingConfig(passes=2, patience=2, dropout=0.1)


def history(columns: dict[str, NDArray[np.float64]]) -> SeriesHistory:
    """A history of one group, with a record an hour."""
    names, values = list(columns), np.column_stack(list(columns.values()))
    hours, series = values.shape
    stamps = START_MS + np.arange(hours) * HOUR_MS
    rows = np.tile(np.arange(series), hours)
    return SeriesHistory(
        names, rows, np.repeat(stamps, series), values.reshape(-1), np.repeat(np.arange(hours), series)
    )


def unlike(hours: int) -> SeriesHistory:
    """The first series follows the second a tick later; the third one turns back where the second one continues."""
    dice = np.random.default_rng(0)
    lead = np.zeros(hours)
    steps = dice.normal(size=hours)
    for hour in range(1, hours):
        lead[hour] = 0.5 * lead[hour - 1] + steps[hour]
    follower = np.concatenate([[0.0], lead[:-1]]) + 0.05 * dice.normal(size=hours)
    turning = np.zeros(hours)
    for hour in range(1, hours):
        turning[hour] = -0.8 * turning[hour - 1] + dice.normal()
    return history({"follower": follower, "lead": lead, "turning": turning})


def test_groups_whose_interval_is_learned_can_be_trained_on() -> None:
    """Their first readings are no steps: the waves before the interval is known are empty."""
    learned = replace(OBSERVATION, interval_ms=0)
    checkpoint = train_checkpoint(unlike(60), learned, NETWORK, replace(QUICK, passes=1))
    assert checkpoint.local is not None
    assert checkpoint.local.members == 3


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    return train_checkpoint(unlike(900).first(3 * 600), OBSERVATION, NETWORK, QUICK)


@pytest.fixture(scope="module")
def served(trained: Checkpoint) -> list[tuple[int, Outputs]]:
    """Position and outputs of all batches of the history."""
    history = unlike(900)
    return list(ServingSimulation(PIPELINE, history, trained).until(len(history)))


def errors(served: list[tuple[int, Outputs]]) -> NDArray[np.float64]:
    """Mean squared error of each head at horizon 1 on the last 300 hours, by series; (H, S)."""
    history = unlike(900)
    total, count = np.zeros((3, 3)), 0
    for first, outputs in served:
        matured = outputs.matured
        rows = history.series_index[first + matured.reading]
        late = first + matured.reading >= 3 * 600
        for head in range(3):
            square = (matured.experts[:, PIPELINE.ensemble.network + head, 0] - matured.truth) ** 2
            np.add.at(total[head], rows[late], square[late])
        count += int(late.sum())
    return total / (count / 3)


def test_local_readouts_know_unlike_series_and_series_that_follow_others(
    served: list[tuple[int, Outputs]],
) -> None:
    """The pooled readout knows the series that is unlike the others, the cross one the series that follows another."""
    shared, pooled, cross = errors(served)
    assert pooled[2] < 0.9 * shared[2], "the series that is unlike the others"
    assert cross[0] < 0.2 * min(shared[0], pooled[0]), "the series that follows another"


def test_the_combination_prefers_the_best_readout(served: list[tuple[int, Outputs]]) -> None:
    _, outputs = served[-1]
    names = PIPELINE.ensemble.experts
    assert (outputs.forecasts.weights[-3, names.index("network, cross"), 0]) > 0.9


def test_series_without_a_local_readout_use_the_shared_one(trained: Checkpoint) -> None:
    stranger = replace(unlike(100), series_ids=["x", "y", "z"])
    for _, outputs in ServingSimulation(PIPELINE, stranger, trained).until(300):
        heads = outputs.matured.experts[:, PIPELINE.ensemble.network :]
        assert np.isnan(heads[:, 1:3]).all()
        assert np.isfinite(heads[30:, 0, 0]).all()
        assert np.isfinite(outputs.forecasts.point).all()


def test_local_readouts_can_be_switched_off() -> None:
    assert train_checkpoint(unlike(200), OBSERVATION, NETWORK, replace(QUICK, local=False)).local is None


def test_a_group_is_the_series_that_come_in_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b/y", "a/x", "b/x", "alone", "a/y"]
    rows = np.array([1, 4, 0, 2, 3, 4, 2])
    stamps, values = np.full(7, START_MS), np.ones(7)
    fleet = SeriesHistory(names, rows, stamps, values, np.array([0, 0, 1, 1, 2, 3, 4]))
    groups = series_groups_of(fleet)
    assert groups is not None
    assert dict(zip(groups.series_ids, groups.member.tolist(), strict=True)) == {
        "a/x": 0,
        "a/y": 1,
        "b/x": 0,
        "b/y": 1,
        "alone": 0,
    }
    assert groups.size == 2
    monkeypatch.setattr(groups_module, "MAX_SERIES", 4)
    assert series_groups_of(fleet) is None
