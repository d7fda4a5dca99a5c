"""A backtest: the serving pipeline over files, without a broker, in order of time.

The readings before the evaluation train the network, if asked for, and warm the series up. A network does not forecast
the readings that it was trained on, because the ensemble would trust it too much. During the evaluation, every
forecast is scored when its truth comes. If asked for, challengers are trained and readouts refitted on the way, from
the readings known by then, and serve if they are better, as in service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import UsageError
from forecaster.evaluation.prequential import BacktestMetrics, PrequentialEvaluator
from forecaster.evaluation.retraining import RetrainingIntervals, RetrainingPlan, SimulatedRetraining
from forecaster.evaluation.trace import ForecastTrace
from forecaster.formats.checkpoints import read_checkpoint, refuse_other_network
from forecaster.history import SeriesHistory
from forecaster.learning.fitting.network_fit import TrainingConfig, TrainingProgress
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.learning.simulation import ServingSimulation
from forecaster.pipeline import PipelineConfig
from forecaster.records import Outcome

ShowProgress = Callable[[], AbstractContextManager[Callable[[TrainingProgress], None]]]
"""Opens a display of a training's progress; the context manager yields the function that updates it."""


@dataclass(frozen=True, slots=True)
class BacktestPlan:
    """Configuration of a backtest.

    Attributes:
        pipeline: how readings become forecasts.
        network: the network to train.
        training: how it is trained.
        train_share: share of the time, from the start, that is trained on and not scored.
        checkpoint: folder of a checkpoint that serves instead; None and a train_share of 0 = no network.
        intervals: how often retraining follows.
    """

    pipeline: PipelineConfig
    network: NetworkConfig
    training: TrainingConfig
    train_share: float = 0.0
    checkpoint: Path | None = None
    intervals: RetrainingIntervals = field(default_factory=RetrainingIntervals)


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """Metrics of a backtest, and its course for the report."""

    report: BacktestMetrics
    trace: ForecastTrace


def run_backtest(history: SeriesHistory, plan: BacktestPlan, show: ShowProgress) -> BacktestResult:
    """Return the metrics of the forecasts that the pipeline makes of a history.

    Args:
        history: all readings.
        plan: configuration of the backtest.
        show: displays the progress of trainings.

    Raises:
        UsageError: there is nothing to evaluate.
        CheckpointError: the checkpoint does not fit the plan.
    """
    begin = history.count_in_share(plan.train_share)
    if begin >= len(history):
        raise UsageError("no readings to evaluate: the files hold none after the training part")
    champion = _champion(history, plan, begin, show)
    evaluator = PrequentialEvaluator(
        history, plan.pipeline.horizons, plan.pipeline.quantile_levels, begin, plan.pipeline.observation.interval_ms
    )
    retraining = SimulatedRetraining(
        RetrainingPlan(plan.pipeline, plan.network, plan.training, plan.intervals), history, begin
    )
    trace = ForecastTrace(history, begin, plan.pipeline.ensemble.experts)
    simulation = ServingSimulation(
        replace(plan.pipeline, with_details=True), history, champion, begin if plan.checkpoint is None else 0
    )
    outcomes: Counter[str] = Counter()
    for point in [*retraining.points, None]:
        for first, outputs in simulation.until(point.position if point else len(history)):
            outcomes.update(Outcome(outcome).name.lower() for outcome in outputs.outcomes.tolist())
            evaluator.add(first, outputs)
            trace.add(first, outputs)
        if point is not None:
            with show() as progress:
                better = retraining.retrain(point, champion, progress)
            if better is not None and better is not champion:
                simulation.swap(better)
            champion = better
    report = evaluator.report(dict(outcomes), simulation.checkpoint, dict(retraining.counts))
    return BacktestResult(report, trace)


def report_json(report: BacktestMetrics) -> bytes:
    """Return all metrics of all series and horizons as JSON; null = NaN."""
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
    fields = {
        "checkpoint": report.checkpoint,
        "horizons": report.horizons,
        "outcomes": report.outcomes,
        "learned": report.retrainings,
        "series": series,
    }
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2)


def _champion(history: SeriesHistory, plan: BacktestPlan, begin: int, show: ShowProgress) -> Checkpoint | None:
    """Return the checkpoint that serves first: the one of the plan, a newly trained one, or none."""
    if plan.checkpoint is not None:
        checkpoint = read_checkpoint(plan.checkpoint)
        refuse_other_network(checkpoint.network, plan.network, str(plan.checkpoint))
        return checkpoint
    if begin == 0:
        return None
    with show() as progress:
        part = history.first(begin)
        return train_checkpoint(part, plan.pipeline.observation, plan.network, plan.training, progress)
