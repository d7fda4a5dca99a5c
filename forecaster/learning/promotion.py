"""Whether a challenger serves: both go through the serving pipeline over what neither was fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.metrics import pinball_loss
from forecaster.core.network.model import Checkpoint
from forecaster.core.series.scaling import SCALE_HALF_LIFE
from forecaster.formats.files import SeriesHistory
from forecaster.learning.simulation import ServingSimulation
from forecaster.pipeline import PipelineConfig
from forecaster.records import F64

MIN_SCORED = 200
MARGIN = 0.02


@dataclass(frozen=True, slots=True)
class Rule:
    """When a challenger is promoted.

    Attributes:
        min_scored: so many forecasts must have met their truth.
        margin: its loss must be below (1 - margin) x the champion's.
    """

    min_scored: int = MIN_SCORED
    margin: float = MARGIN


@dataclass(frozen=True, slots=True)
class PromotionDecision:
    """What came of a judgement.

    Losses are means over the series of two ratios to the last value's, averaged: of the mean absolute error of the
    point, and of the mean pinball loss of the quantiles. NaN = nothing to judge by, or a forecast was no number.

    Attributes:
        champion_loss: of what serves.
        challenger_loss: of what wants to.
        last_value_loss: of the last value as point and as every quantile: 1.
        scored: forecasts that met their truth.
        promote: the challenger is to serve.
        reason: why, for people.
    """

    champion_loss: float
    challenger_loss: float
    last_value_loss: float
    scored: int
    promote: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Sums:
    """Absolute errors and pinball losses by series, of the forecasts and of the last value, and how many that is of."""

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
    """Returns the verdict on the forecasts whose truths came from `promotion_ms` on.

    Args:
        pipeline: what is forecast, from what.
        champion: what serves; None = before any training.
        challenger: what wants to.
        history: the promotion stretch, and before it what the rows warm up on.
        promotion_ms: where the stretch begins.
        rule: when it is promoted; None = as usual.
    """
    known = history.since(promotion_ms - _warm_up_ms(pipeline, history))
    serving = _sums(pipeline, champion, known, promotion_ms)
    wanting = _sums(pipeline, challenger, known, promotion_ms)
    return _verdict(serving, wanting, rule or Rule())


def _warm_up_ms(pipeline: PipelineConfig, history: SeriesHistory) -> int:
    """Returns how long before the stretch the rows begin: their context is full, and their scale has a half-life."""
    interval = pipeline.observation.interval_ms or history.interval_ms()
    return int(pipeline.observation.context + max(pipeline.horizons) + SCALE_HALF_LIFE) * interval


def _sums(pipeline: PipelineConfig, checkpoint: Checkpoint | None, history: SeriesHistory, promotion_ms: int) -> _Sums:
    """Returns what a checkpoint's forecasts were worth when it alone served."""
    levels, series = np.array(pipeline.quantile_levels), len(history.series_ids)
    error, pinball, last_error, last_pinball = totals = np.zeros((4, series))
    count = 0
    for first, outputs in ServingSimulation(replace(pipeline, with_details=True), history, checkpoint).until(
        len(history)
    ):
        scores = outputs.scores
        position = scores.reading + first
        truth, last = scores.truth[:, None], scores.last_value
        made = ~np.isnan(truth) & ~np.isnan(last) & (history.timestamp_ms[position] >= promotion_ms)[:, None]
        if not made.any():
            continue
        if checkpoint is not None and np.isnan(scores.experts[:, pipeline.ensemble.network][made]).any():
            error[:] = np.nan  # the combination would hide it
        truths = np.broadcast_to(truth, last.shape)
        naive = np.broadcast_to(last[:, None], scores.quantiles.shape)
        values = (
            np.abs(truths - scores.point),
            pinball_loss(scores.quantiles, truths, levels).mean(axis=1),
            np.abs(truths - last),
            pinball_loss(naive, truths, levels).mean(axis=1),
        )
        for total, column in zip(totals, values, strict=True):
            np.add.at(total, history.row[position], np.where(made, column, 0.0).sum(axis=1))
        count += int(made.sum())
    return _Sums(error, pinball, last_error, last_pinball, count)


def _loss(sums: _Sums, error: F64, pinball: F64) -> float:
    """Returns the mean over series of the mean of both ratios; a series whose last value is never wrong has none."""
    has = (sums.last_error > 0) & (sums.last_pinball > 0)
    if not has.any():
        return math.nan
    ratios = 0.5 * (error[has] / sums.last_error[has] + pinball[has] / sums.last_pinball[has])
    return float(ratios.mean())


def _verdict(serving: _Sums, wanting: _Sums, rule: Rule) -> PromotionDecision:
    champion = _loss(serving, serving.error, serving.pinball)
    challenger = _loss(wanting, wanting.error, wanting.pinball)
    last_value = _loss(serving, serving.last_error, serving.last_pinball)
    scored = min(serving.count, wanting.count)
    bound = (1.0 - rule.margin) * champion
    asked = f"{bound:.4f}, {rule.margin:.0%} less than the champion's"
    if scored < rule.min_scored:
        promote, reason = False, f"only {scored} forecasts were scored; {rule.min_scored} are needed"
    elif math.isnan(last_value):
        promote, reason = False, "no series has varied in the promotion stretch: there is nothing to judge by"
    elif not math.isfinite(challenger):
        promote, reason = False, "the challenger's forecasts are not all finite"
    elif not math.isfinite(champion):
        promote, reason = True, "the champion's forecasts are not all finite, the challenger's are"
    elif challenger < bound:
        promote, reason = True, f"the challenger's loss {challenger:.4f} is below {asked}"
    else:
        promote, reason = False, f"the challenger's loss {challenger:.4f} is not below {asked}"
    return PromotionDecision(champion, challenger, last_value, scored, promote, reason)
