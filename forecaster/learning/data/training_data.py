"""Training data: a history, and the steps that serving would have made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.arrays import put, take
from forecaster.core.series.grid import TimelineState
from forecaster.core.series.observe import Wave, observe, waves
from forecaster.core.series.state import InputState, ObservationConfig
from forecaster.history import SeriesHistory
from forecaster.learning.data.groups import SeriesGroups, series_groups_of
from forecaster.learning.data.sequences import SequencesBuilder, TrainingSequence, sequences_before
from forecaster.learning.data.splits import drop_misdated

SLICE = 20_000
"""Readings that are observed at a time."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A history, and the steps that serving would have made of it.

    Attributes:
        history: readings of all series.
        observation: configuration of the inputs.
        sequences: steps, the longest sequence first.
        groups: groups of the series that get local readouts; None = no series gets one.
    """

    history: SeriesHistory
    observation: ObservationConfig
    sequences: list[TrainingSequence]
    groups: SeriesGroups | None = None

    def before(self, time_ms: int) -> TrainingData:
        """Return the data as it was at `time_ms`: without the readings from then on."""
        return replace(self, history=self.history.before(time_ms), sequences=sequences_before(self.sequences, time_ms))


def build_training_data(history: SeriesHistory, observation: ObservationConfig, *, local: bool) -> TrainingData:
    """Return the training data of a history, without misdated readings; see `drop_misdated`.

    Args:
        history: all readings.
        observation: configuration of the inputs.
        local: True to prepare local readouts, if there are not too many series.
    """
    history = drop_misdated(history)
    groups = series_groups_of(history) if local else None
    return TrainingData(history, observation, training_sequences(history, observation, groups), groups)


def training_sequences(
    history: SeriesHistory, observation: ObservationConfig, groups: SeriesGroups | None = None
) -> list[TrainingSequence]:
    """Return the steps that serving would have made of a history, the longest sequence first.

    Args:
        history: all readings.
        observation: configuration of the inputs.
        groups: groups of the series; None = no series sees another.
    """
    series = len(history.series_ids)
    timeline = TimelineState.empty(series, observation.interval_ms)
    inputs = InputState.empty(series, observation)
    builder = SequencesBuilder(observation.context, groups)
    for begin, end in history.spans(SLICE):
        span = slice(begin, end)
        rows, records = history.series_index[span], history.record_of_reading[span]
        for positions in waves(rows, records):
            row = rows[positions]
            wave_timeline, wave_inputs = take(timeline, row), take(inputs, row)
            wave = Wave(history.timestamp_ms[span][positions], history.values[span][positions], records[positions])
            observed = observe(observation, wave_timeline, wave_inputs, wave)
            put(timeline, row, wave_timeline)
            put(inputs, row, wave_inputs)
            builder.add(np.asarray(row[observed.index]), observed)
    return builder.build()
