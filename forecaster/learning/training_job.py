"""From a history to a checkpoint: observe it as serving would, cut it into sequences, train."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np

import forecaster
from forecaster.core.arrays import put, take
from forecaster.core.model import Checkpoint
from forecaster.core.network import NetworkConfig
from forecaster.core.observation import Wave, observe, waves
from forecaster.core.state import InputState, ObservationConfig
from forecaster.core.timeline import TimelineState
from forecaster.files import History
from forecaster.learning.sequences import SequencesBuilder, TrainingSequence
from forecaster.learning.trainer import Progress, Trainer, TrainingConfig

SLICE = 20_000
"""Readings that are observed at a time."""


def new_checkpoint_id(now: datetime | None = None) -> str:
    """Returns an id that sorts by time: 2025-01-01T00-00-00Z-3f9a."""
    moment = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H-%M-%SZ")
    return f"{moment}-{secrets.token_hex(2)}"


def train_checkpoint(
    history: History,
    observation: ObservationConfig,
    network: NetworkConfig,
    config: TrainingConfig,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Checkpoint:
    """Returns a checkpoint trained on all of the history.

    Raises:
        UsageError: the history holds nothing to learn from.
    """
    trained = Trainer(network, config, training_sequences(history, observation)).train(progress)
    facts = {
        "software": forecaster.__version__,
        "readings": len(history),
        "series": len(history.series_ids),
        "passes": len(trained.losses),
        "best_pass": trained.best_pass + 1,
        "held_out_losses": [round(loss, 5) for loss in trained.losses],
        "training": asdict(config),
        "observation": {"interval_ms": observation.interval_ms, "denoise": list(observation.denoise.chain)},
    }
    return Checkpoint(new_checkpoint_id(), network, trained.weights, trained.readout, facts)


def training_sequences(history: History, observation: ObservationConfig) -> list[TrainingSequence]:
    """Returns the steps that serving would have made of the history, by series and between restarts."""
    series = len(history.series_ids)
    times = TimelineState.empty(series, observation.interval_ms)
    inputs = InputState.empty(series, observation)
    builder = SequencesBuilder(observation.context)
    for begin, end in history.spans(SLICE):
        span = slice(begin, end)
        rows, records = history.row[span], history.records[span]
        for positions in waves(rows, records):
            row = rows[positions]
            mine, my_inputs = take(times, row), take(inputs, row)
            wave = Wave(history.timestamp_ms[span][positions], history.values[span][positions], records[positions])
            observed = observe(observation, mine, my_inputs, wave)
            put(times, row, mine)
            put(inputs, row, my_inputs)
            builder.add(np.asarray(row[observed.position]), observed)
    return builder.build()
