"""`forecaster backtest`: the serving pipeline itself over files, without a broker, one reading after the other.

The readings before the evaluation train the network (where asked for) and warm the series up, as in service: what was
trained on them does not forecast them, for it would be trusted too much. Then every forecast is scored when its truth
comes. Where asked for, the trainer works on the way, as in service: a challenger is trained on all that was seen so far
and promoted by the rule, the readout is solved again and changed where that is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import orjson
from rich.table import Table

from forecaster.checkpoints import read_checkpoint, refuse_other_shape
from forecaster.chronicle import Chronicle
from forecaster.core.model import Checkpoint
from forecaster.core.network import NetworkConfig
from forecaster.errors import UsageError
from forecaster.evaluation import NAMES, Evaluator, Report
from forecaster.files import History
from forecaster.learning.rehearsal import Cadence, Course, Rehearsal
from forecaster.learning.replay import Replay
from forecaster.learning.trainer import Progress, TrainingConfig
from forecaster.learning.training_job import train_checkpoint
from forecaster.records import Floats, Outcome
from forecaster.serving.pipeline import PipelineConfig
from forecaster.terminal import console

REPORT_WIDTH = 160
SHOWN_HORIZONS = 4
NARROW_COLUMNS = 4
"""Columns that are shown unless all are asked for, besides the one that names the row."""

Cells: TypeAlias = tuple[slice | int, slice | int]
"""Series and horizons that a number is the mean of."""
ShowProgress = Callable[[], AbstractContextManager[Callable[[Progress], None]]]


@dataclass(frozen=True, slots=True)
class BacktestPlan:
    """What is evaluated.

    Attributes:
        pipeline: what is forecast, from what.
        network: what a network trained here looks like.
        training: how it is trained.
        train_share: share of the time, at its beginning, that is trained on and not scored.
        checkpoint: folder of a checkpoint that forecasts instead; None with train_share 0 = before any training.
        cadence: how often the trainer works after that.
    """

    pipeline: PipelineConfig
    network: NetworkConfig
    training: TrainingConfig
    train_share: float = 0.0
    checkpoint: Path | None = None
    cadence: Cadence = field(default_factory=Cadence)


@dataclass(frozen=True, slots=True)
class Backtested:
    """What came of a backtest: the metrics, and what a report shows beside them."""

    report: Report
    chronicle: Chronicle


def run_backtest(history: History, plan: BacktestPlan, show: ShowProgress) -> Backtested:
    """Returns what the forecasts were worth.

    Raises:
        UsageError: there is nothing to evaluate.
        CheckpointError: the checkpoint does not fit the plan.
    """
    begin = history.until(plan.train_share)
    if begin >= len(history):
        raise UsageError("no readings to evaluate: the files hold none after the training part")
    champion = _champion(history, plan, begin, show)
    evaluator = Evaluator(
        history, plan.pipeline.horizons, plan.pipeline.quantile_levels, begin, plan.pipeline.observation.interval_ms
    )
    rehearsal = Rehearsal(Course(plan.pipeline, plan.network, plan.training, plan.cadence), history, begin)
    chronicle = Chronicle(history, begin, plan.pipeline.outlook.experts)
    replay = Replay(replace(plan.pipeline, tells=True), history, champion, begin if plan.checkpoint is None else 0)
    outcomes: Counter[str] = Counter()
    for moment in [*rehearsal.moments, None]:
        for first, outputs in replay.until(moment.position if moment else len(history)):
            outcomes.update(Outcome(outcome).name.lower() for outcome in outputs.outcomes.tolist())
            evaluator.add(first, outputs)
            chronicle.add(first, outputs)
        if moment is not None:
            with show() as progress:
                better = rehearsal.learn(moment, champion, progress)
            if better is not None and better is not champion:
                replay.swap(better)
            champion = better
    return Backtested(evaluator.report(dict(outcomes), replay.checkpoint, dict(rehearsal.counts)), chronicle)


def print_report(report: Report, *, wide: bool = False) -> None:
    """Print the metrics by horizon and by series.

    Args:
        report: the metrics.
        wide: all columns; else the first NARROW_COLUMNS.
    """
    to = console(REPORT_WIDTH if wide else 0)
    columns = _columns(report)[: None if wide else NARROW_COLUMNS]
    by_horizon = [(str(report.horizons[j]), (slice(None), j)) for j in _shown(report)]
    by_series = [(name, (row, slice(None))) for row, name in enumerate(report.series_ids)]
    to.print(_table("horizon", by_horizon, columns))
    to.print(_table("series", [*by_series, ("all", (slice(None), slice(None)))], columns))
    if not wide:
        to.print(
            "MASE: error over the mean step of the series; against last value: negative is better; --wide: all columns"
        )
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(report.outcomes.items()))
    to.print(f"checkpoint {report.checkpoint}; readings: {outcomes}")
    if report.learned:
        to.print("learned: " + ", ".join(f"{count} {name}" for name, count in sorted(report.learned.items())))


def report_json(report: Report) -> bytes:
    """Returns every metric of every series and horizon, NaN as null."""
    series = {
        name: {
            "scored": report.scored[row].tolist(),
            "mae": {kind: values[row].tolist() for kind, values in report.mae.items()},
            "mse_z": {kind: values[row].tolist() for kind, values in report.mse.items()},
            "mase": {kind: values[row].tolist() for kind, values in report.mase.items()},
            "pinball_loss": report.pinball[row].tolist(),
            "interval_coverage": report.coverage[row].tolist(),
        }
        for row, name in enumerate(report.series_ids)
    }
    whole = {
        "checkpoint": report.checkpoint,
        "horizons": report.horizons,
        "outcomes": report.outcomes,
        "learned": report.learned,
        "series": series,
    }
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2)


def _champion(history: History, plan: BacktestPlan, begin: int, show: ShowProgress) -> Checkpoint | None:
    if plan.checkpoint is not None:
        checkpoint = read_checkpoint(plan.checkpoint)
        refuse_other_shape(checkpoint, plan.network, str(plan.checkpoint))
        return checkpoint
    if begin == 0:
        return None
    with show() as progress:
        part = history.first(begin)
        return train_checkpoint(part, plan.pipeline.observation, plan.network, plan.training, progress)


def _shown(report: Report) -> list[int]:
    """Returns the positions of the horizons that are printed: the first, the last and some between."""
    count = len(report.horizons)
    return sorted({round(share * (count - 1) / (SHOWN_HORIZONS - 1)) for share in range(SHOWN_HORIZONS)})


def _columns(report: Report) -> list[tuple[str, Callable[[Cells], str]]]:
    """Return the title of each column and what it says of a part of the metrics, the most wanted ones first."""

    def mean(values: Floats) -> Callable[[Cells], str]:
        return lambda cells: _number(_mean(values[cells]), ".4g")

    def against_last(cells: Cells) -> str:
        forecast, last = _mean(report.mase["forecast"][cells]), _mean(report.mase["last value"][cells])
        return _number(100.0 * (forecast / last - 1.0) if last > 0 else np.nan, "+.1f", " %")

    return [
        ("MAE", mean(report.mae["forecast"])),
        ("MASE", mean(report.mase["forecast"])),
        ("against last value", against_last),
        ("interval coverage", lambda cells: _number(100.0 * _mean(report.coverage[cells]), ".1f", " %")),
        ("scored", lambda cells: f"{int(report.scored[cells].sum()):,}"),
        *((f"MASE of {kind}", mean(report.mase[kind])) for kind in NAMES[1:]),
        ("MSE(z)", mean(report.mse["forecast"])),
        *((f"MSE(z) of {kind}", mean(report.mse[kind])) for kind in NAMES[1:]),
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
    """Return a number as text; a dash where there is none."""
    return "–" if np.isnan(value) else f"{value:{form}}{unit}"


def _mean(values: Floats) -> float:
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
