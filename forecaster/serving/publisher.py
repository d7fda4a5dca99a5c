"""What of a batch's outputs is published, and where: forecasts, scores, the denoised stream, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from forecaster.core.arrays import take
from forecaster.core.metrics import in_interval, pinball_loss
from forecaster.formats.dead_letters import encode_dead_letter
from forecaster.formats.forecasts import encode_forecasts
from forecaster.formats.scores import encode_denoised, encode_scores
from forecaster.records import F64, Bools, Decoded, Forecasts, Message, Outputs, Scores, SourceRecord

MOST_SCALES = 10.0
"""An error counts as at most so many scales of its series in totals over all series: the first scales say little."""


@dataclass(frozen=True, slots=True)
class OutputTopics:
    """Names of the topics that a worker writes; no name = that is not published, or nobody trains."""

    forecasts: str
    dead_letters: str
    state: str
    models: str
    history: str = ""
    scores: str = ""
    denoised: str = ""


@dataclass(frozen=True, slots=True)
class PublishConfig:
    """What is published.

    Attributes:
        levels: of the quantiles.
        every: at the first reading in every so many ticks of a series.
        newer_than_ms: at readings that are not older than this; None = at all.
    """

    levels: Sequence[float]
    every: int = 1
    newer_than_ms: int | None = None


class Publisher:
    """Makes messages of outputs.

    Args:
        config: what is published.
        topics: where; a topic without a name gets nothing.
        now_ms: the wall clock, epoch ms: a backlog is nothing new.
    """

    def __init__(self, config: PublishConfig, topics: OutputTopics, now_ms: Callable[[], int]) -> None:
        self._config, self._topics, self._now_ms = config, topics, now_ms

    def messages(self, records: Sequence[SourceRecord], decoded: Decoded, outputs: Outputs) -> dict[str, list[Message]]:
        """Returns what is to be written to each topic.

        Args:
            records: of the batch.
            decoded: what they held.
            outputs: what became of it.
        """
        config, topics, readings = self._config, self._topics, decoded.readings
        chosen = self._chosen(outputs)
        found = {
            topics.forecasts: list(encode_forecasts(chosen.forecasts, readings, records, config.levels)),
            topics.dead_letters: [encode_dead_letter(letter) for letter in decoded.dead_letters],
        }
        if topics.scores:
            found[topics.scores] = list(encode_scores(chosen.scores, readings, records, config.levels))
        if topics.denoised:
            found[topics.denoised] = list(encode_denoised(chosen, readings, records))
        return found

    def _chosen(self, outputs: Outputs) -> Outputs:
        """Returns the outputs of the readings that are published."""
        config, forecasts = self._config, outputs.forecasts
        if config.every == 1 and config.newer_than_ms is None:
            return outputs
        chosen = _opens_a_span(forecasts, config.every)
        if config.newer_than_ms is not None:
            chosen &= forecasts.timestamp_ms >= self._now_ms() - config.newer_than_ms
        rows = np.flatnonzero(chosen)
        return replace(outputs, forecasts=take(forecasts, rows), scores=take(outputs.scores, rows))


def _opens_a_span(forecasts: Forecasts, every: int) -> Bools:
    """Returns which readings are the first ones of their series in a span of so many ticks."""
    return np.asarray(forecasts.tick // every != (forecasts.tick - forecasts.gap) // every)


@dataclass(slots=True)
class ScoreTotals:
    """What the forecasts of each horizon were worth in all, beside the last value; (J,).

    Attributes:
        count: forecasts that met their truth.
        error: sum of their absolute errors, in their units.
        last_error: the same of the last value.
        scaled_error: sum of their absolute errors in scales of their series, each one clipped, whatever the units.
        scaled_last_error: the same of the last value.
        pinball: sum of their pinball losses, means over the levels.
        inside: truths between the outermost quantiles.
    """

    count: F64 = field(default_factory=lambda: np.zeros(0))
    error: F64 = field(default_factory=lambda: np.zeros(0))
    last_error: F64 = field(default_factory=lambda: np.zeros(0))
    scaled_error: F64 = field(default_factory=lambda: np.zeros(0))
    scaled_last_error: F64 = field(default_factory=lambda: np.zeros(0))
    pinball: F64 = field(default_factory=lambda: np.zeros(0))
    inside: F64 = field(default_factory=lambda: np.zeros(0))

    def add(self, scores: Scores, levels: Sequence[float]) -> None:
        """The totals include these scores."""
        truth = np.broadcast_to(scores.truth[:, None], scores.point.shape)
        met = ~np.isnan(truth) & ~np.isnan(scores.point)
        error, last_error = np.abs(truth - scores.point), np.abs(truth - scores.last_value)
        per_scale = np.divide(1.0, scores.scale, where=scores.scale > 0, out=np.zeros_like(scores.scale))[:, None]
        columns = {
            "count": met,
            "error": error,
            "last_error": last_error,
            "scaled_error": np.minimum(error * per_scale, MOST_SCALES),
            "scaled_last_error": np.minimum(last_error * per_scale, MOST_SCALES),
            "pinball": pinball_loss(scores.quantiles, truth, np.array(levels)).mean(axis=1),
            "inside": in_interval(truth, scores.quantiles[:, 0], scores.quantiles[:, -1]),
        }
        for name, values in columns.items():
            total = np.where(met, values, 0.0).sum(axis=0)
            before = getattr(self, name)
            setattr(self, name, before + total if len(before) else total)
