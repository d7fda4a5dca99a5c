"""The daemon: a worker, a trainer, or both, as ROLE says, with its HTTP server and its watchdog."""

from __future__ import annotations

import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from forecaster.app.configs import (
    connection,
    input_schema,
    training_schedule,
    trains,
    worker_config,
)
from forecaster.app.connect import Connector
from forecaster.app.rights import with_missing_rights
from forecaster.app.threads import use_one_torch_thread
from forecaster.app.topics import needed_topics
from forecaster.app.watchdog import Pulse, Watchdog
from forecaster.errors import BrokerUnavailable, UsageError
from forecaster.formats.readings import Decoder
from forecaster.learning.child_process import ChildProcess
from forecaster.learning.coordinator import CoordinatorConfig, TrainingCoordinator
from forecaster.learning.data.history_reader import HistoryCounter
from forecaster.learning.dependencies import Dependencies
from forecaster.learning.next_run import TrainingRules
from forecaster.registry.follower import RegistryFollower
from forecaster.registry.registry import SUPERSEDED_MS
from forecaster.serving.dependencies import WorkerDependencies
from forecaster.serving.state.store import StateStore
from forecaster.serving.worker import Worker
from forecaster.settings import Settings
from forecaster.web.server import serving_http
from forecaster.web.service import Service

RESTART_SECONDS = 10.0
"""Pause before a failed trainer is started again in the process of a worker."""
_log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Raises:
        UsageError: the settings leave nothing to do, or cannot be used.
        FatalError: the daemon cannot continue; the class says why.
    """
    use_one_torch_thread()
    if trains(settings):
        training_schedule(settings)  # raises UsageError for a wrong schedule, before anything is connected
    elif settings.role == "trainer":
        raise UsageError(
            "FORECASTER_ROLE=trainer has nothing to do: set FORECASTER_TRAINING__SCHEDULE or "
            "FORECASTER_TRAINING__READOUT_SCHEDULE, and leave FORECASTER_NETWORK__CHECKPOINT empty"
        )
    with stop_on_signals() as stop:
        watchdog = Watchdog(stop)
        service = Service(settings.role, settings.topics.input, settings.kafka.group_id, watchdog)
        http = settings.http
        with watchdog.watching(), serving_http(service, http.host, http.port, http.probe_port):
            try:
                if settings.role == "trainer":
                    _run_trainer(settings, stop, service)
                else:
                    _run_worker(settings, stop, service)
            except BrokerUnavailable as error:
                if not stop.is_set():  # a stop during the wait for a broker is a normal end
                    raise with_missing_rights(settings, error) from error


def connect_worker(settings: Settings, stop: threading.Event, resources: ExitStack) -> tuple[Worker, RegistryFollower]:
    """Connect a worker to Kafka, and return it with its follower of the models topic.

    Args:
        settings: settings of the daemon.
        stop: ends the worker when it is set.
        resources: closes the connections.

    Raises:
        BrokerUnavailable: no broker answered within KAFKA__CONNECT_DEADLINE.
        FatalError: topics, checkpoint or identity do not fit; the class says which.
    """
    connector = Connector(settings, stop, resources)
    names, kafka = settings.topics, settings.kafka
    topics, partitions = connector.topics()
    connector.compare_settings(topics)
    follower = connector.follower(topics)
    restorer = connector.restorer(topics, follower)
    producer = connector.producer(  # fences an older process with this identity, before this one joins the group
        f"{kafka.group_id}-{kafka.instance_id or uuid.uuid4()}", names.input, unique=not kafka.instance_id
    )
    consumer = connector.group_consumer(connection(settings), names.input)
    dependencies = WorkerDependencies(
        decoder=Decoder(input_schema(settings), restorer.config.state_config.longest_id),
        consumer=consumer,
        producer=producer,
        store=StateStore(restorer, follower),
        check_topics=lambda: topics.check_existing(names.input, needed_topics(settings)),
        topic_watch=connector.topic_watch(topics),
    )
    _log.info("worker_started", input=names.input, checkpoint=follower.champion)
    return Worker(worker_config(settings, partitions), dependencies, stop), follower


def connect_coordinator(settings: Settings, stop: threading.Event, resources: ExitStack) -> TrainingCoordinator:
    """Connect a training coordinator to Kafka; it is not elected yet.

    Args:
        settings: settings of the daemon.
        stop: ends the coordinator when it is set.
        resources: closes the connections, and removes the files.

    Raises:
        BrokerUnavailable: no broker answered within KAFKA__CONNECT_DEADLINE.
        FatalError: topics or checkpoint do not fit; the class says which.
    """
    connector = Connector(settings, stop, resources)
    training, models = settings.training, settings.topics.named("models")
    schedule = training_schedule(settings)
    folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="forecaster-trainer-")))
    topics, partitions = connector.topics()
    trainers = connection(settings).for_trainers()
    history = connector.tail_reader(trainers, settings.topics.named("history"), partitions)
    config = CoordinatorConfig(
        topic=models,
        rules=TrainingRules(training.min_readings, training.min_new_ticks, schedule.kinds),
        folder=folder / "work",
        start=lambda kind, run_folder: ChildProcess(
            ["learn", kind.value, str(run_folder)], run_folder / "child.log", training.deadline / 1000
        ),
        superseded_ms=max(SUPERSEDED_MS, 2 * settings.state.snapshot_interval),
    )
    dependencies = Dependencies(
        producer=connector.producer(f"{trainers.group_id}-{uuid.uuid4()}", models, unique=True),
        group=connector.group_consumer(trainers, models),
        follower=connector.follower(topics),
        counter=HistoryCounter(history),
        schedule=resources.enter_context(schedule),
    )
    return TrainingCoordinator(config, dependencies, stop)


@contextmanager
def stop_on_signals() -> Iterator[Pulse]:
    """Yield an event that SIGTERM and SIGINT set while the context is open."""
    stop = Pulse()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in handlers:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run_worker(settings: Settings, stop: threading.Event, service: Service) -> None:
    with ExitStack() as resources:
        worker, service.follower = connect_worker(settings, stop, resources)
        service.monitor = worker.monitor
        if settings.role == "both" and trains(settings):
            resources.enter_context(_trainer_thread(settings, stop, service))
        worker.run()
    counters = worker.counters
    _log.info(
        "worker_ended",
        records=counters.records,
        transactions=counters.transactions,
        failed_transactions=counters.failed_transactions,
        outcomes=dict(counters.outcomes),
        dead_letters=dict(counters.dead_letters),
    )


def _run_trainer(settings: Settings, stop: threading.Event, service: Service) -> None:
    with ExitStack() as resources:
        service.coordinator = coordinator = connect_coordinator(settings, stop, resources)
        resources.callback(setattr, service, "coordinator", None)
        coordinator.run()
    _log.info("trainer_ended", counters=dict(coordinator.counters))


@contextmanager
def _trainer_thread(settings: Settings, stop: threading.Event, service: Service) -> Iterator[None]:
    """Run a trainer in a thread while the context is open; after an error it is started again, the worker continues."""
    end = threading.Event()  # not `stop` itself, which is not set when the worker fails

    def train() -> None:
        while not end.is_set():
            try:
                _run_trainer(settings, end, service)
            except Exception as error:  # no error of the trainer may end the worker
                if not end.is_set():
                    _log.error(
                        "trainer_failed", error=f"{type(error).__name__}: {error}", restart_seconds=RESTART_SECONDS
                    )
                end.wait(RESTART_SECONDS)

    def relay() -> None:
        stop.wait()
        end.set()

    trainer = threading.Thread(target=train, name="trainer", daemon=True)
    trainer.start()
    threading.Thread(target=relay, name="trainer stop", daemon=True).start()
    try:
        yield
    finally:
        end.set()
        trainer.join(RESTART_SECONDS)
