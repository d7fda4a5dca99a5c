"""Retraining during a backtest: at regular intervals, on the readings that were known by then, as in service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import UsageError
from forecaster.history import SeriesHistory
from forecaster.learning.challenge import challenge
from forecaster.learning.data.training_data import TrainingData, build_training_data
from forecaster.learning.fitting.network_fit import TrainingConfig, TrainingProgress
from forecaster.learning.fitting.readout_refit import refit_readout
from forecaster.pipeline import PipelineConfig

MAX_PROMOTION = 0.3
"""Largest share of the time that the promotion split takes; it holds the readings since the last training."""
PROMOTED, REJECTED = "challengers promoted", "challengers refused"
NOT_TRAINED = "trainings without enough to learn from"
REFITTED, NOT_REFITTED = "readouts refreshed", "readouts kept"
"""Names of the results in the report of a backtest."""


@dataclass(frozen=True, slots=True)
class RetrainingIntervals:
    """Intervals of retraining, in ticks; 0 = never.

    Attributes:
        retrain_every: between two trainings of a challenger.
        refit_every: between two refits of the readout.
    """

    retrain_every: int = 0
    refit_every: int = 0


@dataclass(frozen=True, slots=True)
class RetrainingPoint:
    """A time of retraining.

    Attributes:
        position: position of the first reading in the history that is not known yet.
        time_ms: event time up to which readings are known.
        retrain: True to train a challenger.
        refit: True to refit the readout.
    """

    position: int
    time_ms: int
    retrain: bool
    refit: bool


@dataclass(frozen=True, slots=True)
class RetrainingPlan:
    """Configuration of the pipeline, the network, its training, and the intervals between trainings."""

    pipeline: PipelineConfig
    network: NetworkConfig
    training: TrainingConfig
    intervals: RetrainingIntervals


class SimulatedRetraining:
    """Retrains on a history at the times at which the training coordinator would have retrained.

    Args:
        plan: configuration of the trainings, and their intervals.
        history: all readings; a training sees only those before its point.
        begin: position of the reading from which the intervals count.

    Attributes:
        points: times of retraining, ascending.
        counts: number of trainings so far, by result.
    """

    def __init__(self, plan: RetrainingPlan, history: SeriesHistory, begin: int) -> None:
        self._plan = plan
        self._interval_ms = _interval_ms(plan, history, begin)
        self.points = _points(plan.intervals, history, begin, self._interval_ms)
        self.counts: Counter[str] = Counter()
        self._data: TrainingData | None = None
        if self.points:
            self._data = build_training_data(history, plan.pipeline.observation, local=plan.training.local)

    def retrain(
        self, point: RetrainingPoint, champion: Checkpoint | None, progress: Callable[[TrainingProgress], None]
    ) -> Checkpoint | None:
        """Return the checkpoint that serves from the point on: the champion, or a challenger that is better.

        Args:
            point: one of `points`.
            champion: checkpoint that serves; None = before any training.
            progress: called after every update of the weights.
        """
        if self._data is None:
            return champion
        known = self._data.before(point.time_ms)
        if point.retrain:
            champion = self._retrained(known, champion, progress)
        if point.refit and champion is not None:
            refitted = refit_readout(known, champion).checkpoint
            self.counts[REFITTED if refitted else NOT_REFITTED] += 1
            champion = refitted or champion
        return champion

    def _retrained(
        self, known: TrainingData, champion: Checkpoint | None, progress: Callable[[TrainingProgress], None]
    ) -> Checkpoint | None:
        plan = self._plan
        span_ms = max(1, int(known.history.timestamp_ms[-1]) - int(known.history.timestamp_ms[0]))
        new = plan.intervals.retrain_every * self._interval_ms / span_ms
        config = replace(plan.training, promotion=min(MAX_PROMOTION, new))
        try:
            result = challenge(known, plan.pipeline, plan.network, config, champion, progress)
        except UsageError:
            self.counts[NOT_TRAINED] += 1
            return champion
        self.counts[PROMOTED if result.decision.promote else REJECTED] += 1
        return result.challenger if result.decision.promote else champion


def _interval_ms(plan: RetrainingPlan, history: SeriesHistory, begin: int) -> int:
    """Return the length of a tick: as set, or the median spacing of the readings before the first point."""
    fixed = plan.pipeline.observation.interval_ms
    return fixed or history.first(begin).interval_ms() or history.interval_ms()


def _points(
    intervals: RetrainingIntervals, history: SeriesHistory, begin: int, interval_ms: int
) -> list[RetrainingPoint]:
    """Return the points at which an interval ends, after the reading at position `begin`."""
    stamps = history.timestamp_ms
    if begin >= len(history) or interval_ms == 0:
        return []
    ticks = int((stamps[-1] - stamps[begin]) // interval_ms)
    periods = (intervals.retrain_every, intervals.refit_every)
    due = sorted({tick for period in periods if period for tick in range(period, ticks + 1, period)})
    points = []
    for tick in due:
        time_ms = int(stamps[begin]) + tick * interval_ms
        position = int(np.searchsorted(stamps, time_ms, side="left"))
        retrain, refit = (bool(period) and tick % period == 0 for period in periods)
        points.append(RetrainingPoint(position, time_ms, retrain, refit))
    return points
