"""Builds the daemon out of settings: the worker, the trainer, or both, as ROLE says."""

from __future__ import annotations

import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar

import structlog
import torch

from forecaster.app.configs import (
    connection,
    fixed_checkpoint,
    hidden_size,
    input_schema,
    needed_topics,
    network_config,
    restore_config,
    state_config,
    state_identity,
    training_schedule,
    trains,
    worker_config,
)
from forecaster.app.watchdog import Pulse, Watchdog
from forecaster.broker.connection import Connection
from forecaster.broker.consumer import GroupConsumer
from forecaster.broker.log_reader import LogReader
from forecaster.broker.producer import ProducerConfig, TransactionalProducer
from forecaster.broker.retry import retry
from forecaster.broker.tail_reader import TailReader
from forecaster.broker.topics import TopicAdmin
from forecaster.errors import BrokerUnavailable, UsageError
from forecaster.formats.readings import Decoder
from forecaster.learning.child_process import ChildProcess
from forecaster.learning.coordinator import CoordinatorConfig, Dependencies, TrainingCoordinator
from forecaster.learning.data.history_reader import HistoryCounter
from forecaster.learning.decision import TrainingRules
from forecaster.registry.cache import CheckpointCache, opened_cache
from forecaster.registry.follower import RegistryFollower
from forecaster.registry.registry import SUPERSEDED_MS
from forecaster.serving.dependencies import WorkerDependencies
from forecaster.serving.state.restore import Restorer
from forecaster.serving.state.store import StateStore
from forecaster.serving.worker import Worker
from forecaster.settings import Settings
from forecaster.web.server import serving_http
from forecaster.web.service import Service

TORCH_THREADS = 1
"""With one thread, the result of a row is the same in any batch."""
RESTART_SECONDS = 10.0
"""A trainer that has fallen over is begun anew after so long."""
Result = TypeVar("Result")
_log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """The daemon has run until it was told to end: start, loop, shutdown."""
    use_one_thread()
    if trains(settings):
        training_schedule(settings)  # one that cannot be read is refused before anything is connected
    elif settings.role == "trainer":
        raise UsageError(
            "FORECASTER_ROLE=trainer has nothing to do: TRAINING__SCHEDULE and READOUT_SCHEDULE are both off, or "
            "NETWORK__CHECKPOINT is served whatever is trained"
        )
    with signals() as stop:
        watchdog = Watchdog(stop)
        service = Service(settings.role, settings.topics.input, settings.kafka.group_id, watchdog)
        with watchdog.watching(), serving_http(service, settings.http.host, settings.http.port):
            try:
                if settings.role == "trainer":
                    _train(settings, stop, service)
                else:
                    _serve(settings, stop, service)
            except BrokerUnavailable:
                if not stop.is_set():  # told to end while it waited for a broker, it ends as asked
                    raise


def _serve(settings: Settings, stop: threading.Event, service: Service) -> None:
    with ExitStack() as open_things:
        worker, service.follower = start_worker(settings, stop, open_things)
        service.monitor = worker.monitor
        if settings.role == "both" and trains(settings):
            _train_beside(settings, stop, open_things, service)
        worker.run()
    counters = worker.counters
    _log.info(
        "ended",
        records=counters.records,
        transactions=counters.transactions,
        failed_transactions=counters.failed_transactions,
        outcomes=dict(counters.outcomes),
        dead_letters=dict(counters.dead_letters),
    )


def start_worker(settings: Settings, stop: threading.Event, open_things: ExitStack) -> tuple[Worker, RegistryFollower]:
    """All that talks to the broker is connected, the topics fit, an older process with our identity is fenced."""
    start = Connector(settings, stop, open_things)
    names, kafka = settings.topics, settings.kafka
    topics, partitions = start.topics()
    follower = start.follower(topics)
    reader = start.reader(topics)
    restorer = start.retry(lambda: restorer_of(settings, follower, topics, reader, partitions), "asking about topics")
    producer = start.producer(
        f"{kafka.group_id}-{kafka.instance_id or uuid.uuid4()}", names.input, unique=not kafka.instance_id
    )
    consumer = start.member(connection(settings), names.input)
    decoder = Decoder(input_schema(settings), restorer.config.state_config.longest_id)
    store = StateStore(restorer, follower)
    _log.info("serving", input=names.input, checkpoint=follower.champion)
    dependencies = WorkerDependencies(
        decoder=decoder,
        consumer=consumer,
        producer=producer,
        store=store,
        check_topics=lambda: topics.ensure(names.input, needed_topics(settings), create=False),
    )
    return Worker(worker_config(settings, partitions), dependencies, stop), follower


def _train(settings: Settings, stop: threading.Event, service: Service) -> None:
    with ExitStack() as open_things:
        service.coordinator = coordinator = start_coordinator(settings, stop, open_things)
        open_things.callback(setattr, service, "learner", None)
        coordinator.run(stop)
    _log.info("trainer ended", counters=dict(coordinator.counters))


def _train_beside(settings: Settings, stop: threading.Event, open_things: ExitStack, service: Service) -> None:
    """A thread beside the worker looks after the trainer's child; whatever happens to it, the worker goes on."""

    end = threading.Event()  # of its own: `stop` says that the daemon was told to end, which an error has not done

    def train() -> None:
        while not end.is_set():
            try:
                _train(settings, end, service)
            except Exception as error:  # it is begun anew
                if not end.is_set():
                    _log.error("trainer fell over", error=f"{type(error).__name__}: {error}", again_in=RESTART_SECONDS)
                end.wait(RESTART_SECONDS)

    def relay() -> None:
        stop.wait()
        end.set()

    thread = threading.Thread(target=train, name="trainer", daemon=True)
    for one in (thread, threading.Thread(target=relay, name="end of the trainer", daemon=True)):
        one.start()
    open_things.callback(thread.join, RESTART_SECONDS)
    open_things.callback(end.set)


def start_coordinator(settings: Settings, stop: threading.Event, open_things: ExitStack) -> TrainingCoordinator:
    """All that a trainer needs is connected; it is not elected yet."""
    start = Connector(settings, stop, open_things)
    training, models = settings.training, settings.topics.named("models")
    schedule = training_schedule(settings)
    folder = Path(open_things.enter_context(tempfile.TemporaryDirectory(prefix="forecaster-trainer-")))
    topics, partitions = start.topics()
    trainers = connection(settings).for_trainers()
    history = start.retry(
        lambda: TailReader(trainers, settings.topics.named("history"), partitions), "reading the history topic"
    )
    open_things.callback(history.close)
    producer = start.producer(f"{trainers.group_id}-{uuid.uuid4()}", models, unique=True)
    config = CoordinatorConfig(
        topic=models,
        rules=TrainingRules(training.min_readings, training.min_new_ticks, schedule.works),
        folder=folder / "work",
        start=lambda work, place: ChildProcess(
            ["learn", work.value, str(place)], place / "child.log", training.deadline / 1000
        ),
        superseded_ms=max(SUPERSEDED_MS, 2 * settings.state.snapshot_interval),
    )
    outside = Dependencies(
        group=start.member(trainers, models),
        follower=start.follower(topics),
        readings=HistoryCounter(history),
        producer=producer,
        schedule=open_things.enter_context(schedule),
    )
    return TrainingCoordinator(config, outside)


class Connector:
    """Connects what a daemon consists of, with patience; closes it in the opposite order.

    Args:
        settings: of the daemon.
        stop: set when nobody wants it any more.
        open_things: take what must be closed.
    """

    def __init__(self, settings: Settings, stop: threading.Event, open_things: ExitStack) -> None:
        self._settings = settings
        self._stop = stop
        self._open = open_things
        self._connection = connection(settings)

    def retry(self, call: Callable[[], Result], what: str) -> Result:
        """Returns what the call returns, as soon as a broker is there; raises BrokerUnavailable past the deadline."""
        return retry(call, what, self._settings.kafka.connect_deadline / 1000, self._stop)

    def topics(self) -> tuple[TopicAdmin, int]:
        """Returns who asks about topics, which all are there and fit, and the input's partition count."""
        names, needed = self._settings.topics, needed_topics(self._settings)
        topics = self.retry(
            lambda: TopicAdmin(self._connection), f"connecting to {self._settings.kafka.bootstrap_servers}"
        )
        self._open.callback(topics.close)
        partitions = self.retry(lambda: topics.ensure(names.input, needed, create=names.create), "asking about topics")
        return topics, partitions

    def reader(self, topics: TopicAdmin) -> LogReader:
        """Returns a reader of single partitions."""
        reader = self.retry(lambda: LogReader(self._connection, topics), "connecting")
        self._open.callback(reader.close)
        return reader

    def follower(self, topics: TopicAdmin) -> RegistryFollower:
        """Returns what is known of the models topic, up to its present end."""
        directory, models = self._settings.cache.directory, self._settings.topics.named("models")
        cache = self._open.enter_context(opened_cache(directory, models))
        follower = follower_of(self._settings, self.reader(topics), cache)
        self.retry(follower.catch_up, "reading the models topic")
        return follower

    def producer(self, identity: str, source: str, *, unique: bool) -> TransactionalProducer:
        """Returns a producer of transactions; an older one with the same identity is fenced."""
        outage = self._settings.kafka.outage_deadline / 1000
        config = ProducerConfig(identity, source, unique=unique, outage_deadline_seconds=outage)
        producer = self.retry(
            lambda: TransactionalProducer(self._connection, config, self._stop), "starting transactions"
        )
        self._open.callback(producer.close)
        return producer

    def member(self, of: Connection, topic: str) -> GroupConsumer:
        """Returns a member of a group."""
        outage = self._settings.kafka.outage_deadline / 1000
        consumer = self.retry(lambda: GroupConsumer(of, topic, outage), "joining the group")
        self._open.callback(consumer.close)
        return consumer


def use_one_thread() -> None:
    """Forecasts are the same, bit by bit, in any batch and in any process that says so."""
    torch.set_num_threads(TORCH_THREADS)


def follower_of(settings: Settings, reader: LogReader, cache: CheckpointCache) -> RegistryFollower:
    """Returns who follows the models topic; nothing of it is known yet.

    Args:
        settings: of the daemon.
        reader: for it alone.
        cache: of the topic's checkpoints.
    """
    return RegistryFollower(
        reader, settings.topics.named("models"), cache, network_config(settings), fixed_checkpoint(settings)
    )


def restorer_of(
    settings: Settings, follower: RegistryFollower, topics: TopicAdmin, reader: LogReader, partitions: int
) -> Restorer:
    """Returns who restores the partitions of the input as the settings ask for; its `config` says how rows are kept.

    Args:
        settings: of the daemon.
        watch: knows what is to be served.
        topics: are asked whose topic the input is.
        reader: for the restorer alone.
        partitions: of the input.
    """
    identity = state_identity(settings, *topics.identity(settings.topics.input), partitions)
    rows = state_config(settings, hidden_size(settings, follower.model(follower.champion)), identity)
    return Restorer(restore_config(settings, rows), follower, Decoder(input_schema(settings), rows.longest_id), reader)


@contextmanager
def opened_state(settings: Settings, topics: TopicAdmin) -> Iterator[tuple[RegistryFollower, Restorer]]:
    """Yields what would be served and who restores partitions, for commands that only look.

    No topic but the input need be there.

    Args:
        settings: of the daemon.
        topics: for as long as this is open.
    """
    names = settings.topics
    found = topics.partition_counts([names.input, names.named("models")])
    with closing(LogReader(connection(settings), topics)) as of_models:
        follower = follower_of(settings, of_models, CheckpointCache(None))
        if names.named("models") in found:
            follower.catch_up()
        with closing(LogReader(connection(settings), topics)) as reader:
            yield follower, restorer_of(settings, follower, topics, reader, found[names.input])


def with_topics(settings: Settings, ask: Callable[[TopicAdmin], Result]) -> Result:
    """Returns what the broker answers a command, as soon as it does; raises BrokerUnavailable where it does not."""
    kafka, connected = settings.kafka, connection(settings)

    def once() -> Result:
        with TopicAdmin(connected) as topics:
            return ask(topics)

    return retry(once, f"asking {kafka.bootstrap_servers}", kafka.connect_deadline / 1000, threading.Event())


@contextmanager
def signals() -> Iterator[Pulse]:
    """Yields an event that SIGTERM and SIGINT set."""
    stop = Pulse()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
