"""Backtests: metrics equal numbers worked by hand, and nothing looks ahead."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import HOUR_MS, START_MS, pipeline_config

from forecaster.cli.backtest import print_report
from forecaster.cli.commands import commands
from forecaster.core.metrics import in_interval, mase, mase_scale, pinball_loss
from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import CheckpointError, UsageError
from forecaster.evaluation.backtest import BacktestPlan, report_json, run_backtest
from forecaster.evaluation.prequential import BacktestMetrics, PrequentialEvaluator
from forecaster.evaluation.retraining import RetrainingIntervals
from forecaster.history import SeriesHistory
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.records import Outputs


def history(values: list[list[float]]) -> SeriesHistory:
    """Series by tick."""
    table = np.array(values, np.float64)
    series, ticks = table.shape
    return SeriesHistory(
        series_ids=[f"s{number}" for number in range(series)],
        series_index=np.tile(np.arange(series), ticks),
        timestamp_ms=START_MS + np.repeat(np.arange(ticks), series) * HOUR_MS,
        values=table.T.reshape(-1),
        record_of_reading=np.repeat(np.arange(ticks), series),
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


def run(values: list[list[float]], **changes: object) -> BacktestMetrics:
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


def test_the_seasonal_naive_forecast_knows_a_daily_pattern() -> None:
    report = run([[float(hour) for hour in range(24)] * 10])
    on_the_first_day = [23 * 1, 22 * 2, 21 * 3]  # there the last value stands in
    np.testing.assert_allclose(report.mae["seasonal naive"][0] * report.scored[0], on_the_first_day)
    assert (report.mae["last value"][0] > 1).all()


def test_a_trained_network_beats_the_last_value_on_a_pattern() -> None:
    report = run([daily(24), daily(24, 1)], train_share=0.5)
    assert report.checkpoint != "none"
    assert (report.mae["forecast"][:, 2] < 0.7 * report.mae["last value"][:, 2]).all()
    assert (np.abs(report.coverage - 0.8) < 0.15).all()


def test_a_network_does_not_forecast_its_training_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forecasts of that part would be too good, and the ensemble would trust it too much."""
    makers: dict[bool, set[str]] = {False: set(), True: set()}
    add = PrequentialEvaluator.add

    def noted(self: PrequentialEvaluator, first: int, outputs: Outputs) -> None:
        makers[first >= 480].update(outputs.forecasts.checkpoint)
        add(self, first, outputs)

    monkeypatch.setattr(PrequentialEvaluator, "add", noted)
    report = run([daily(20), daily(20, 1)], train_share=0.5)
    assert makers == {False: {"none"}, True: {report.checkpoint}}


def test_later_readings_do_not_change_earlier_scores() -> None:
    short = run([daily(10)[:200]])
    longer = history([[*daily(10)[:200], *[1e6] * 3]])
    cut = run_backtest(longer.first(200), plan(), lambda: nullcontext(lambda _: None)).report
    np.testing.assert_array_equal(short.mae["forecast"], cut.mae["forecast"])


def shifting(hours: int) -> list[float]:
    """A daily pattern that changes its period half-way."""
    time = np.arange(hours)
    period = np.where(time < hours // 2, 24, 9)
    noise = np.random.default_rng(3).normal(0, 0.2, hours)
    return (10 + 5 * np.sin(2 * np.pi * time / period) + noise).tolist()


RETRAINING = {"train_share": 0.3, "intervals": RetrainingIntervals(retrain_every=96, refit_every=48)}


def test_retraining_helps_after_a_change() -> None:
    values = [shifting(700), shifting(700)[::-1]]
    intervals = RetrainingIntervals(retrain_every=160, refit_every=48)
    frozen, retrained = run(values, train_share=0.3), run(values, train_share=0.3, intervals=intervals)
    assert retrained.mae["forecast"].mean() < 0.8 * frozen.mae["forecast"].mean()
    np.testing.assert_array_equal(retrained.scored, frozen.scored)
    assert retrained.retrainings["readouts refreshed"] >= 1
    assert sum(count for name, count in retrained.retrainings.items() if "challengers" in name) == 490 // 160
    assert frozen.retrainings == {}


def forecasts_of(readings: SeriesHistory, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Points of all forecasts of a backtest with retraining, in the order of the readings."""
    made: list[np.ndarray] = []
    add = PrequentialEvaluator.add

    def recording(self: PrequentialEvaluator, first: int, outputs: Outputs) -> None:
        made.append(outputs.forecasts.point)
        add(self, first, outputs)

    monkeypatch.setattr(PrequentialEvaluator, "add", recording)
    report = run_backtest(readings, plan(**RETRAINING), lambda: nullcontext(lambda _: None)).report
    monkeypatch.setattr(PrequentialEvaluator, "add", add)
    assert report.retrainings["challengers promoted"] >= 1
    return np.concatenate(made)


def test_retraining_does_not_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = history([shifting(330), shifting(330)[::-1]])
    cut = 2 * 250
    values = np.where(np.arange(len(readings)) < cut, readings.values, readings.values * 5.0)
    changed = replace(readings, values=values)
    before, after = forecasts_of(readings, monkeypatch), forecasts_of(changed, monkeypatch)
    np.testing.assert_array_equal(before[:cut], after[:cut])
    assert not np.array_equal(before[cut:], after[cut:])


def test_retraining_starts_without_a_checkpoint() -> None:
    """The waves have a period of 17 hours, which no simple expert knows."""
    waves = 10 + 5 * np.sin(2 * np.pi * np.arange(360) / 17) + np.random.default_rng(0).normal(0, 0.2, 360)
    report = run([waves.tolist()], intervals=RetrainingIntervals(retrain_every=120))
    assert report.checkpoint != "none"
    assert report.mae["forecast"].mean() < report.mae["last value"].mean()


def test_missing_truths_are_not_scored() -> None:
    values = daily(5)
    values[50] = np.nan
    report = run([values])
    assert report.scored[0, 0] == len(values) - 1 - 1


def test_the_json_report_has_null_for_nan() -> None:
    report = json.loads(report_json(run([[5.0] * 30])))
    assert report["series"]["s0"]["mase"]["last value"] == [None] * 3
    assert report["outcomes"] == {"forecast": 30}


def printed(report: BacktestMetrics, capsys: pytest.CaptureFixture[str], *, wide: bool) -> dict[str, list[str]]:
    """Returns the cells of each row of the tables, by its first one; titles are rows, too."""
    print_report(report, wide=wide)
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:1] in ("│", "┃")]
    rows = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]
    return {first: rest for first, *rest in rows}


def test_the_narrow_table_has_five_columns(capsys: pytest.CaptureFixture[str]) -> None:
    report = run([daily(20), [5.0] * 480])
    rows = printed(report, capsys, wide=False)
    assert rows["series"] == rows["horizon"] == ["MAE", "MASE", "against last value", "interval coverage"]
    mase, last = report.mase["forecast"][0].mean(), report.mase["last value"][0].mean()
    share = 100 * (mase / last - 1)
    assert rows["s0"] == [
        f"{report.mae['forecast'][0].mean():.4g}",
        f"{mase:.4g}",
        f"{share:+.1f} %",
        f"{100 * report.coverage[0].mean():.1f} %",
    ]
    assert share < -10
    assert rows["s1"][:3] == ["0", "–", "–"], "a series that never moves has no step to compare with"
    assert {"1", "2", "3", "all"} <= rows.keys()


def test_the_wide_table_begins_with_the_narrow_one(capsys: pytest.CaptureFixture[str]) -> None:
    report = run([daily(20)])
    narrow, wide = (printed(report, capsys, wide=wide) for wide in (False, True))
    assert all(wide[name][: len(cells)] == cells for name, cells in narrow.items())
    rest = dict(zip(wide["series"], wide["s0"], strict=True))
    assert rest["scored"] == f"{int(report.scored[0].sum()):,}"
    assert rest["MSE(z) of seasonal naive"] == f"{report.mse['seasonal naive'][0].mean():.4g}"
    assert rest["pinball loss"] == f"{report.pinball[0].mean():.4g}"


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
    assert in_interval(np.array([1.0, 5.0]), np.array([1.0, 1.0]), np.array([4.0, 4.0])).tolist() == [True, False]
    assert mase_scale(np.array([1.0, 3.0, np.nan, 5.0, 4.0])) == 1.5
    assert np.isnan(mase_scale(np.array([2.0, 2.0])))
    assert mase(np.array([3.0, -3.0, np.nan]), np.array([0.0, 2.0])) == 1.5


def test_train_and_backtest_work_from_the_command_line(
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
    assert "pinball" not in capsys.readouterr().out
    commands(["backtest", str(tmp_path / "pump.csv"), "--wide"], standalone_mode=False)
    assert "pinball" in capsys.readouterr().out
    monkeypatch.setenv("FORECASTER_FORECAST__HORIZON", "4")
    with pytest.raises(CheckpointError, match="HORIZON"):
        commands(["backtest", str(tmp_path / "pump.csv")], standalone_mode=False)
