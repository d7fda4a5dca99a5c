"""A small history, a network to train on it, and a comparison of checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from builders import HOUR_MS, LEVELS, START_MS

from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.history import SeriesHistory
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.pipeline import PipelineConfig

OBSERVATION = ObservationConfig(interval_ms=HOUR_MS, context=12)
NETWORK = NetworkConfig((1, 2, 3), LEVELS, hidden_size=16, features=FeatureConfig(context=12))
PIPELINE = PipelineConfig(OBSERVATION, NETWORK.horizons, LEVELS)
SHORT = TrainingConfig(passes=3)


def seasonal_history(hours: int = 600, series: int = 2, *, seed: int = 0, period: int = 17) -> SeriesHistory:
    """A season whose length no simple expert knows, so that a network can do better."""
    generator = np.random.default_rng(seed)
    time = np.arange(hours)
    values = [10 + 5 * np.sin(2 * np.pi * (time + k) / period) + generator.normal(0, 0.3, hours) for k in range(series)]
    return SeriesHistory(
        series_ids=[f"pump-{k}" for k in range(series)],
        series_index=np.tile(np.arange(series), hours),
        timestamp_ms=START_MS + np.repeat(time, series) * HOUR_MS,
        values=np.column_stack(values).reshape(-1),
        record_of_reading=np.repeat(time, series),
    )


def with_other_end(readings: SeriesHistory, from_ms: int) -> SeriesHistory:
    """The same history, with other values from `from_ms` on."""
    late = readings.timestamp_ms >= from_ms
    return replace(readings, values=np.where(late, readings.values * 7.0 - 3.0, readings.values))


def same(checkpoint: Checkpoint, other: Checkpoint) -> bool:
    return torch.equal(checkpoint.readout, other.readout) and all(
        torch.equal(weight, other.weights[name]) for name, weight in checkpoint.weights.items()
    )
