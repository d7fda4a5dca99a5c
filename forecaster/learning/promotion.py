"""Promotion: compare challenger and champion on held-out readings, and decide which one serves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.network.model import Checkpoint
from forecaster.core.scoring import last_value_forecasts, score
from forecaster.core.series.scaling import SCALE_HALF_LIFE
from forecaster.history import SeriesHistory
from forecaster.learning.simulation import ServingSimulation
from forecaster.pipeline import PipelineConfig
from forecaster.records import F64, Bools

MIN_SCORED = 200
"""Default number of scored forecasts below which no challenger is compared."""
MARGIN = 0.02
"""Default relative advantage that a challenger needs: with a smaller one, a swap is not worth its cost."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions of a promotion.

    Attributes:
        min_scored: least number of scored forecasts.
        margin: least relative advantage: the loss must be below (1 - margin) x the champion's.
    """

    min_scored: int = MIN_SCORED
    margin: float = MARGIN


@dataclass(frozen=True, slots=True)
class PromotionDecision:
    """Decision whether a challenger is promoted, and the losses that decided.

    A loss is the mean over the series of two ratios to the last-value forecast, averaged: that of the mean absolute
    error of the point, and that of the mean pinball loss of the quantiles. NaN = no series could be scored, or a
    forecast was not finite.

    Attributes:
        champion_loss: loss of the checkpoint that serves.
        challenger_loss: loss of the challenger.
        scored: number of scored forecasts.
        promote: True if the challenger is to serve.
        reason: explanation for people.
    """

    champion_loss: float
    challenger_loss: float
    scored: int
    promote: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over the scored forecasts.

    Attributes:
        error: absolute errors of the point, by series; NaN if the network's forecasts were not finite.
        pinball: pinball losses of the quantiles, by series.
        last_error: absolute errors of the last value, by series.
        last_pinball: pinball losses of the last value as every quantile, by series.
        count: number of scored forecasts.
    """

    error: F64
    pinball: F64
    last_error: F64
    last_pinball: F64
    count: int


def evaluate_challenger(
    pipeline: PipelineConfig,
    champion: Checkpoint | None,
    challenger: Checkpoint,
    history: SeriesHistory,
    promotion_ms: int,
    rule: Rule | None = None,
) -> PromotionDecision:
    """Return the decision by the forecasts whose truths came from `promotion_ms` on.

    Args:
        pipeline: configuration of the forecasts.
        champion: the checkpoint that serves; None = before any training.
        challenger: the checkpoint that may replace it.
        history: the promotion split, and the readings before it that warm up the rows.
        promotion_ms: begin of the promotion split, epoch ms.
        rule: conditions of a promotion; None = the defaults.
    """
    replayed = history.since(promotion_ms - _warm_up_ms(pipeline, history))
    champion_sums = _sums(pipeline, champion, replayed, promotion_ms)
    challenger_sums = _sums(pipeline, challenger, replayed, promotion_ms)
    return _decide(champion_sums, challenger_sums, rule or Rule())


def _warm_up_ms(pipeline: PipelineConfig, history: SeriesHistory) -> int:
    """Return how long rows warm up before the split: until their context is full, and their scale has a half-life."""
    interval = pipeline.observation.interval_ms or history.interval_ms()
    return int(pipeline.observation.context + max(pipeline.horizons) + SCALE_HALF_LIFE) * interval


def _sums(pipeline: PipelineConfig, checkpoint: Checkpoint | None, history: SeriesHistory, promotion_ms: int) -> _Sums:
    """Return the sums over a checkpoint's forecasts, when it alone serves the history."""
    levels = pipeline.quantile_levels
    error, pinball, last_error, last_pinball = totals = np.zeros((4, len(history.series_ids)))
    count = 0
    simulation = ServingSimulation(replace(pipeline, with_details=True), history, checkpoint)
    for first, outputs in simulation.until(len(history)):
        matured = outputs.matured
        position = matured.reading + first
        forecast, last_value = score(matured, levels), score(last_value_forecasts(matured), levels)
        counted = last_value.met & (history.timestamp_ms[position] >= promotion_ms)[:, None]
        if not counted.any():
            continue
        if checkpoint is not None and np.isnan(matured.experts[:, pipeline.ensemble.network][counted]).any():
            error[:] = np.nan  # the combination would hide it
        values = (
            forecast.absolute_error,
            forecast.pinball_loss,
            last_value.absolute_error,
            last_value.pinball_loss,
        )
        for total, column in zip(totals, values, strict=True):
            np.add.at(total, history.series_index[position], np.where(counted, column, 0.0).sum(axis=1))
        count += int(counted.sum())
    return _Sums(error, pinball, last_error, last_pinball, count)


def _varies(sums: _Sums) -> Bools:
    """Return which series have a last value that was ever wrong; only their errors have a ratio to it."""
    return (sums.last_error > 0) & (sums.last_pinball > 0)


def _loss(sums: _Sums) -> float:
    """Average the two ratios of each series, then average over the series that vary; NaN if none varies."""
    varies = _varies(sums)
    if not varies.any():
        return math.nan
    error, pinball = sums.error[varies] / sums.last_error[varies], sums.pinball[varies] / sums.last_pinball[varies]
    return float((0.5 * (error + pinball)).mean())


def _decide(champion_sums: _Sums, challenger_sums: _Sums, rule: Rule) -> PromotionDecision:
    champion, challenger = _loss(champion_sums), _loss(challenger_sums)
    scored = min(champion_sums.count, challenger_sums.count)
    if scored < rule.min_scored:
        promote, reason = False, f"only {scored} forecasts were scored; {rule.min_scored} are needed"
    elif not _varies(champion_sums).any():
        promote, reason = False, "no series varied in the promotion split: there is nothing to compare"
    elif not math.isfinite(challenger):
        promote, reason = False, "the challenger's forecasts are not all finite"
    elif not math.isfinite(champion):
        promote, reason = True, "the champion's forecasts are not all finite, the challenger's are"
    else:
        bound = (1.0 - rule.margin) * champion
        promote = challenger < bound
        reason = (
            f"the challenger's loss {challenger:.4f} is {'' if promote else 'not '}below {bound:.4f}, "
            f"{rule.margin:.0%} less than the champion's"
        )
    return PromotionDecision(champion, challenger, scored, promote, reason)
