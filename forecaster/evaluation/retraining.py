"""The trainer's work over a history of the past: at each moment of its cadence, with what was known by then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import UsageError
from forecaster.formats.files import SeriesHistory
from forecaster.learning.fitting.challenge import challenge
from forecaster.learning.fitting.network_fit import Progress, TrainingConfig
from forecaster.learning.fitting.readout_refit import refresh
from forecaster.learning.fitting.train import TrainingData, build_training_data
from forecaster.pipeline import PipelineConfig

LARGEST_PROMOTION = 0.3
"""The promotion stretch is what is new since the last training, but never more than this share of the time."""


@dataclass(frozen=True, slots=True)
class RetrainingIntervals:
    """How often, in ticks; 0 = never.

    Attributes:
        retrain_every: a challenger is trained and judged.
        resolve_every: the readout is solved again.
    """

    retrain_every: int = 0
    resolve_every: int = 0


@dataclass(frozen=True, slots=True)
class RetrainingPoint:
    """When the trainer works: before the reading at `position`, whose stamp is the first one from `time_ms` on."""

    position: int
    time_ms: int
    retrain: bool
    resolve: bool


@dataclass(frozen=True, slots=True)
class RetrainingPlan:
    """What is learned, and how."""

    pipeline: PipelineConfig
    network: NetworkConfig
    training: TrainingConfig
    intervals: RetrainingIntervals


class SimulatedRetraining:
    """Learns from a history as the service would have.

    Args:
        course: what, and how.
        history: all of it; each moment sees what came before it alone.
        begin: the first moments come a period after the reading at this position.
    """

    def __init__(self, plan: RetrainingPlan, history: SeriesHistory, begin: int) -> None:
        self._plan = plan
        self._interval_ms = _interval_ms(plan, history, begin)
        self.points = _points(plan.intervals, history, begin, self._interval_ms)
        self.counts: Counter[str] = Counter()
        self._data: TrainingData | None = None
        if self.points:
            self._data = build_training_data(history, plan.pipeline.observation, local=plan.training.local)

    def learn(
        self, point: RetrainingPoint, champion: Checkpoint | None, progress: Callable[[Progress], None]
    ) -> Checkpoint | None:
        """Returns what is to serve from the moment on: the champion, or what has beaten it.

        Args:
            moment: one of `points`.
            champion: what serves; None = before any training.
            progress: is told after every update.
        """
        if self._data is None:
            return champion
        known = self._data.before(point.time_ms)
        if point.retrain:
            champion = self._retrained(known, champion, progress)
        if point.resolve and champion is not None:
            refreshed = refresh(known, champion)
            self.counts["readouts refreshed" if refreshed else "readouts kept"] += 1
            champion = refreshed.checkpoint if refreshed else champion
        return champion

    def _retrained(
        self, known: TrainingData, champion: Checkpoint | None, progress: Callable[[Progress], None]
    ) -> Checkpoint | None:
        plan = self._plan
        span_ms = max(1, int(known.history.timestamp_ms[-1]) - int(known.history.timestamp_ms[0]))
        new = plan.intervals.retrain_every * self._interval_ms / span_ms
        config = replace(plan.training, promotion=min(LARGEST_PROMOTION, new))
        try:
            result = challenge(known, plan.pipeline, plan.network, config, champion, progress)
        except UsageError:
            self.counts["trainings without enough to learn from"] += 1
            return champion
        self.counts["challengers promoted" if result.verdict.promote else "challengers refused"] += 1
        return result.challenger if result.verdict.promote else champion


def _interval_ms(plan: RetrainingPlan, history: SeriesHistory, begin: int) -> int:
    """Returns the length of a tick: as it is set, or the median spacing before the first moment."""
    fixed = plan.pipeline.observation.interval_ms
    return fixed or history.first(begin).interval_ms() or history.interval_ms()


def _points(
    intervals: RetrainingIntervals, history: SeriesHistory, begin: int, interval_ms: int
) -> list[RetrainingPoint]:
    stamps = history.timestamp_ms
    if begin >= len(history) or interval_ms == 0:
        return []
    ticks = int((stamps[-1] - stamps[begin]) // interval_ms)
    every = (intervals.retrain_every, intervals.resolve_every)
    due = sorted({tick for period in every if period for tick in range(period, ticks + 1, period)})
    points = []
    for tick in due:
        time_ms = int(stamps[begin]) + tick * interval_ms
        position = int(np.searchsorted(stamps, time_ms, side="left"))
        retrain, resolve = (bool(period) and tick % period == 0 for period in every)
        points.append(RetrainingPoint(position, time_ms, retrain, resolve))
    return points
