"""Training of a checkpoint: observe the readings as serving would, cut them into sequences, train."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import forecaster
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.formats.checkpoints import SEEN_UNTIL
from forecaster.history import SeriesHistory
from forecaster.learning.data.splits import split_by_time
from forecaster.learning.data.training_data import TrainingData, build_training_data
from forecaster.learning.fitting.network_fit import NetworkFit, TrainingConfig, TrainingProgress


def new_checkpoint_id(now: datetime | None = None) -> str:
    """Return an id that sorts by time: 2025-01-01T00-00-00Z-3f9a."""
    time = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H-%M-%SZ")
    return f"{time}-{secrets.token_hex(2)}"


def train_checkpoint(
    history: SeriesHistory,
    observation: ObservationConfig,
    network: NetworkConfig,
    config: TrainingConfig,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
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
    progress: Callable[[TrainingProgress], None] = lambda _: None,
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
