"""`forecaster backtest`: the serving pipeline over files, without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forecaster.app.configs import network_config, pipeline_config, training_config
from forecaster.app.daemon import use_one_torch_thread
from forecaster.cli.options import Files, TimeColumn, column_names, settings_without_broker
from forecaster.cli.terminal import training_progress
from forecaster.evaluation.backtest import BacktestPlan, print_report, report_json, run_backtest
from forecaster.evaluation.retraining import RetrainingIntervals
from forecaster.formats.files import read_files


def backtest(  # noqa: PLR0913 - the options of the command
    files: Files,
    *,
    time: TimeColumn = "",
    train: Annotated[float, typer.Option(min=0, max=0.95, help="Train on this share of the time first.")] = 0.0,
    retrain_every: Annotated[int, typer.Option(min=0, help="Ticks between trainings of a challenger; 0 = none.")] = 0,
    resolve_every: Annotated[int, typer.Option(min=0, help="Ticks between solutions of the readout; 0 = none.")] = 0,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns of the tables.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the metrics to this file, too.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with charts to this file, too.")] = None,
) -> None:
    """Evaluate the serving pipeline over files, each forecast when its truth comes, against simple forecasts."""
    settings = settings_without_broker()
    use_one_torch_thread()
    plan = BacktestPlan(
        pipeline=pipeline_config(settings),
        network=network_config(settings),
        training=training_config(settings),
        train_share=train,
        checkpoint=Path(settings.network.checkpoint) if settings.network.checkpoint else None,
        intervals=RetrainingIntervals(retrain_every, resolve_every),
    )
    result = run_backtest(read_files(files, column_names(time)), plan, training_progress)
    print_report(result.report, wide=wide)
    if json is not None:
        json.write_bytes(report_json(result.report))
    if report is not None:
        from forecaster.evaluation.report import html_report  # plotly is large, and needed only here

        report.write_text(html_report(result.report, result.trace, plan.pipeline.quantile_levels), encoding="utf-8")
