"""From settings to the plain values that every other package takes; only this package knows both."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from forecaster.broker.connection import Connection
from forecaster.broker.tls_files import refuse_unusable_files
from forecaster.core.arrays import arrays
from forecaster.core.ensemble.experts import HEADS
from forecaster.core.ensemble.seasonal import MIN_TICKS
from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.model import Checkpoint, Model
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.denoising import DenoiseConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.formats.checkpoints import read_checkpoint, refuse_other_network
from forecaster.formats.readings import InputSchema
from forecaster.formats.state import Identity
from forecaster.learning.data.history_reader import HistoryConfig
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.kinds import RunKind
from forecaster.learning.schedule import Schedule
from forecaster.pipeline import PipelineConfig
from forecaster.serving.dead_letter_limits import Limits
from forecaster.serving.history_sampling import HistorySampling
from forecaster.serving.publisher import OutputTopics, PublishConfig
from forecaster.serving.state.config import StateConfig
from forecaster.serving.state.restore import RestoreConfig
from forecaster.serving.worker import WorkerConfig
from forecaster.settings import Settings

PIPELINE_IDENTITY_VERSION = 1


def horizons(settings: Settings) -> tuple[int, ...]:
    """Return the horizons of the mode, ascending, in ticks: all up to FORECAST__HORIZON, or a single one."""
    longest = settings.forecast.horizon
    by_mode = {
        "one-to-one": (1,),
        "one-to-many": tuple(range(1, longest + 1)),
        "many-to-one": (longest,),
        "many-to-many": tuple(range(1, longest + 1)),
    }
    return by_mode[settings.forecast.mode]


def observation_config(settings: Settings) -> ObservationConfig:
    """Return how the readings of a series become inputs of the network."""
    denoise = settings.denoise
    return ObservationConfig(
        interval_ms=settings.series.interval,
        max_gap_ms=settings.series.max_gap,
        ttl_ms=settings.state.ttl,
        context=settings.network.context,
        denoise=DenoiseConfig(
            chain=denoise.chain,
            low=denoise.range[0] if denoise.range else float("-inf"),
            high=denoise.range[1] if denoise.range else float("inf"),
            sentinels=denoise.sentinels,
            hampel_window=denoise.hampel_window,
            hampel_threshold=denoise.hampel_threshold,
            stuck_readings=denoise.stuck_ticks,
            ewma_half_life=denoise.ewma_half_life,
        ),
    )


def pipeline_config(settings: Settings) -> PipelineConfig:
    """Return what is forecast, and from which inputs."""
    interval, seasons = settings.series.interval, settings.series.seasonalities
    return PipelineConfig(
        observation=observation_config(settings),
        horizons=horizons(settings),
        quantile_levels=settings.forecast.quantile_levels,
        heads=len(HEADS) if settings.network.readouts == "own" else 1,
        seasons_ms=tuple(length for length in seasons if not interval or length >= MIN_TICKS * interval),
    )


def network_config(settings: Settings) -> NetworkConfig:
    """Return the shape of a network that is trained with these settings."""
    network = settings.network
    return NetworkConfig(
        horizons=horizons(settings),
        quantile_levels=settings.forecast.quantile_levels,
        cell=network.cell,
        nonlinearity=network.nonlinearity,
        hidden_size=network.hidden_size,
        layers=network.layers,
        convolution=network.convolution or 0,
        decoder=network.decoder,
        carries_state=settings.forecast.mode.startswith("many-"),
        features=FeatureConfig(network.context),
    )


def training_config(settings: Settings) -> TrainingConfig:
    """Return how a network is trained."""
    training = settings.training
    return TrainingConfig(
        tbptt_steps=training.tbptt_steps,
        dropout=training.dropout,
        l1=training.l1,
        l2=training.l2,
        clip_norm=training.clip_norm,
        seed=training.seed,
        local=settings.network.readouts == "own",
    )


def fixed_checkpoint(settings: Settings) -> Checkpoint | None:
    """Return the checkpoint in the folder NETWORK__CHECKPOINT; None = the models topic decides what is served.

    Raises:
        CheckpointError: the checkpoint cannot be read, or forecasts something else than the settings ask for.
    """
    folder = settings.network.checkpoint
    if not folder:
        return None
    checkpoint = read_checkpoint(Path(folder))
    refuse_other_network(checkpoint.network, network_config(settings), folder)
    return checkpoint


def hidden_size(settings: Settings, champion: Model | None) -> int:
    """Return the width of the hidden states in rows: the larger one of a new network and of the champion."""
    return max(network_config(settings).state_size, 0 if champion is None else champion.state_size)


def connection(settings: Settings) -> Connection:
    """Return address, identity and security for the Kafka clients.

    Raises:
        UsageError: an option, or a file of a certificate or key, cannot be used.
    """
    kafka = settings.kafka
    security = {
        "security_protocol": kafka.security_protocol,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": kafka.sasl_password.get_secret_value(),
        "ssl_cafile": kafka.ssl_cafile,
        "ssl_certfile": kafka.ssl_certfile,
        "ssl_keyfile": kafka.ssl_keyfile,
        "ssl_password": kafka.ssl_password.get_secret_value(),
    }
    security = {name: value for name, value in security.items() if value}
    refuse_unusable_files(security)
    return Connection(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=kafka.group_id,
        instance_id=kafka.instance_id,
        session_timeout_ms=kafka.session_timeout,
        security=security,
        options=kafka.options,
    )


def state_config(settings: Settings, hidden: int, identity: Identity) -> StateConfig:
    """Return how rows are kept and stored.

    Args:
        settings: settings of the process.
        hidden: width of a hidden state.
        identity: what the stored rows belong to.
    """
    state = settings.state
    return StateConfig(
        shape=pipeline_config(settings).shape(hidden),
        identity=identity,
        key_prefix=settings.kafka.group_id,
        max_series=state.max_series,
        group_size=max(1, len(settings.input.value_fields)),
        member_bytes=max((len(f"/{field}".encode()) for field in settings.input.value_fields), default=0),
        replay_limit=state.replay_limit,
        snapshot_seconds=state.snapshot_interval / 1000,
    )


def state_identity(settings: Settings) -> Identity:
    """Return the part of a state's identity that the settings decide; each restore reads the rest from Kafka."""
    return Identity(
        cluster="",
        topic="",
        partitions=0,
        pipeline=pipeline_hash(settings),
        interval_ms=settings.series.interval,
    )


def pipeline_hash(settings: Settings) -> str:
    """Return the hash of `pipeline_identity`; rows that were stored with another hash must be re-warmed."""
    return hashlib.blake2b(msgspec.json.encode(pipeline_identity(settings)), digest_size=8).hexdigest()


def pipeline_identity(settings: Settings) -> dict[str, Any]:
    """Return everything that decides what a stored row means, by name.

    These are the settings that shape rows, and the way in which this version keeps them. A golden test pins the names.
    Increase `PIPELINE_IDENTITY_VERSION` when the meaning of a value changes while its name stays.
    """
    pipeline, schema = pipeline_config(settings), input_schema(settings)
    observation, denoise = pipeline.observation, pipeline.observation.denoise
    return {
        "version": PIPELINE_IDENTITY_VERSION,
        "input": {
            "series_field": schema.series_field,
            "timestamp_field": schema.timestamp_field,
            "value_field": schema.value_field,
            "value_fields": schema.value_fields,
            "allow_null_keys": schema.allow_null_keys,
        },
        "grid": {"interval_ms": observation.interval_ms, "max_gap_ms": observation.max_gap_ms},
        "context": observation.context,
        "denoise": {
            "chain": denoise.chain,
            "low": repr(denoise.low),
            "high": repr(denoise.high),
            "sentinels": denoise.sentinels,
            "hampel_window": denoise.hampel_window,
            "hampel_threshold": denoise.hampel_threshold,
            "stuck_ticks": denoise.stuck_readings,
            "ewma_half_life": denoise.ewma_half_life,
        },
        "horizons": pipeline.horizons,
        "quantile_levels": pipeline.quantile_levels,
        "seasons_ms": pipeline.seasons_ms,
        "experts": pipeline.ensemble.experts,
        "arrays": [(name, array.dtype.str, array.shape[1:]) for name, array in arrays(pipeline.shape(0).empty(1))],
    }


def restore_config(settings: Settings, state_config: StateConfig, missing: Collection[str] = ()) -> RestoreConfig:
    """Return how partitions are restored.

    Args:
        settings: settings of the process.
        state_config: how the rows are kept.
        missing: output topics that do not exist yet.
    """
    names = settings.topics
    outputs = [names.named("forecasts"), names.named("dead_letters"), names.scores, names.denoised]
    state = names.named("state")
    return RestoreConfig(
        input_topic=names.input,
        state_topic=state if state not in missing else "",
        pipeline=pipeline_config(settings),
        state_config=state_config,
        output_topics=[name for name in outputs if name and name not in missing],
        on_lost_input=settings.state.on_lost_input,
    )


def input_schema(settings: Settings) -> InputSchema:
    """Return the layout of the input records."""
    fields = settings.input
    return InputSchema(
        series_field=fields.series_field,
        timestamp_field=fields.timestamp_field,
        value_field=fields.value_field,
        value_fields=fields.value_fields,
        allow_null_keys=fields.allow_null_keys,
    )


def worker_config(settings: Settings, partitions: int) -> WorkerConfig:
    """Return how the worker computes, publishes and limits its batches.

    Args:
        settings: settings of the process.
        partitions: partition count of the input topic.
    """
    names = settings.topics
    return WorkerConfig(
        pipeline=pipeline_config(settings),
        topics=OutputTopics(
            forecasts=names.named("forecasts"),
            dead_letters=names.named("dead_letters"),
            state=names.named("state"),
            models=names.named("models"),
            history=names.named("history") if trains(settings) else "",
            scores=names.scores,
            denoised=names.denoised,
        ),
        publish=PublishConfig(
            levels=settings.forecast.quantile_levels,
            every=settings.forecast.publish_every,
            newer_than_ms=settings.forecast.publish_newer_than,
        ),
        limits=Limits(settings.dead_letters.max_ratio, settings.dead_letters.max_consecutive),
        history=HistorySampling(settings.training.max_train_series, partitions),
        stop_on_limit=settings.dead_letters.on_limit == "stop",
        outage_deadline_seconds=settings.kafka.outage_deadline / 1000,
    )


def trains(settings: Settings) -> bool:
    """Return whether this fleet trains: a schedule is set, and no fixed checkpoint is served."""
    training = settings.training
    return not settings.network.checkpoint and not training.schedule == training.readout_schedule == "off"


def training_schedule(settings: Settings) -> Schedule:
    """Return the schedule of the training runs.

    Raises:
        UsageError: a schedule cannot be read.
    """
    return Schedule({RunKind.TRAINING: settings.training.schedule, RunKind.REFIT: settings.training.readout_schedule})


def history_config(settings: Settings, partitions: int) -> HistoryConfig:
    """Return which readings a trainer reads.

    Args:
        settings: settings of the process.
        partitions: partition count of the history topic.
    """
    training = settings.training
    return HistoryConfig(settings.topics.named("history"), partitions, training.window, training.max_train_series)
