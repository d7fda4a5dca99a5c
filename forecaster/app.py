"""Builds the daemon out of settings: the only place where settings become the plain values of everything else."""

from __future__ import annotations

import hashlib
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog
import torch

from forecaster.broker.consumer import GroupConsumer
from forecaster.broker.options import Connection
from forecaster.broker.patience import retry
from forecaster.broker.producer import TransactionalProducer
from forecaster.broker.reader import LogReader
from forecaster.broker.topics import NeededTopic, Topics
from forecaster.checkpoints import read_checkpoint, refuse_other_shape
from forecaster.core.denoising import DenoiseConfig
from forecaster.core.features import FeatureConfig
from forecaster.core.model import Model
from forecaster.core.network import NetworkConfig
from forecaster.core.state import ObservationConfig
from forecaster.errors import BrokerUnavailable
from forecaster.learning.trainer import TrainingConfig
from forecaster.serving.dead_letters import Limits
from forecaster.serving.keeper import StateKeeper
from forecaster.serving.partition import KeepConfig
from forecaster.serving.partitions import Partitions
from forecaster.serving.pipeline import GENESIS, PipelineConfig
from forecaster.serving.restore import RestoreConfig, Restorer
from forecaster.serving.snapshots import Identity
from forecaster.serving.worker import Worker, WorkerConfig
from forecaster.settings import Settings
from forecaster.wire import Decoder, InputSchema

TORCH_THREADS = 1
"""With one thread, the result of a row is the same in any batch."""
COMPACTED_TOPIC = {"cleanup.policy": "compact", "segment.bytes": "67108864", "segment.ms": "600000"}
"""Small segments: only closed ones are compacted, and who starts reads what is not."""
Result = TypeVar("Result")
_log = structlog.get_logger()


def horizons(settings: Settings) -> tuple[int, ...]:
    """Returns the horizons of the mode: all up to the longest (`-to-many`), or only one."""
    longest = settings.forecast.horizon
    by_mode = {
        "one-to-one": (1,),
        "one-to-many": tuple(range(1, longest + 1)),
        "many-to-one": (longest,),
        "many-to-many": tuple(range(1, longest + 1)),
    }
    return by_mode[settings.forecast.mode]


def observation_config(settings: Settings) -> ObservationConfig:
    """Returns what shapes a series' inputs."""
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
            stuck_ticks=denoise.stuck_ticks,
        ),
    )


def pipeline_config(settings: Settings) -> PipelineConfig:
    """Returns what is forecast, from what."""
    return PipelineConfig(observation_config(settings), horizons(settings), settings.forecast.quantile_levels)


def network_config(settings: Settings) -> NetworkConfig:
    """Returns what a network trained with these settings looks like."""
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
    """Returns how a network is trained."""
    training = settings.training
    return TrainingConfig(
        tbptt_steps=training.tbptt_steps,
        dropout=training.dropout,
        l1=training.l1,
        l2=training.l2,
        clip_norm=training.clip_norm,
        seed=training.seed,
    )


def load_model(settings: Settings) -> Model | None:
    """Returns the model of the checkpoint's folder; None where no checkpoint is set.

    Raises:
        CheckpointError: it cannot be read, or forecasts something else than the settings ask for.
    """
    folder = settings.network.checkpoint
    if not folder:
        return None
    checkpoint = read_checkpoint(Path(folder))
    refuse_other_shape(checkpoint, network_config(settings), folder)
    return Model(checkpoint)


def connection(settings: Settings) -> Connection:
    """Returns how the broker is reached, and as whom."""
    kafka = settings.kafka
    security = {
        "security_protocol": kafka.security_protocol,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": kafka.sasl_password.get_secret_value(),
        "ssl_cafile": kafka.ssl_cafile,
        "ssl_certfile": kafka.ssl_certfile,
        "ssl_keyfile": kafka.ssl_keyfile,
    }
    return Connection(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=kafka.group_id,
        instance_id=kafka.instance_id,
        session_timeout_ms=kafka.session_timeout,
        security={name: value for name, value in security.items() if value},
        options=kafka.options,
    )


def with_topics(settings: Settings, ask: Callable[[Topics], Result]) -> Result:
    """Returns what the broker answers a command, as soon as it does; raises BrokerUnavailable where it does not."""
    kafka, connected = settings.kafka, connection(settings)

    def once() -> Result:
        with Topics(connected) as topics:
            return ask(topics)

    return retry(once, f"asking {kafka.bootstrap_servers}", kafka.connect_deadline / 1000, threading.Event())


def needed_topics(settings: Settings) -> list[NeededTopic]:
    """Returns the topics of this version beside its input."""
    topics = settings.topics
    return [
        NeededTopic(topics.named("forecasts"), "forecasts"),
        NeededTopic(topics.named("dead_letters"), "dead letters"),
        NeededTopic(topics.named("state"), "state of the series", COMPACTED_TOPIC, required=("cleanup.policy",)),
        models_topic(settings),
    ]


def models_topic(settings: Settings) -> NeededTopic:
    """Returns the topic of the checkpoints: one partition, since the order of all its records counts."""
    name = settings.topics.named("models")
    return NeededTopic(name, "checkpoints", COMPACTED_TOPIC, required=("cleanup.policy",), partitions=1)


def keep_config(settings: Settings, model: Model | None, cluster: str, topic: str, partitions: int) -> KeepConfig:
    """Returns how rows are kept.

    Args:
        settings: of the state.
        model: whose hidden states the rows hold.
        cluster: id of the Kafka cluster.
        topic: id of the input topic.
        partitions: of the input topic.
    """
    pipeline, state = pipeline_config(settings), settings.state
    identity = Identity(
        cluster=cluster,
        topic=topic,
        partitions=partitions,
        pipeline=pipeline_hash(settings),
        interval_ms=settings.series.interval,
        body=model.id if model else GENESIS,
    )
    return KeepConfig(
        shape=pipeline.shape(model),
        identity=identity,
        key_prefix=settings.kafka.group_id,
        max_series=state.max_series,
        group_size=max(1, len(settings.input.value_fields)),
        replay_limit=state.replay_limit,
        snapshot_seconds=state.snapshot_interval / 1000,
    )


def pipeline_hash(settings: Settings) -> str:
    """Returns a hash of the settings that shape rows: rows of another one must be re-warmed."""
    pipeline = pipeline_config(settings)
    shaping = replace(pipeline, observation=replace(pipeline.observation, ttl_ms=0))
    return hashlib.blake2b(f"{shaping} {input_schema(settings)}".encode(), digest_size=8).hexdigest()


def serve(settings: Settings) -> None:
    """The daemon has run until it was told to end: start, loop, shutdown."""
    torch.set_num_threads(TORCH_THREADS)
    model = load_model(settings)
    with signals() as stop:
        try:
            _serve(settings, model, stop)
        except BrokerUnavailable:
            if not stop.is_set():  # told to end while it waited for a broker, it ends as asked
                raise


def _serve(settings: Settings, model: Model | None, stop: threading.Event) -> None:
    with ExitStack() as open_things:
        worker, topics = start_worker(settings, model, stop, open_things)
        source, needed = settings.topics.input, needed_topics(settings)
        _log.info("serving", input=source, checkpoint=model.id if model else GENESIS)
        worker.run(stop, lambda: topics.ensure(source, needed, create=False))
    counters = worker.counters
    _log.info(
        "ended",
        records=counters.records,
        transactions=counters.transactions,
        failed_transactions=counters.failed_transactions,
        outcomes=dict(counters.outcomes),
        dead_letters=dict(counters.dead_letters),
    )


def start_worker(
    settings: Settings, model: Model | None, stop: threading.Event, open_things: ExitStack
) -> tuple[Worker, Topics]:
    """All that talks to the broker is connected, the topics fit, an older process with our identity is fenced."""
    connected, kafka, names = connection(settings), settings.kafka, settings.topics
    deadline, outage = kafka.connect_deadline / 1000, kafka.outage_deadline / 1000
    topics = retry(lambda: Topics(connected), f"connecting to {kafka.bootstrap_servers}", deadline, stop)
    open_things.callback(topics.close)
    needed = needed_topics(settings)
    partitions = retry(
        lambda: topics.ensure(names.input, needed, create=names.create), "asking about topics", deadline, stop
    )
    cluster, topic = retry(lambda: topics.identity(names.input), "asking about topics", deadline, stop)
    keep = keep_config(settings, model, cluster, topic, partitions)
    identity = f"{kafka.group_id}-{kafka.instance_id or uuid.uuid4()}"
    producer = retry(
        lambda: TransactionalProducer(
            connected,
            identity,
            names.input,
            unique=not kafka.instance_id,
            outage_deadline_seconds=outage,
            stop=stop,
        ),
        "starting transactions",
        deadline,
        stop,
    )
    open_things.callback(producer.close)
    consumer = retry(lambda: GroupConsumer(connected, names.input, outage), "joining the group", deadline, stop)
    open_things.callback(consumer.close)
    config = WorkerConfig(
        pipeline=pipeline_config(settings),
        forecasts=names.named("forecasts"),
        dead_letters=names.named("dead_letters"),
        state=names.named("state"),
        limits=Limits(settings.dead_letters.max_ratio, settings.dead_letters.max_consecutive),
        stop_on_limit=settings.dead_letters.on_limit == "stop",
        outage_deadline_seconds=outage,
    )
    reader = retry(lambda: LogReader(connected, topics), "connecting", deadline, stop)
    open_things.callback(reader.close)
    decoder = Decoder(input_schema(settings))
    restorer = Restorer(restore_config(settings, keep), model, decoder, reader)
    keeper = StateKeeper(Partitions(keep), restorer)
    return Worker(config, model, decoder, consumer, producer, keeper), topics


def restore_config(settings: Settings, keep: KeepConfig) -> RestoreConfig:
    """Returns how partitions are restored."""
    names = settings.topics
    return RestoreConfig(
        source=names.input,
        state=names.named("state"),
        pipeline=pipeline_config(settings),
        keep=keep,
        on_lost_input=settings.state.on_lost_input,
    )


def input_schema(settings: Settings) -> InputSchema:
    """Returns where an input record holds what."""
    fields = settings.input
    return InputSchema(
        series_field=fields.series_field,
        timestamp_field=fields.timestamp_field,
        value_field=fields.value_field,
        value_fields=fields.value_fields,
        allow_null_keys=fields.allow_null_keys,
    )


@contextmanager
def signals() -> Iterator[threading.Event]:
    """Yields an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
