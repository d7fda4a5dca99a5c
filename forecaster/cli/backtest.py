"""`forecaster backtest`: the serving pipeline over files, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import typer
from rich.table import Table

from forecaster.app.configs import network_config, pipeline_config, training_config
from forecaster.app.threads import use_one_torch_thread
from forecaster.cli.options import Files, TimeColumn, column_names, settings_without_broker
from forecaster.cli.terminal import console, training_progress
from forecaster.evaluation.backtest import BacktestPlan, report_json, run_backtest
from forecaster.evaluation.prequential import COMPARED_FORECASTS, BacktestMetrics, mean_of_known
from forecaster.evaluation.retraining import RetrainingIntervals
from forecaster.formats.files import read_files
from forecaster.records import F64

WIDE_COLUMNS = 160
"""Width of the wide tables; a narrower terminal wraps their lines."""
HORIZON_ROWS = 4
NARROW_COLUMNS = 4
"""Number of columns without --wide, not counting the one that names the row."""
Cells: TypeAlias = tuple[slice | int, slice | int]
"""Series and horizons over which a number is a mean."""


def backtest(  # noqa: PLR0913 - the options of the command
    files: Files,
    *,
    time: TimeColumn = "",
    train: Annotated[float, typer.Option(min=0, max=0.95, help="Train on this share of the time first.")] = 0.0,
    retrain_every: Annotated[int, typer.Option(min=0, help="Ticks between trainings of a challenger; 0 = none.")] = 0,
    refit_every: Annotated[
        int, typer.Option("--resolve-every", min=0, help="Ticks between refits of the readout; 0 = none.")
    ] = 0,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns of the tables.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the metrics to this file, too.")] = None,
    page: Annotated[Path | None, typer.Option("--report", help="Write a page with charts to this file, too.")] = None,
) -> None:
    """Run the serving pipeline over files and compare its errors with those of simple forecasts."""
    settings = settings_without_broker()
    use_one_torch_thread()
    plan = BacktestPlan(
        pipeline=pipeline_config(settings),
        network=network_config(settings),
        training=training_config(settings),
        train_share=train,
        checkpoint=Path(settings.network.checkpoint) if settings.network.checkpoint else None,
        intervals=RetrainingIntervals(retrain_every, refit_every),
    )
    result = run_backtest(read_files(files, column_names(time)), plan, training_progress)
    print_report(result.report, wide=wide)
    if json is not None:
        json.write_bytes(report_json(result.report))
    if page is not None:
        from forecaster.evaluation.report import html_report  # plotly is large, and needed only here

        page.write_text(html_report(result.report, result.trace, plan.pipeline.quantile_levels), encoding="utf-8")


def print_report(report: BacktestMetrics, *, wide: bool = False) -> None:
    """Print the metrics by horizon and by series.

    Args:
        report: the metrics.
        wide: print all columns, not only the first `NARROW_COLUMNS`.
    """
    terminal = console(WIDE_COLUMNS if wide else 0)
    columns = _columns(report)[: None if wide else NARROW_COLUMNS]
    by_horizon = [(str(report.horizons[column]), (slice(None), column)) for column in _shown_horizons(report)]
    by_series = [(name, (row, slice(None))) for row, name in enumerate(report.series_ids)]
    terminal.print(_table("horizon", by_horizon, columns))
    terminal.print(_table("series", [*by_series, ("all", (slice(None), slice(None)))], columns))
    if not wide:
        terminal.print(
            "MASE: error over the mean step of the series; 'against last value' below 0 % means better than the last "
            "value; --wide shows more columns"
        )
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(report.outcomes.items()))
    terminal.print(f"checkpoint {report.checkpoint}; readings: {outcomes}")
    if report.retrainings:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(report.retrainings.items()))
        terminal.print(f"retraining: {counts}")


def _shown_horizons(report: BacktestMetrics) -> list[int]:
    """Return the positions of the horizons to print: the first, the last, and some between."""
    count = len(report.horizons)
    return sorted({round(share * (count - 1) / (HORIZON_ROWS - 1)) for share in range(HORIZON_ROWS)})


def _columns(report: BacktestMetrics) -> list[tuple[str, Callable[[Cells], str]]]:
    """Return the title of each column and its text for some cells of the metrics; the most important ones first."""

    def mean(values: F64) -> Callable[[Cells], str]:
        return lambda cells: _number(mean_of_known(values[cells]), ".4g")

    def against_last(cells: Cells) -> str:
        forecast = mean_of_known(report.mase["forecast"][cells])
        last = mean_of_known(report.mase["last value"][cells])
        return _number(100.0 * (forecast / last - 1.0) if last > 0 else np.nan, "+.1f", " %")

    return [
        ("MAE", mean(report.mae["forecast"])),
        ("MASE", mean(report.mase["forecast"])),
        ("against last value", against_last),
        ("interval coverage", lambda cells: _number(100.0 * mean_of_known(report.coverage[cells]), ".1f", " %")),
        ("scored", lambda cells: f"{int(report.scored[cells].sum()):,}"),
        *((f"MASE of {kind}", mean(report.mase[kind])) for kind in COMPARED_FORECASTS[1:]),
        ("MSE(z)", mean(report.mse["forecast"])),
        *((f"MSE(z) of {kind}", mean(report.mse[kind])) for kind in COMPARED_FORECASTS[1:]),
        ("pinball loss", mean(report.pinball)),
    ]


def _table(
    title: str, rows: Sequence[tuple[str, Cells]], columns: Sequence[tuple[str, Callable[[Cells], str]]]
) -> Table:
    table = Table(title)
    for name, _ in columns:
        table.add_column(name, justify="right")
    for name, cells in rows:
        table.add_row(name, *(text(cells) for _, text in columns))
    return table


def _number(value: float, form: str, unit: str = "") -> str:
    """Return a number as text; a dash for NaN."""
    return "–" if np.isnan(value) else f"{value:{form}}{unit}"
