"""From a history to a checkpoint: observe the readings as serving would, cut them into sequences, train."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

import forecaster
from forecaster.core.arrays import put, take
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.grid import TimelineState
from forecaster.core.series.observe import Wave, observe, waves
from forecaster.core.series.state import InputState, ObservationConfig
from forecaster.formats.files import SeriesHistory
from forecaster.learning.data.groups import SeriesGroups, series_groups_of
from forecaster.learning.data.sequences import SequencesBuilder, TrainingSequence, sequences_before
from forecaster.learning.data.splits import drop_misdated, split_by_time
from forecaster.learning.fitting.network_fit import NetworkFit, Progress, TrainingConfig

SLICE = 20_000
"""Readings that are observed at a time."""
SEEN_UNTIL = "seen_until_ms"
"""Fact of a checkpoint: the time of the newest reading that it, its readout included, has learned from, epoch ms."""


def new_checkpoint_id(now: datetime | None = None) -> str:
    """Return an id that sorts by time: 2025-01-01T00-00-00Z-3f9a."""
    time = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H-%M-%SZ")
    return f"{time}-{secrets.token_hex(2)}"


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


def train_checkpoint(
    history: SeriesHistory,
    observation: ObservationConfig,
    network: NetworkConfig,
    config: TrainingConfig,
    progress: Callable[[Progress], None] = lambda _: None,
    champion: Checkpoint | None = None,
) -> Checkpoint:
    """Return a checkpoint trained on a history.

    Args:
        history: all readings.
        observation: configuration of the inputs.
        network: configuration of the body.
        config: configuration of the training.
        progress: function that is called after every update of the weights.
        champion: checkpoint to start from, if its network is the same.

    Raises:
        UsageError: the history holds nothing to learn from.
    """
    data = build_training_data(history, observation, local=config.local)
    return train(data, network, config, progress, champion)


def train(
    data: TrainingData,
    network: NetworkConfig,
    config: TrainingConfig,
    progress: Callable[[Progress], None] = lambda _: None,
    champion: Checkpoint | None = None,
) -> Checkpoint:
    """Return a checkpoint trained on the data; see `train_checkpoint`."""
    splits = split_by_time(data.history, config.held_out, 0.0)
    fit = NetworkFit(network, config, data.sequences, splits.early_stopping_ms, champion, data.groups)
    fitted = fit.fit(progress)
    facts = {
        "software": forecaster.__version__,
        "readings": len(data.history),
        "series": len(data.history.series_ids),
        SEEN_UNTIL: splits.end_ms,
        "start": _start_facts(champion, warm_start=fitted.warm_start),
        "passes": len(fitted.losses),
        "best_pass": fitted.best_pass + 1,
        "held_out_losses": [round(loss, 5) for loss in fitted.losses],
        "training": asdict(config.for_warm_start() if fitted.warm_start else config),
        "observation": {
            "interval_ms": data.observation.interval_ms,
            "denoise": list(data.observation.denoise.chain),
        },
    }
    return Checkpoint(new_checkpoint_id(), network, fitted.weights, fitted.readout, facts, fitted.local)


def _start_facts(champion: Checkpoint | None, *, warm_start: bool) -> dict[str, Any]:
    """Return the facts about the weights that training began with."""
    if champion is None:
        return {"from": "scratch"}
    if warm_start:
        return {"from": champion.id}
    return {"from": "scratch", "why": f"the network of {champion.id} looks different"}


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
        rows, records = history.row[span], history.records[span]
        for positions in waves(rows, records):
            row = rows[positions]
            wave_timeline, wave_inputs = take(timeline, row), take(inputs, row)
            wave = Wave(history.timestamp_ms[span][positions], history.values[span][positions], records[positions])
            observed = observe(observation, wave_timeline, wave_inputs, wave)
            put(timeline, row, wave_timeline)
            put(inputs, row, wave_inputs)
            builder.add(np.asarray(row[observed.position]), observed)
    return builder.build()
