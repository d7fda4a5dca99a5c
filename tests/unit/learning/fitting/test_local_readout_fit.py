"""A series' own readout knows what is its own, and the cross one what the others of its group tell."""

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
from forecaster.formats.files import SeriesHistory
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
    """One group: a record an hour."""
    names, values = list(columns), np.column_stack(list(columns.values()))
    hours, series = values.shape
    stamps = START_MS + np.arange(hours) * HOUR_MS
    rows = np.tile(np.arange(series), hours)
    return SeriesHistory(
        names, rows, np.repeat(stamps, series), values.reshape(-1), np.repeat(np.arange(hours), series)
    )


def unlike(hours: int) -> SeriesHistory:
    """The first follows the second a tick later; the third turns back where the second goes on."""
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


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    return train_checkpoint(unlike(900).first(3 * 600), OBSERVATION, NETWORK, QUICK)


@pytest.fixture(scope="module")
def served(trained: Checkpoint) -> list[tuple[int, Outputs]]:
    """What it forecasts of all that there is."""
    whole = unlike(900)
    return list(ServingSimulation(PIPELINE, whole, trained).until(len(whole)))


def errors(served: list[tuple[int, Outputs]]) -> NDArray[np.float64]:
    """Mean squared error of each head at horizon 1 on the last 300 hours, by series; (H, S)."""
    whole = unlike(900)
    total, count = np.zeros((3, 3)), 0
    for first, outputs in served:
        scores = outputs.scores
        rows = whole.row[first + scores.reading]
        late = first + scores.reading >= 3 * 600
        for head in range(3):
            square = (scores.experts[:, PIPELINE.ensemble.network + head, 0] - scores.truth) ** 2
            np.add.at(total[head], rows[late], square[late])
        count += int(late.sum())
    return total / (count / 3)


def test_the_pooled_readout_knows_unlike_series_better_and_the_cross_one_the_leader(
    served: list[tuple[int, Outputs]],
) -> None:
    shared, pooled, cross = errors(served)
    assert pooled[2] < 0.9 * shared[2], "the series that is unlike the others"
    assert cross[0] < 0.2 * min(shared[0], pooled[0]), "the one that follows another"


def test_the_combination_is_with_the_head_that_knows(served: list[tuple[int, Outputs]]) -> None:
    _, outputs = served[-1]
    names = PIPELINE.ensemble.experts
    assert (outputs.forecasts.weights[-3, names.index("network, cross"), 0]) > 0.9


def test_series_that_are_not_among_them_have_the_shared_readout_alone(trained: Checkpoint) -> None:
    stranger = replace(unlike(100), series_ids=["x", "y", "z"])
    for _, outputs in ServingSimulation(PIPELINE, stranger, trained).until(300):
        made = outputs.scores.experts[:, PIPELINE.ensemble.network :]
        assert np.isnan(made[:, 1:3]).all()
        assert np.isfinite(made[30:, 0, 0]).all()
        assert np.isfinite(outputs.forecasts.point).all()


def test_who_wants_shared_readouts_gets_no_others() -> None:
    assert train_checkpoint(unlike(200), OBSERVATION, NETWORK, replace(QUICK, local=False)).local is None


def test_neighbours_are_those_that_come_in_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b/y", "a/x", "b/x", "alone", "a/y"]
    rows = np.array([1, 4, 0, 2, 3, 4, 2])
    stamps, values = np.full(7, START_MS), np.ones(7)
    fleet = SeriesHistory(names, rows, stamps, values, np.array([0, 0, 1, 1, 2, 3, 4]))
    found = series_groups_of(fleet)
    assert found is not None
    assert dict(zip(found.series_ids, found.member.tolist(), strict=True)) == {
        "a/x": 0,
        "a/y": 1,
        "b/x": 0,
        "b/y": 1,
        "alone": 0,
    }
    assert found.size == 2
    monkeypatch.setattr(groups_module, "MOST_SERIES", 4)
    assert series_groups_of(fleet) is None
