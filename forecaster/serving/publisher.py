"""Messages of a batch's outputs: forecasts, dead letters and, if asked for, scores and denoised readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecaster.clock import WallClock
from forecaster.core.arrays import take
from forecaster.formats.dead_letters import encode_dead_letter
from forecaster.formats.forecasts import encode_forecasts
from forecaster.formats.scores import encode_denoised, encode_scores
from forecaster.records import Bools, Decoded, Forecasts, Message, Outputs, SourceRecord


@dataclass(frozen=True, slots=True)
class OutputTopics:
    """Names of the topics that a worker writes; an empty name = not written."""

    forecasts: str
    dead_letters: str
    state: str
    models: str
    history: str = ""
    scores: str = ""
    denoised: str = ""


@dataclass(frozen=True, slots=True)
class PublishConfig:
    """Which forecasts are published.

    Attributes:
        levels: quantile levels, ascending.
        every: only the forecasts of a series' first reading in every span of this many ticks; 1 = all.
        newer_than_ms: only the forecasts of readings that are at most this old; None = all.
    """

    levels: Sequence[float]
    every: int = 1
    newer_than_ms: int | None = None


class Publisher:
    """Encodes outputs as messages.

    Args:
        config: which forecasts are published.
        topics: names of the topics; a topic without a name gets no messages.
        wall_clock: for the age of readings.
    """

    def __init__(self, config: PublishConfig, topics: OutputTopics, wall_clock: WallClock) -> None:
        self._config, self._topics, self._wall_clock = config, topics, wall_clock

    def messages(
        self, records: Sequence[SourceRecord], decoded: Decoded, outputs: Outputs, input_id: str
    ) -> dict[str, list[Message]]:
        """Return the messages by topic.

        Args:
            records: the records of the batch.
            decoded: their readings and dead letters.
            outputs: the outputs of the readings.
            input_id: short id of the input topic that the records came from.
        """
        config, topics, readings = self._config, self._topics, decoded.readings
        chosen = self._chosen(outputs)
        messages = {
            topics.forecasts: list(encode_forecasts(chosen.forecasts, readings, records, config.levels, input_id)),
            topics.dead_letters: [encode_dead_letter(letter, input_id) for letter in decoded.dead_letters],
        }
        if topics.scores:
            messages[topics.scores] = list(encode_scores(chosen.matured, readings, records, config.levels, input_id))
        if topics.denoised:
            messages[topics.denoised] = list(encode_denoised(chosen, readings, records, input_id))
        return messages

    def _chosen(self, outputs: Outputs) -> Outputs:
        """Return the outputs with only those forecasts and scores that are published."""
        config, forecasts = self._config, outputs.forecasts
        if config.every == 1 and config.newer_than_ms is None:
            return outputs
        chosen = _begins_span(forecasts, config.every)
        if config.newer_than_ms is not None:
            chosen &= forecasts.timestamp_ms >= self._wall_clock() - config.newer_than_ms
        rows = np.flatnonzero(chosen)
        return replace(outputs, forecasts=take(forecasts, rows), matured=take(outputs.matured, rows))


def _begins_span(forecasts: Forecasts, every: int) -> Bools:
    """Return which forecasts are their series' first in a span of `every` ticks; (M,)."""
    return np.asarray(forecasts.tick // every != (forecasts.tick - forecasts.gap) // every)
