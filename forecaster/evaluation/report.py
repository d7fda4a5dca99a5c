"""The page of `forecaster backtest --report`: one HTML file with plotly's script in it, which loads nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from forecaster.evaluation.prequential import COMPARED_FORECASTS, BacktestMetrics, mean_of_known
from forecaster.evaluation.trace import ExpertWeights, ForecastTrace, TracedSeries
from forecaster.records import F64

INK, PALE, TRUTH = "#1f4e79", "rgba(31, 78, 121, 0.18)", "#222222"
COLOURS = {"forecast": INK, "last value": "#c0504d", "seasonal naive": "#7f9a48"}
MARGIN = {"l": 60, "r": 20, "t": 50, "b": 45}
STYLE = """
body { font-family: system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; } p { max-width: 46rem; line-height: 1.45; }
table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .25rem .7rem; text-align: right; }
th { border-bottom: 2px solid #1f4e79; } td:first-child, th:first-child { text-align: left; }
tr:nth-child(even) td { background: #f3f6f9; }
"""


def html_report(report: BacktestMetrics, trace: ForecastTrace, levels: Sequence[float]) -> str:
    """Return the page of a backtest.

    Args:
        report: the metrics.
        trace: forecasts and weights over time.
        levels: quantile levels, ascending.
    """
    parts = [
        ("Summary", _summary(report), [_table(report)]),
        ("Forecasts and truths", _fan_text(levels), [_div(_fan(series, levels)) for series in trace.series()]),
        ("Error by horizon", "MASE, mean over the series; lower is better.", [_div(_errors(report))]),
        ("Intervals", _interval_text(levels), [_div(_coverage(report, levels))]),
        ("Weights of the experts", _weights_text(), [_div(_weights(trace.weights()))]),
    ]
    body = "".join(f"<h2>{title}</h2><p>{text}</p>{''.join(blocks)}" for title, text, blocks in parts)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>forecaster: backtest</title>'
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body><h1>Backtest of {len(report.series_ids)} series</h1>{body}</body></html>"
    )


def _summary(report: BacktestMetrics) -> str:
    mase = {name: mean_of_known(report.mase[name]) for name in COMPARED_FORECASTS}
    retrainings = ", ".join(f"{count} {name}" for name, count in sorted(report.retrainings.items())) or "none"
    return (
        f"{int(report.scored.sum()):,} truths met a forecast. MASE {mase['forecast']:.3f} (last value "
        f"{mase['last value']:.3f}, seasonal naive {mase['seasonal naive']:.3f}); the outermost quantiles held "
        f"{100 * mean_of_known(report.coverage):.1f} % of the truths. Checkpoint at the end: "
        f"{html.escape(report.checkpoint)}; retraining: {html.escape(retrainings)}."
    )


def _table(report: BacktestMetrics) -> str:
    head = "<tr><th>series</th><th>scored</th>" + "".join(f"<th>MASE, {name}</th>" for name in COMPARED_FORECASTS)
    rows = []
    for row, name in enumerate(report.series_ids[:50]):
        mase = (mean_of_known(report.mase[kind][row]) for kind in COMPARED_FORECASTS)
        cells = [f"{int(report.scored[row].sum()):,}", *(f"{value:.3f}" for value in mase)]
        cells += [f"{mean_of_known(report.pinball[row]):.4g}", f"{100 * mean_of_known(report.coverage[row]):.1f} %"]
        rows.append(f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    more = len(report.series_ids) - len(rows)
    rest = f"<p>{more:,} more series are in the JSON file (--json).</p>" if more > 0 else ""
    return f"<table>{head}<th>pinball loss</th><th>in the interval</th></tr>{''.join(rows)}</table>{rest}"


def _fan(series: TracedSeries, levels: Sequence[float]) -> go.Figure:
    """Return a chart of the series, with a fan for each forecast."""
    figure = go.Figure()
    figure.add_scatter(
        x=_times(series.timestamp_ms), y=_plain(series.values), name="truth", line={"color": TRUTH, "width": 1.4}
    )
    for number, fan in enumerate(series.fans):
        x, first = _times(fan.target_ms), number == 0
        for low in range(len(levels) // 2):
            band = f"{levels[low]:g} to {levels[-1 - low]:g}"
            lower, upper = _plain(fan.quantiles[low]), _plain(fan.quantiles[len(levels) - 1 - low])
            figure.add_scatter(
                x=x + x[::-1],
                y=upper + lower[::-1],
                fill="toself",
                fillcolor=PALE,
                line={"width": 0},
                name=band,
                legendgroup=band,
                showlegend=first,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=x,
            y=_plain(fan.point),
            name="forecast",
            line={"color": INK, "width": 2},
            legendgroup="f",
            showlegend=first,
        )
        figure.add_vline(x=_times([fan.made_ms])[0], line={"color": "#999", "dash": "dot", "width": 1})
    return _laid_out(figure, html.escape(series.series_id), "")


def _errors(report: BacktestMetrics) -> go.Figure:
    figure = go.Figure()
    for name in COMPARED_FORECASTS:
        values = [mean_of_known(report.mase[name][:, column]) for column in range(len(report.horizons))]
        figure.add_scatter(x=list(report.horizons), y=_plain(values), name=name, line={"color": COLOURS[name]})
    return _laid_out(figure, "MASE", "horizon, ticks")


def _coverage(report: BacktestMetrics, levels: Sequence[float]) -> go.Figure:
    figure = go.Figure()
    shades = np.linspace(0.35, 1.0, len(levels))
    for level, shade, shares in zip(levels, shades, report.below, strict=True):
        colour = f"rgba(31, 78, 121, {shade:.2f})"
        figure.add_scatter(x=list(report.horizons), y=_plain(shares), name=f"below {level:g}", line={"color": colour})
        figure.add_hline(y=level, line={"color": colour, "dash": "dot", "width": 1})
    figure.update_yaxes(range=[0, 1])
    return _laid_out(figure, "Share of truths below each quantile", "horizon, ticks")


def _weights(weights: ExpertWeights) -> go.Figure:
    figure = go.Figure()
    times = _times(weights.time_ms)
    for number, name in enumerate(weights.names[:-1]):
        figure.add_scatter(
            x=times, y=_plain(weights.values[:, number]), name=name, stackgroup="experts", line={"width": 0.5}
        )
    gate = _plain(weights.values[:, -1])
    figure.add_scatter(x=times, y=gate, name="gate", line={"color": TRUTH, "dash": "dash", "width": 1.5})
    figure.update_yaxes(range=[0, 1.02])
    return _laid_out(figure, "Mean over series and horizons", "")


def _laid_out(figure: go.Figure, title: str, x: str) -> go.Figure:
    figure.update_layout(
        title=title, template="plotly_white", height=380, margin=MARGIN, xaxis_title=x, hovermode="x unified"
    )
    return figure


def _div(figure: go.Figure) -> str:
    text: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    return text


def _fan_text(levels: Sequence[float]) -> str:
    names = ", ".join(f"{level:g}" for level in levels)
    return (
        f"The last forecasts of some series: the point, and the quantiles {names}. A dotted line marks the time at "
        "which a forecast was made."
    )


def _interval_text(levels: Sequence[float]) -> str:
    first = f"{levels[0]:g}"
    return f"A share of {first} of the truths should lie below quantile {first}, and so on: near the dotted lines."


def _weights_text() -> str:
    return (
        "The point forecast is a mix of experts: heads of the network, and simple forecasts. The weights follow their "
        "errors. The gate says how far the point moves from the last value to the mix."
    )


def _times(stamps_ms: Sequence[int] | np.ndarray) -> list[str]:
    return [datetime.fromtimestamp(int(stamp) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") for stamp in stamps_ms]


def _plain(values: Sequence[float] | F64) -> list[float | None]:
    """Return the values with six digits, to keep the page small; None = NaN, a gap in the chart."""
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in np.asarray(values, np.float64).tolist()]
