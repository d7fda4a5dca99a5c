"""Builders with defaults: tests name only what matters to them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.network.features import MEMBER_FEATURES, FeatureConfig
from forecaster.core.network.local_readouts import LocalReadouts
from forecaster.core.network.model import Checkpoint, Model
from forecaster.core.network.network import Network, NetworkConfig
from forecaster.core.series.denoising import DenoiseConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.pipeline import Batch, PipelineConfig, advance
from forecaster.records import I64, Outputs, Readings
from forecaster.serving.state.checkout import Checkout, adopt, check_out
from forecaster.serving.state.config import StateConfig
from forecaster.serving.state.partition import Partition

HOUR_MS = 3_600_000
START_MS = 1_735_689_600_000
LEVELS = (0.1, 0.5, 0.9)


def readings(rows: Iterable[tuple[str, int, float | None]], records: Sequence[int] | None = None) -> Readings:
    """Return readings from (series_id, epoch ms, value or None); each is its own record unless `records` is given."""
    rows = list(rows)
    return Readings(
        series_ids=[row[0] for row in rows],
        timestamp_ms=np.array([row[1] for row in rows], np.int64),
        values=np.array([np.nan if row[2] is None else row[2] for row in rows], np.float64),
        record_of_reading=np.arange(len(rows)) if records is None else np.array(records, np.int64),
    )


def history_flags(value: bytes) -> I64:
    """Return the flags of each reading as a record of the history topic stores them: 1 = has a value, 2 = masked."""
    return np.frombuffer(msgspec.msgpack.decode(zlib.decompress(value[5:]))["flags"], np.uint8).astype(np.int64)


def hourly(
    values: Iterable[float | None], series_id: str = "pump", start: int = 0
) -> list[tuple[str, int, float | None]]:
    """Return one reading an hour."""
    return [(series_id, START_MS + (start + hour) * HOUR_MS, value) for hour, value in enumerate(values)]


def pipeline_config(
    *, interval_ms: int = HOUR_MS, horizon: int = 4, context: int = 12, chain: tuple[str, ...] = ()
) -> PipelineConfig:
    observation = ObservationConfig(
        interval_ms=interval_ms, max_gap_ms=24 * HOUR_MS, context=context, denoise=DenoiseConfig(chain=chain)
    )
    return PipelineConfig(observation, tuple(range(1, horizon + 1)), LEVELS)


def random_model(config: PipelineConfig, *, cell: str = "gru", seed: int = 0, **options: object) -> Model:
    """Return a model with random weights: its forecasts are poor, but depend on every input."""
    return Model(random_checkpoint(config, cell=cell, seed=seed, **options))


def random_checkpoint(config: PipelineConfig, *, cell: str = "gru", seed: int = 0, **options: object) -> Checkpoint:
    """Return a checkpoint with random weights."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    network_config = NetworkConfig(
        cell=cell,  # type: ignore[arg-type]
        horizons=config.horizons,
        quantile_levels=config.quantile_levels,
        features=FeatureConfig(context=config.observation.context),
        **{"hidden_size": 16, **options},  # type: ignore[arg-type]
    )
    network = Network(network_config)
    weights = {
        name: torch.randn(weight.shape, generator=generator) * 0.3 for name, weight in network.state_dict().items()
    }
    size = network_config.features.readout_size + network_config.hidden_size
    readout = torch.randn((size, len(config.horizons)), generator=generator) * 0.1
    return Checkpoint(f"random-{seed}", network_config, weights, readout, {})


def growing_checkpoint(config: PipelineConfig) -> Checkpoint:
    """Return a checkpoint whose hidden state grows by a factor of 100 with each step: it overflows after a while."""
    import torch

    checkpoint = random_checkpoint(config, cell="rnn", nonlinearity="relu")
    return replace(checkpoint, weights={**checkpoint.weights, "cells.0.weight_hidden": 100.0 * torch.eye(16)})


def with_local_readouts(checkpoint: Checkpoint, groups: Sequence[Sequence[str]]) -> Checkpoint:
    """Return the checkpoint with random local readouts for the series of these groups."""
    import torch

    names, members = [name for group in groups for name in group], max(map(len, groups))
    features = checkpoint.network.readout_size + (members * MEMBER_FEATURES if members > 1 else 0)
    shape = len(names), 2 * len(checkpoint.network.horizons), features
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 0.1
    places = np.array([place for group in groups for place in range(len(group))], np.int64)
    return replace(checkpoint, local=LocalReadouts(tuple(names), places, members, weights))


class Lineup:
    """A stand-in for the follower of the models topic: complete checkpoints, and the champion.

    Attributes:
        models: models by checkpoint id.
        champion: id of the checkpoint to serve.
        late: models that arrive at the next `catch_up`.
    """

    def __init__(self, *models: Model) -> None:
        self.models = {model.id: model for model in models}
        self.champion = models[-1].id if models else NO_CHECKPOINT
        self.late: list[Model] = []

    def model(self, checkpoint_id: str) -> Model | None:
        return self.models.get(checkpoint_id)

    def refresh(self) -> None:
        """Do nothing: the models are in memory."""

    def catch_up(self) -> None:
        """Add the late models, and serve the last one."""
        for model in self.late:
            self.serve(model)
        self.late = []

    def keep_only(self, checkpoint_ids: Collection[str]) -> None:
        """Keep all."""

    def serve(self, model: Model) -> None:
        """Add a model, and make it the champion."""
        self.models[model.id] = model
        self.champion = model.id


class Serving:
    """The pipeline and the rows of partition 0, without a broker: a worker's batches by hand."""

    def __init__(self, config: PipelineConfig | None = None, model: Model | None = None) -> None:
        self.config = config or pipeline_config()
        self.model = model
        self.state_config = StateConfig(self.config.shape(0 if model is None else model.state_size))
        self.partitions = {0: Partition(0, self.state_config)}

    @property
    def series(self) -> int:
        """Number of series with a row."""
        return sum(len(partition.table) for partition in self.partitions.values())

    def check_out(self, batch: Readings) -> Checkout:
        """Return a copy of the rows of a batch of partition 0."""
        return check_out(self.partitions, batch, np.zeros(len(batch), np.int64))

    def dropped(self, batch: Readings) -> Outputs:
        """Return the outputs of a batch whose transaction fails."""
        return self._advance(batch, self.check_out(batch))

    def feed(self, batch: Readings) -> Outputs:
        """Return the outputs of a batch whose transaction commits."""
        checkout = self.check_out(batch)
        outputs = self._advance(batch, checkout)
        adopt(self.partitions, checkout, self.partitions)
        return outputs

    def _advance(self, batch: Readings, checkout: Checkout) -> Outputs:
        return advance(self.config, [self.model], checkout.state, Batch.of_one_model(batch, checkout.row))
