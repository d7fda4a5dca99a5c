"""Backtests: metrics are numbers worked by hand, simple forecasts are what they are called, and nothing looks ahead."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import HOUR_MS, START_MS, pipeline_config

from forecaster.backtest import BacktestPlan, report_json, run_backtest
from forecaster.cli import commands
from forecaster.core.features import FeatureConfig
from forecaster.core.metrics import inside, mase, mase_scale, pinball_loss
from forecaster.core.network import NetworkConfig
from forecaster.errors import CheckpointError, UsageError
from forecaster.evaluation import Evaluator, Report
from forecaster.files import History
from forecaster.learning.rehearsal import Cadence
from forecaster.learning.trainer import TrainingConfig
from forecaster.records import Outputs


def history(values: list[list[float]]) -> History:
    """Series by tick."""
    table = np.array(values, np.float64)
    series, ticks = table.shape
    return History(
        series_ids=[f"s{number}" for number in range(series)],
        row=np.tile(np.arange(series), ticks),
        timestamp_ms=START_MS + np.repeat(np.arange(ticks), series) * HOUR_MS,
        values=table.T.reshape(-1),
        records=np.repeat(np.arange(ticks), series),
    )


def plan(**changes: object) -> BacktestPlan:
    pipeline = pipeline_config(horizon=3)
    network = NetworkConfig(
        horizons=pipeline.horizons,
        quantile_levels=pipeline.quantile_levels,
        hidden_size=16,
        features=FeatureConfig(pipeline.observation.context),
    )
    return BacktestPlan(pipeline, network, TrainingConfig(passes=3), **changes)  # type: ignore[arg-type]


def run(values: list[list[float]], **changes: object) -> Report:
    return run_backtest(history(values), plan(**changes), lambda: nullcontext(lambda _: None)).report


def daily(days: int, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, 0.2, 24 * days)
    return (10 + 5 * np.sin(2 * np.pi * np.arange(24 * days) / 24) + noise).tolist()


def test_errors_of_a_ramp_are_the_horizons() -> None:
    report = run([list(range(60))])
    np.testing.assert_allclose(report.mae["last value"][0], [1, 2, 3])
    np.testing.assert_allclose(report.mae["forecast"], report.mae["last value"], rtol=1e-2)
    assert report.scored[0].tolist() == [59, 58, 57]
    np.testing.assert_allclose(report.mase["last value"][0], [1, 2, 3])
    deviation = np.std(np.arange(60))
    np.testing.assert_allclose(report.mse["last value"][0], np.array([1, 4, 9]) / deviation**2)


def test_the_seasonal_naive_forecast_of_a_daily_pattern_is_exact_from_the_second_day_on() -> None:
    report = run([list(range(24)) * 10])
    on_the_first_day = [23 * 1, 22 * 2, 21 * 3]  # there the last value stands in
    np.testing.assert_allclose(report.mae["seasonal naive"][0] * report.scored[0], on_the_first_day)
    assert (report.mae["last value"][0] > 1).all()


def test_a_trained_network_beats_the_last_value_where_there_is_a_pattern() -> None:
    report = run([daily(24), daily(24, 1)], train_share=0.5)
    assert report.checkpoint != "none"
    assert (report.mae["forecast"][:, 2] < 0.7 * report.mae["last value"][:, 2]).all()
    assert (np.abs(report.coverage - 0.8) < 0.15).all()


def test_what_was_trained_on_the_first_part_does_not_forecast_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows that part by heart, and would be trusted too much after it."""
    makers: dict[bool, set[str]] = {False: set(), True: set()}
    add = Evaluator.add

    def noted(self: Evaluator, first: int, outputs: Outputs) -> None:
        makers[first >= 480].update(outputs.forecasts.checkpoint)
        add(self, first, outputs)

    monkeypatch.setattr(Evaluator, "add", noted)
    report = run([daily(20), daily(20, 1)], train_share=0.5)
    assert makers == {False: {"none"}, True: {report.checkpoint}}


def test_what_follows_the_evaluation_changes_nothing_before_it() -> None:
    short = run([daily(10)[:200]])
    longer = history([[*daily(10)[:200], *[1e6] * 3]])
    cut = run_backtest(longer.first(200), plan(), lambda: nullcontext(lambda _: None)).report
    np.testing.assert_array_equal(short.mae["forecast"], cut.mae["forecast"])


def shifting(hours: int) -> list[float]:
    """A daily pattern that becomes another one half-way."""
    time = np.arange(hours)
    period = np.where(time < hours // 2, 24, 9)
    noise = np.random.default_rng(3).normal(0, 0.2, hours)
    return (10 + 5 * np.sin(2 * np.pi * time / period) + noise).tolist()


LEARNING = {"train_share": 0.3, "cadence": Cadence(retrain_every=96, resolve_every=48)}


def test_a_backtest_that_learns_does_better_after_a_change_than_one_that_does_not() -> None:
    values = [shifting(700), shifting(700)[::-1]]
    cadence = Cadence(retrain_every=160, resolve_every=48)
    frozen, learning = run(values, train_share=0.3), run(values, train_share=0.3, cadence=cadence)
    assert learning.mae["forecast"].mean() < 0.8 * frozen.mae["forecast"].mean()
    np.testing.assert_array_equal(learning.scored, frozen.scored)
    assert learning.learned["readouts refreshed"] >= 1
    assert sum(count for name, count in learning.learned.items() if "challengers" in name) == 490 // 160
    assert frozen.learned == {}


def forecasts_of(one: History, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Points of all forecasts of a backtest that learns, in the order of the readings."""
    made: list[np.ndarray] = []
    add = Evaluator.add

    def listening(self: Evaluator, first: int, outputs: Outputs) -> None:
        made.append(outputs.forecasts.point)
        add(self, first, outputs)

    monkeypatch.setattr(Evaluator, "add", listening)
    report = run_backtest(one, plan(**LEARNING), lambda: nullcontext(lambda _: None)).report
    monkeypatch.setattr(Evaluator, "add", add)
    assert report.learned["challengers promoted"] >= 1
    return np.concatenate(made)


def test_no_forecast_depends_on_what_comes_after_it_though_it_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    one = history([shifting(330), shifting(330)[::-1]])
    cut = 2 * 250
    other = replace(one, values=np.where(np.arange(len(one)) < cut, one.values, one.values * 5.0))
    before, after = forecasts_of(one, monkeypatch), forecasts_of(other, monkeypatch)
    np.testing.assert_array_equal(before[:cut], after[:cut])
    assert not np.array_equal(before[cut:], after[cut:])


def test_learning_begins_from_nothing() -> None:
    """Of waves of 17 hours, which no simple expert knows."""
    waves = 10 + 5 * np.sin(2 * np.pi * np.arange(360) / 17) + np.random.default_rng(0).normal(0, 0.2, 360)
    report = run([waves.tolist()], cadence=Cadence(retrain_every=120))
    assert report.checkpoint != "none"
    assert report.mae["forecast"].mean() < report.mae["last value"].mean()


def test_missing_truths_are_not_scored() -> None:
    values = daily(5)
    values[50] = np.nan
    report = run([values])
    assert report.scored[0, 0] == len(values) - 1 - 1


def test_the_json_report_is_json_with_null_for_nan() -> None:
    report = json.loads(report_json(run([[5.0] * 30])))
    assert report["series"]["s0"]["mase"]["last value"] == [None] * 3
    assert report["outcomes"] == {"forecast": 30}


def test_nothing_to_evaluate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run([daily(3)], checkpoint=tmp_path)
    empty = history([[1.0]]).first(0)
    with pytest.raises(UsageError, match="no readings to evaluate"):
        run_backtest(empty, plan(), lambda: nullcontext(lambda _: None))


def test_metrics_by_hand() -> None:
    levels = np.array([0.1, 0.9])
    quantiles, truth = np.array([[1.0], [4.0]]), np.array([3.0])
    np.testing.assert_allclose(pinball_loss(quantiles, truth, levels), [[0.2], [0.1]])
    assert inside(np.array([1.0, 5.0]), np.array([1.0, 1.0]), np.array([4.0, 4.0])).tolist() == [True, False]
    assert mase_scale(np.array([1.0, 3.0, np.nan, 5.0, 4.0])) == 1.5
    assert np.isnan(mase_scale(np.array([2.0, 2.0])))
    assert mase(np.array([3.0, -3.0, np.nan]), np.array([0.0, 2.0])) == 1.5


def test_train_check_and_backtest_work_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stamps = (START_MS + np.arange(24 * 12) * HOUR_MS).astype("datetime64[ms]")
    rows = "\n".join(f"{stamp},{value}" for stamp, value in zip(stamps, daily(12), strict=True))
    (tmp_path / "pump.csv").write_text(f"time,flow\n{rows}\n")
    for name, value in {
        "SERIES__INTERVAL": "1h",
        "FORECAST__HORIZON": "3",
        "NETWORK__HIDDEN_SIZE": "16",
        "NETWORK__CONTEXT": "24",
    }.items():
        monkeypatch.setenv(f"FORECASTER_{name}", value)
    commands(["train", str(tmp_path / "pump.csv"), "--out", str(tmp_path / "models")], standalone_mode=False)
    folder = capsys.readouterr().out.strip()
    assert (Path(folder) / "weights.safetensors").is_file()
    monkeypatch.setenv("FORECASTER_NETWORK__CHECKPOINT", folder)
    output = tmp_path / "out.json"
    commands(["backtest", str(tmp_path / "pump.csv"), "--json", str(output)], standalone_mode=False)
    assert json.loads(output.read_text())["checkpoint"] == Path(folder).name
    assert "MASE" in capsys.readouterr().out
    monkeypatch.setenv("FORECASTER_FORECAST__HORIZON", "4")
    with pytest.raises(CheckpointError, match="HORIZON"):
        commands(["backtest", str(tmp_path / "pump.csv")], standalone_mode=False)
