"""The page of a backtest has every part, loads nothing, and shows the metrics."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from builders import HOUR_MS, LEVELS, START_MS, pipeline_config

from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.network import NetworkConfig
from forecaster.evaluation.backtest import BacktestPlan, BacktestResult, run_backtest
from forecaster.evaluation.report import html_report
from forecaster.history import SeriesHistory
from forecaster.learning.fitting.network_fit import TrainingConfig

SERIES = ["boiler <1>", "pump", "valve", "fan", "well"]


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    dice, hours = np.random.default_rng(0), 24 * 30
    time = np.arange(hours)[:, None] + np.arange(len(SERIES))
    values = 10.0 + 5.0 * np.sin(2 * np.pi * time / 24) + dice.normal(0, 0.3, time.shape)
    values[dice.random(values.shape) < 0.02] = np.nan
    history = SeriesHistory(
        series_ids=SERIES,
        series_index=np.tile(np.arange(len(SERIES)), hours),
        timestamp_ms=START_MS + np.repeat(np.arange(hours), len(SERIES)) * HOUR_MS,
        values=values.reshape(-1),
        record_of_reading=np.arange(values.size),
    )
    pipeline = pipeline_config(horizon=6, context=30)
    features = FeatureConfig(pipeline.observation.context)
    network = NetworkConfig(pipeline.horizons, LEVELS, hidden_size=16, features=features)
    plan = BacktestPlan(pipeline, network, TrainingConfig(passes=2), train_share=0.3)
    return run_backtest(history, plan, lambda: nullcontext(lambda _: None))


class Page(HTMLParser):
    """Headings, cells of tables, and what the page would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.loads: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._in in ("h1", "h2"):
            self.headings.append(data)
        elif self._in == "td":
            self.cells.append(data)
        self._in = ""


def charts(text: str) -> list[list[dict[str, Any]]]:
    """The traces of each chart."""
    begins = [match.end() for match in re.finditer(r'Plotly.newPlot[(]\s*"[^"]+",\s*', text)]
    return [json.JSONDecoder().raw_decode(text[begin:])[0] for begin in begins]


def test_the_page_has_every_part_and_loads_nothing(result: BacktestResult) -> None:
    text = html_report(result.report, result.trace, LEVELS)
    page = Page(text)
    assert page.headings == [
        "Backtest of 5 series",
        "Summary",
        "Forecasts and truths",
        "Error by horizon",
        "Intervals",
        "Weights of the experts",
    ]
    assert page.loads == []
    assert "boiler <1>" in page.cells
    assert "<1>" not in text.split("</script>", 1)[1].replace("&lt;1&gt;", ""), "names are text, not markup"
    assert len(text) < 8_000_000


def test_the_charts_show_the_metrics(result: BacktestResult) -> None:
    figures = charts(html_report(result.report, result.trace, LEVELS))
    assert len(figures) == 4 + 3, "four series, then errors, intervals and weights"
    for fan in figures[:4]:
        assert [trace["name"] for trace in fan][:3] == ["truth", "0.1 to 0.9", "forecast"]
        truth = dict(zip(fan[0]["x"], fan[0]["y"], strict=True))
        points = [trace for trace in fan if trace["name"] == "forecast"]
        assert len(points) == 3
        errors = [
            abs(y - truth[x]) for trace in points for x, y in zip(trace["x"], trace["y"], strict=True) if truth[x]
        ]
        assert np.mean(errors) < 1.5
    errors, intervals, weights = figures[4:]
    np.testing.assert_allclose(errors[0]["y"], np.nanmean(result.report.mase["forecast"], axis=0), rtol=1e-4)
    np.testing.assert_allclose([trace["y"] for trace in intervals], result.report.below, rtol=1e-4)
    np.testing.assert_allclose(np.sum([trace["y"] for trace in weights[:-1]], axis=0), 1.0, atol=1e-3)


def test_weights_and_fans_are_from_the_evaluation_only(result: BacktestResult) -> None:
    begin = START_MS + 0.3 * 24 * 30 * HOUR_MS
    assert result.trace.weights().time_ms[0] > begin - HOUR_MS
    for shown in result.trace.series():
        assert all(fan.made_ms >= begin - HOUR_MS for fan in shown.fans)
        assert all(fan.target_ms[-1] <= shown.timestamp_ms[-1] for fan in shown.fans)
