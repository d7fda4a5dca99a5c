"""From a history to a checkpoint: observe it as serving would, cut it into sequences, train."""

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
from forecaster.core.series.observe import Wave, observe, waves
from forecaster.core.series.state import InputState, ObservationConfig
from forecaster.core.series.timeline import TimelineState
from forecaster.formats.files import SeriesHistory
from forecaster.learning.data.groups import SeriesGroups, series_groups_of
from forecaster.learning.data.sequences import SequencesBuilder, TrainingSequence, before
from forecaster.learning.data.splits import drop_misdated, split_by_time
from forecaster.learning.fitting.network_fit import NetworkFit, Progress, TrainingConfig

SLICE = 20_000
"""Readings that are observed at a time."""
SEEN_UNTIL = "seen_until_ms"
"""The fact that says up to when a checkpoint, its readout included, has learned."""


def new_checkpoint_id(now: datetime | None = None) -> str:
    """Returns an id that sorts by time: 2025-01-01T00-00-00Z-3f9a."""
    moment = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H-%M-%SZ")
    return f"{moment}-{secrets.token_hex(2)}"


def train_checkpoint(
    history: SeriesHistory,
    observation: ObservationConfig,
    network: NetworkConfig,
    config: TrainingConfig,
    progress: Callable[[Progress], None] = lambda _: None,
    start: Checkpoint | None = None,
) -> Checkpoint:
    """Returns a checkpoint trained on all of the history.

    Args:
        history: what to learn from.
        observation: what shapes the inputs.
        network: what the body looks like.
        config: how it is trained.
        progress: is told after every update.
        start: the champion, whose weights training begins with where its network looks the same.

    Raises:
        UsageError: the history holds nothing to learn from.
    """
    return train(build_training_data(history, observation, local=config.local), network, config, progress, start)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A history, what shapes its inputs, and the steps that serving would have made of it.

    `members`: whose readouts are solved beside the shared one; None = nobody's.
    """

    history: SeriesHistory
    observation: ObservationConfig
    sequences: list[TrainingSequence]
    members: SeriesGroups | None = None

    def before(self, time_ms: int) -> TrainingData:
        """Returns what was known at `time_ms`: readings from then on do not exist."""
        return replace(self, history=self.history.before(time_ms), sequences=before(self.sequences, time_ms))


def build_training_data(history: SeriesHistory, observation: ObservationConfig, *, local: bool) -> TrainingData:
    """Returns the history's lessons; readings whose stamps are not credible are in none of them.

    Args:
        history: all of it.
        observation: what shapes the inputs.
        local: series get readouts of their own, where they are not too many.
    """
    history = drop_misdated(history)
    members = series_groups_of(history) if local else None
    return TrainingData(history, observation, training_sequences(history, observation, members), members)


def train(
    data: TrainingData,
    network: NetworkConfig,
    config: TrainingConfig,
    progress: Callable[[Progress], None] = lambda _: None,
    start: Checkpoint | None = None,
) -> Checkpoint:
    """Returns a checkpoint trained on all of the lessons; see `train_checkpoint`."""
    history = data.history
    cuts = split_by_time(history, config.held_out, 0.0)
    trainer = NetworkFit(network, config, data.sequences, cuts.early_stopping_ms, start, data.members)
    trained = trainer.train(progress)
    facts = {
        "software": forecaster.__version__,
        "readings": len(history),
        "series": len(history.series_ids),
        SEEN_UNTIL: cuts.end_ms,
        "start": _start(start, warm=trained.warm),
        "passes": len(trained.losses),
        "best_pass": trained.best_pass + 1,
        "held_out_losses": [round(loss, 5) for loss in trained.losses],
        "training": asdict(config.warm() if trained.warm else config),
        "observation": {
            "interval_ms": data.observation.interval_ms,
            "denoise": list(data.observation.denoise.chain),
        },
    }
    return Checkpoint(new_checkpoint_id(), network, trained.weights, trained.readout, facts, trained.local)


def _start(champion: Checkpoint | None, *, warm: bool) -> dict[str, Any]:
    """Returns what the facts say of where training began."""
    if champion is None:
        return {"from": "scratch"}
    if warm:
        return {"from": champion.id}
    return {"from": "scratch", "why": f"the network of {champion.id} looks different"}


def training_sequences(
    history: SeriesHistory, observation: ObservationConfig, members: SeriesGroups | None = None
) -> list[TrainingSequence]:
    """Returns the steps that serving would have made of the history, by series and between restarts."""
    series = len(history.series_ids)
    times = TimelineState.empty(series, observation.interval_ms)
    inputs = InputState.empty(series, observation)
    builder = SequencesBuilder(observation.context, members)
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
