"""Workers of real parts and a fake Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from builders import LEVELS, Lineup, pipeline_config
from clock import FakeClock
from fakes import HISTORY, IDENTITY, INPUT, MODELS, STATE, FakeClient, FakeKafka, FakeReader, FakeWatch

from forecaster.app.watchdog import Pulse, Watchdog
from forecaster.clock import Clock, monotonic
from forecaster.core.network.model import Model
from forecaster.formats.readings import Decoder, InputSchema
from forecaster.pipeline import PipelineConfig
from forecaster.serving.dead_letter_limits import Limits
from forecaster.serving.dependencies import WorkerDependencies
from forecaster.serving.history_sampling import HistorySampling
from forecaster.serving.publisher import OutputTopics, PublishConfig
from forecaster.serving.state.config import StateConfig
from forecaster.serving.state.recovery import OnLostInput
from forecaster.serving.state.restore import RestoreConfig, Restorer
from forecaster.serving.state.store import StateStore
from forecaster.serving.worker import Worker, WorkerConfig
from forecaster.web.service import Service


@dataclass(frozen=True)
class Setup:
    """Parts of a worker, with defaults; a test names only those that matter to it."""

    pipeline: PipelineConfig = field(default_factory=pipeline_config)
    model: Model | None = None
    lineup: Lineup | None = None
    policy: OnLostInput = "fail"
    schema: InputSchema = field(default_factory=InputSchema)
    stop_on_limit: bool = False
    deadline: float = 5.0
    limits: Limits = field(default_factory=Limits)
    optional_topics: tuple[str, ...] = ()
    publish: PublishConfig = field(default_factory=lambda: PublishConfig(LEVELS))
    check_topics: Callable[[], object] = lambda: None
    topic_watch: FakeWatch = field(default_factory=lambda: FakeWatch())
    clock: Clock = monotonic
    stop: threading.Event = field(default_factory=threading.Event)
    state: Mapping[str, object] = field(default_factory=dict)

    def state_config(self) -> StateConfig:
        """State of the group `group`; the replay limit is small, so that blocks are written all the time."""
        values = {"identity": IDENTITY, "key_prefix": "group", "replay_limit": 40} | self.state
        hidden = max([model.state_size for model in self.checkpoints().models.values()], default=0)
        return StateConfig(self.pipeline.shape(hidden), **values)  # type: ignore[arg-type]

    def checkpoints(self) -> Lineup:
        """A lineup that several workers share, or one of the only model."""
        if self.lineup is not None:
            return self.lineup
        return Lineup() if self.model is None else Lineup(self.model)

    def restorer(self, client: FakeClient) -> Restorer:
        outputs = ("forecasts", "dead", *self.optional_topics)
        config = RestoreConfig(INPUT, STATE, self.pipeline, self.state_config(), outputs, self.policy)
        return Restorer(config, self.checkpoints(), Decoder(self.schema), FakeReader(client), self.clock)

    def store(self, client: FakeClient) -> StateStore:
        return StateStore(self.restorer(client), self.checkpoints(), self.clock)

    def worker(self, client: FakeClient) -> Worker:
        """Return a worker of real parts and a fake Kafka."""
        topics = OutputTopics("forecasts", "dead", STATE, MODELS, HISTORY, *self.optional_topics)
        config = WorkerConfig(
            pipeline=self.pipeline,
            topics=topics,
            publish=self.publish,
            limits=self.limits,
            history=HistorySampling(2_000, 1),
            stop_on_limit=self.stop_on_limit,
            outage_deadline_seconds=self.deadline,
        )
        dependencies = WorkerDependencies(
            topic_watch=self.topic_watch,
            decoder=Decoder(self.schema),
            consumer=client,
            producer=client,
            store=self.store(client),
            check_topics=self.check_topics,
            clock=self.clock,
        )
        return Worker(config, dependencies, self.stop)

    def serving(self, client: FakeClient) -> Worker:
        """Return a worker that serves all partitions of the client."""
        worker = self.worker(client)
        while client.paused:
            worker.iterate()
        return worker


def setup(**options: Any) -> Setup:
    """Return a Setup; options that are not its fields belong to its `StateConfig`."""
    fields = {name: options.pop(name) for name in list(options) if name in Setup.__dataclass_fields__}
    return Setup(**fields, state=options)


def serving(kafka: FakeKafka, **options: Any) -> tuple[FakeClient, Worker]:
    """Return a worker that serves all partitions, and its client."""
    client = FakeClient(kafka)
    return client, setup(**options).serving(client)


def iterate(worker: Worker, times: int = 1) -> None:
    for _ in range(times):
        worker.iterate()


@contextmanager
def running(worker: Worker, stop: threading.Event) -> Iterator[None]:
    """Run the worker in a thread, so that it answers questions; `stop` is the event that ends its loop."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def running_service(series_ids: Sequence[str], hours: int) -> Iterator[Service]:
    """Yield the service of a running worker that has served some hours of each series."""
    kafka, stop = FakeKafka(), threading.Event()
    worker = setup(clock=FakeClock(), stop=stop).worker(FakeClient(kafka))
    for series_id in series_ids:
        kafka.hours(0, range(hours), series_id.encode())
    iterate(worker, 6)
    service = Service("worker", "readings", "group", Watchdog(Pulse(), lambda _: None))
    service.monitor = worker.monitor
    with running(worker, stop):
        yield service
