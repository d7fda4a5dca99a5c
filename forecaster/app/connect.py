"""Connections of a process to Kafka: each is opened with retries, and closed in reverse order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TypeVar

import structlog

from forecaster.app.configs import (
    connection,
    fixed_checkpoint,
    hidden_size,
    input_schema,
    network_config,
    restore_config,
    state_config,
    state_identity,
)
from forecaster.app.rights import with_missing_rights
from forecaster.app.topics import client_times, needed_topics
from forecaster.broker.connection import Connection
from forecaster.broker.consumer import GroupConsumer
from forecaster.broker.log_reader import LogReader
from forecaster.broker.producer import ProducerConfig, TransactionalProducer
from forecaster.broker.retry import REFUSED_SECONDS, retry
from forecaster.broker.tail_reader import TailReader
from forecaster.broker.topics import TopicAdmin
from forecaster.broker.watched_topics import WatchedTopics
from forecaster.errors import BrokerUnavailable
from forecaster.formats.readings import Decoder
from forecaster.registry.cache import CheckpointCache, opened_cache
from forecaster.registry.follower import RegistryFollower
from forecaster.serving.state.restore import Restorer
from forecaster.serving.topic_watch import TopicWatch, WatchConfig
from forecaster.settings import Settings

Result = TypeVar("Result")
_log = structlog.get_logger()


class Connector:
    """Opens the connections of a process; every method waits for the broker up to FORECASTER_KAFKA__CONNECT_DEADLINE.

    All methods raise BrokerUnavailable past that deadline, or when `stop` is set.

    Args:
        settings: settings of the process.
        stop: set when the process is to end.
        resources: closes the connections, the last one first.
    """

    def __init__(self, settings: Settings, stop: threading.Event, resources: ExitStack) -> None:
        self._settings = settings
        self._stop = stop
        self._resources = resources
        self._connection = connection(settings)

    def retry(self, call: Callable[[], Result], action: str) -> Result:
        """Return the result of a call to the broker, which is repeated until it succeeds.

        Args:
            call: asks the broker for something.
            action: what the call does, as in "reading the models topic".
        """
        deadline = self._settings.kafka.connect_deadline / 1000
        return retry(call, action, deadline, self._stop, refused_seconds=REFUSED_SECONDS)

    def topics(self) -> tuple[TopicAdmin, int]:
        """Return a client that asks about topics, and the partition count of the input.

        Missing output topics are created if FORECASTER_TOPICS__CREATE allows it.

        Raises:
            TopicError: a topic is missing, or has a wrong partition count or setting.
        """
        names, needed = self._settings.topics, needed_topics(self._settings)
        servers = self._settings.kafka.bootstrap_servers
        topics = self.retry(lambda: TopicAdmin(self._connection), f"connecting to {servers}")
        self._resources.callback(topics.close)
        partitions = self.retry(lambda: topics.ensure(names.input, needed, create=names.create), "checking the topics")
        return topics, partitions

    def compare_settings(self, topics: TopicAdmin) -> None:
        """Compare the settings of the broker and of the input with those of this process; warn of what may lose state.

        Args:
            topics: asks about topics.

        Raises:
            TopicError: the broker would refuse the transactions, or the members of the consumer group.
        """
        needed, times = needed_topics(self._settings), client_times(self._settings)
        source = self._settings.topics.input
        comparison = self.retry(lambda: topics.compare(source, needed, times), "comparing the settings of the topics")
        for warning in comparison.warnings:
            _log.warning("input_may_lose_state", reason=warning)
        if comparison.unknown:
            _log.info("settings_not_compared", of=comparison.unknown)

    def topic_watch(self, topics: TopicAdmin) -> TopicWatch:
        """Return a watch over the topics, after its first look: it notices what changes from now on.

        Args:
            topics: asks about topics.

        Raises:
            TopicError: a topic does not fit.
        """
        config = WatchConfig(
            source=self._settings.topics.input,
            state=self._settings.topics.named("state"),
            needed=needed_topics(self._settings),
            create=self._settings.topics.create,
            deadline_seconds=self._settings.kafka.outage_deadline / 1000,
        )
        watch = TopicWatch(WatchedTopics(topics), config)
        self.retry(watch.look, "looking at the topics")
        return watch

    def log_reader(self, topics: TopicAdmin) -> LogReader:
        """Return a reader of single partitions."""
        reader = self.retry(lambda: LogReader(self._connection, topics), "connecting a reader")
        self._resources.callback(reader.close)
        return reader

    def tail_reader(self, connection: Connection, topic: str, partitions: int) -> TailReader:
        """Return a reader that follows all partitions of a topic.

        Args:
            connection: address and identity.
            topic: name of the topic.
            partitions: partition count of the topic.
        """
        reader = self.retry(lambda: TailReader(connection, topic, partitions), f"connecting a reader of topic {topic}")
        self._resources.callback(reader.close)
        return reader

    def follower(self, topics: TopicAdmin) -> RegistryFollower:
        """Return a follower of the models topic that has read it up to its present end."""
        models = self._settings.topics.named("models")
        cache = self._resources.enter_context(opened_cache(self._settings.cache.directory, models))
        follower = _follower(self._settings, self.log_reader(topics), cache)
        self.retry(follower.catch_up, f"reading topic {models}")
        return follower

    def restorer(self, topics: TopicAdmin, follower: RegistryFollower) -> Restorer:
        """Return a restorer of the input's partitions; its `config` says how rows are kept.

        Args:
            topics: asks about topics, also what the input is at each restore.
            follower: knows which checkpoint is served.
        """
        reader = self.log_reader(topics)
        return self.retry(lambda: _restorer(self._settings, follower, reader), "reading the champion")

    def producer(self, transactional_id: str, source: str, *, unique: bool) -> TransactionalProducer:
        """Return a transactional producer; an older one with the same id is fenced.

        Args:
            transactional_id: identity of the producer.
            source: topic whose offsets are committed with the transactions.
            unique: whether no other process can have the id.
        """
        outage_deadline = self._settings.kafka.outage_deadline / 1000
        config = ProducerConfig(transactional_id, source, unique, outage_deadline)
        producer = self.retry(
            lambda: TransactionalProducer(self._connection, config, self._stop), "starting a transactional producer"
        )
        self._resources.callback(producer.close)
        return producer

    def group_consumer(self, connection: Connection, topic: str) -> GroupConsumer:
        """Return a new member of a consumer group.

        Args:
            connection: address, group and identity.
            topic: name of the topic to read.
        """
        outage_deadline = self._settings.kafka.outage_deadline / 1000
        consumer = self.retry(
            lambda: GroupConsumer(connection, topic, outage_deadline), f"joining group {connection.group_id}"
        )
        self._resources.callback(consumer.close)
        return consumer


def ask_broker(settings: Settings, question: Callable[[TopicAdmin], Result]) -> Result:
    """Return the answer of a question that a command asks about topics; it is repeated after broker errors.

    Args:
        settings: settings of the command.
        question: asks by means of a client that is open during the call.

    Raises:
        BrokerUnavailable: no broker answered within FORECASTER_KAFKA__CONNECT_DEADLINE.
    """
    kafka, connected = settings.kafka, connection(settings)

    def ask() -> Result:
        with TopicAdmin(connected) as topics:
            return question(topics)

    action, deadline = f"asking {kafka.bootstrap_servers}", kafka.connect_deadline / 1000
    try:
        return retry(ask, action, deadline, threading.Event(), refused_seconds=REFUSED_SECONDS)
    except BrokerUnavailable as error:
        raise with_missing_rights(settings, error) from error


@contextmanager
def open_state(settings: Settings, topics: TopicAdmin) -> Iterator[tuple[RegistryFollower, Restorer]]:
    """Open the models topic and the stored state for a command that only reads them.

    Of all topics, only the input must exist.

    Args:
        settings: settings of the command.
        topics: asks about topics.

    Yields:
        The follower of the models topic, read up to its end, and the restorer of the input's partitions.
    """
    names = settings.topics
    needed = needed_topics(settings)
    counts = topics.partition_counts([topic.name for topic in needed])
    with (
        closing(LogReader(connection(settings), topics)) as models_reader,
        closing(LogReader(connection(settings), topics)) as state_reader,
    ):
        follower = _follower(settings, models_reader, CheckpointCache(None))
        if names.named("models") in counts:
            follower.catch_up()
        missing = {topic.name for topic in needed} - set(counts)
        yield follower, _restorer(settings, follower, state_reader, missing)


def _follower(settings: Settings, reader: LogReader, cache: CheckpointCache) -> RegistryFollower:
    """Return a follower of the models topic that has read nothing yet; the reader is for it alone."""
    models = settings.topics.named("models")
    return RegistryFollower(reader, models, cache, network_config(settings), fixed_checkpoint(settings))


def _restorer(
    settings: Settings, follower: RegistryFollower, reader: LogReader, missing: Collection[str] = ()
) -> Restorer:
    """Return a restorer of the input's partitions, without the topics that are missing; the reader is for it alone."""
    rows = state_config(settings, hidden_size(settings, follower.champion_model()), state_identity(settings))
    return Restorer(
        restore_config(settings, rows, missing), follower, Decoder(input_schema(settings), rows.longest_id), reader
    )
