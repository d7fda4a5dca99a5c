"""The topics that forecaster needs: whether they exist and fit, and how they are created."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from forecaster.broker.connection import TRAINERS_SUFFIX, Connection
from forecaster.broker.needed_topics import (
    ClientTimes,
    Comparison,
    NeededTopic,
    SeenTopic,
    input_warnings,
    refuse_wrong_broker,
    refuse_wrong_settings,
    unknown_settings,
)
from forecaster.broker.renewal import LAST_CHANCE_MS, successor
from forecaster.broker.retry import describe
from forecaster.broker.tolerant_clients import TolerantAdminClient
from forecaster.errors import InputMissing, TopicError, TransientBrokerError
from forecaster.records import TopicFacts

UNKNOWN_TOPIC = 3
"""Kafka's error code for a topic that does not exist."""
CREATE_TIMEOUT_MS = 10_000


class TopicAdmin:
    """Asks the broker about topics, and creates them; a context manager.

    Args:
        connection: address of the broker.
    """

    def __init__(self, connection: Connection) -> None:
        self._options = connection.admin_options()
        self._renewing = threading.Lock()
        self._client = TolerantAdminClient(**self._options)

    def __enter__(self) -> TopicAdmin:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def _admin(self) -> TolerantAdminClient:
        """The client; a new one, made from the bootstrap servers, if the brokers of the present one do not answer.

        Raises:
            TransientBrokerError: no bootstrap server answered.
        """
        with self._renewing:
            if self._client.is_lost and not self._client.answers(LAST_CHANCE_MS):
                new = successor(
                    self._client, lambda: TolerantAdminClient(**self._options), "admin", "no broker answers"
                )
                if new is None:
                    raise TransientBrokerError("no broker answers")
                self._client = new
            return self._client

    def partition_counts(self, names: Sequence[str]) -> dict[str, int]:
        """Return the partition count of each topic that exists.

        Raises:
            TransientBrokerError: the broker did not answer for a topic.
        """
        return {name: len(topic["partitions"]) for name, topic in self._describe(names).items()}

    def create(self, needed: Sequence[NeededTopic], partitions: int) -> None:
        """Create the topics; leave those as they are that another process has created in the meantime.

        Args:
            needed: topics to create.
            partitions: partition count of the topics that ask for no other.
        """
        for topic in needed:
            new = NewTopic(topic.name, topic.partitions or partitions, -1, topic_configs=topic.settings)
            try:
                self._admin.create_topics([new], timeout_ms=CREATE_TIMEOUT_MS)
            except TopicAlreadyExistsError:
                continue

    def ensure(self, source: str, needed: Sequence[NeededTopic], *, create: bool) -> int:
        """Check that all topics exist and fit, and return the partition count of the input.

        Args:
            source: name of the input topic; it is never created.
            needed: output topics.
            create: whether to create missing output topics.

        Raises:
            TopicError: a topic is missing, or has a wrong partition count or setting.
            TransientBrokerError: the broker did not answer.
        """
        described = self._describe([source, *(topic.name for topic in needed)])
        counts = {name: len(topic["partitions"]) for name, topic in described.items()}
        if source not in counts:
            raise no_input_topic(source)
        missing = [topic for topic in needed if topic.name not in counts]
        if missing and create:
            self.create(missing, counts[source])
            counts |= {topic.name: topic.partitions or counts[source] for topic in missing}
        for topic in needed:
            if topic.name not in counts:
                raise TopicError(
                    f"topic {topic.name} ({topic.purpose}): does not exist: create it with "
                    f"{_partitions(topic.partitions or counts[source])} (`forecaster topics --create`), or set "
                    "FORECASTER_TOPICS__CREATE=true"
                )
            _refuse_wrong_count(topic, counts[topic.name], source, counts[source])
        self._refuse_wrong_settings(needed, described)
        return counts[source]

    def check_existing(self, source: str, needed: Sequence[NeededTopic]) -> None:
        """Check the output topics that exist; skip missing ones, which a watch creates or reports.

        Args:
            source: name of the input topic.
            needed: output topics.

        Raises:
            InputMissing: the input topic does not exist.
            TopicError: an output topic has a wrong partition count or setting.
            TransientBrokerError: the broker did not answer.
        """
        described = self._describe([source, *(topic.name for topic in needed)])
        if source not in described:
            raise no_input_topic(source)
        existing = [topic for topic in needed if topic.name in described]
        for topic in existing:
            counts = len(described[topic.name]["partitions"]), len(described[source]["partitions"])
            _refuse_wrong_count(topic, counts[0], source, counts[1])
        self._refuse_wrong_settings(existing, described)

    def compare(self, source: str, needed: Sequence[NeededTopic], times: ClientTimes) -> Comparison:
        """Compare the settings of the input and of a broker with the times of this process.

        Args:
            source: name of the input topic.
            needed: output topics.
            times: times that the settings must allow.

        Raises:
            TopicError: the broker would refuse the transactions, or the members of the consumer group.
        """
        settings = self.settings([source, *(topic.name for topic in needed)]) | {"broker": self._broker_settings()}
        refuse_wrong_broker(settings["broker"], times)
        return Comparison(input_warnings(source, settings[source], times), unknown_settings(list(settings), settings))

    def settings(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the settings of topics, by topic; empty = the broker does not show them to this user."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        told = self._admin.describe_configs(resources, config_filter="all").get("topic", {})
        return {name: _values(told.get(name, {})) for name in names}

    def facts(self, name: str) -> TopicFacts:
        """Return what the input topic is now.

        Raises:
            InputMissing: the topic does not exist.
            TransientBrokerError: the broker did not answer.
        """
        described = self._describe([name])
        if name not in described:
            raise no_input_topic(name)
        topic, cluster = described[name], self._admin.describe_cluster()["cluster_id"]
        return TopicFacts(str(cluster), str(topic["topic_id"]), len(topic["partitions"]))

    def seen(self, names: Sequence[str]) -> dict[str, SeenTopic]:
        """Return what the broker knows of each topic that exists.

        Raises:
            TransientBrokerError: the broker did not answer for a topic.
        """
        return {
            name: SeenTopic(str(topic["topic_id"]), len(topic["partitions"]), _replicas(topic))
            for name, topic in self._describe(names).items()
        }

    def log_starts(self, name: str, partitions: int) -> dict[int, int]:
        """Return the first offset of each partition of a topic.

        Args:
            name: name of the topic.
            partitions: number of its partitions.
        """
        wanted = {TopicPartition(name, partition): OffsetSpec.EARLIEST for partition in range(partitions)}
        return {place.partition: found.offset for place, found in self._admin.list_partition_offsets(wanted).items()}

    def training_groups(self, models: str) -> list[str]:
        """Return the consumer groups whose trainers read a models topic now, in alphabetical order.

        The list is empty if the broker does not let this user ask, or answers in a way that the client cannot read.

        Raises:
            TransientBrokerError: no broker answers.
        """
        try:
            names = [group["group_id"] for group in self._admin.list_groups()]
            trainers = [name for name in names if name.endswith(TRAINERS_SUFFIX)]
            groups = self._admin.describe_groups(trainers) if trainers else {}
        except (KafkaError, ValueError):
            return []
        return sorted(
            name.removesuffix(TRAINERS_SUFFIX)
            for name, group in groups.items()
            if any(models in _subscription(member) for member in group["members"])
        )

    def read_by_group(self, group: str) -> list[str]:
        """Return the topics that members of a consumer group read now, in alphabetical order.

        The list is empty if the broker does not let this user ask, or answers in a way that the client cannot read.

        Raises:
            TransientBrokerError: no broker answers.
        """
        try:
            members = self._admin.describe_groups([group])[group]["members"]
        except (KafkaError, LookupError, ValueError):
            return []
        return sorted({topic for member in members for topic in _subscription(member)})

    def bounds(self, name: str, partition: int) -> tuple[int, int]:
        """Return the first offset of a partition, and the one after its last: the high watermark.

        Raises:
            TransientBrokerError: the broker did not answer.
        """
        topic_partition = TopicPartition(name, partition)
        return self._offset(topic_partition, OffsetSpec.EARLIEST), self._offset(topic_partition, OffsetSpec.LATEST)

    def offset_at(self, name: str, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose record has this timestamp (epoch ms) or a later one.

        If there is none, return the high watermark.

        Raises:
            TransientBrokerError: the broker did not answer.
        """
        topic_partition = TopicPartition(name, partition)
        offset = self._offset(topic_partition, max(timestamp_ms, 0))
        return offset if offset >= 0 else self._offset(topic_partition, OffsetSpec.LATEST)

    def _offset(self, topic_partition: TopicPartition, spec: int) -> int:
        try:
            offset: int = self._admin.list_partition_offsets({topic_partition: spec})[topic_partition].offset
        except KafkaError as error:
            raise TransientBrokerError(
                f"offsets of topic {topic_partition.topic}, partition {topic_partition.partition}: {describe(error)}"
            ) from error
        return offset

    def _broker_settings(self) -> dict[str, str]:
        """Return the settings of one broker; empty = it does not show them to this user.

        Raises:
            TransientBrokerError: no broker answers.
        """
        try:
            broker = str(self._admin.describe_cluster()["brokers"][0]["broker_id"])
            resource = ConfigResource(ConfigResourceType.BROKER, broker)
            told = self._admin.describe_configs([resource], config_filter="all").get("broker", {})
        except (KafkaError, LookupError, ValueError):
            return {}
        return _values(told.get(broker, {}))

    def _refuse_wrong_settings(self, needed: Sequence[NeededTopic], described: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise TopicError for a setting that does not fit; a topic without a description was created just now."""
        settings = self.settings([topic.name for topic in needed])
        for topic in needed:
            refuse_wrong_settings(topic, settings[topic.name], _replicas(described.get(topic.name)))

    def _describe(self, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Return the description of each topic that exists.

        Raises:
            TransientBrokerError: the broker did not answer for a topic.
        """
        described: dict[str, Mapping[str, Any]] = {}
        for topic in self._admin.describe_topics(list(names)):
            code = topic["error_code"]
            if code not in (0, UNKNOWN_TOPIC):
                error = for_code(code)(topic["name"])
                raise TransientBrokerError(f"partitions of topic {topic['name']}: {describe(error)}") from error
            if code == 0:
                described[topic["name"]] = topic
        return described


def no_input_topic(source: str) -> InputMissing:
    """Return the error of an input topic that does not exist."""
    return InputMissing(f"topic {source}: does not exist: create it, or correct FORECASTER_TOPICS__INPUT")


def _subscription(member: Mapping[str, Any]) -> Sequence[str]:
    """Return the topics that a member of a group has subscribed to; none for a member that is not a consumer."""
    metadata = member["member_metadata"]
    return metadata["topics"] if isinstance(metadata, Mapping) else ()


def _refuse_wrong_count(topic: NeededTopic, count: int, source: str, source_count: int) -> None:
    """Raise TopicError for a topic whose partition count is not the one that it needs."""
    if topic.partitions not in (None, count):
        raise TopicError(
            f"topic {topic.name} ({topic.purpose}): has {_partitions(count)}, it must have {topic.partitions}, because "
            "the order of all its records counts: delete it, or name another"
        )
    if topic.partitions is None and count != source_count:
        remedy = "delete it, or name another"
        if count < source_count:
            remedy = (
                f"add partitions with kafka-topics --alter --topic {topic.name} --partitions {source_count}; if they "
                'were added to the input, see "Add partitions" in deploy/README.md'
            )
        raise TopicError(
            f"topic {topic.name} ({topic.purpose}): has {_partitions(count)}, the input {source} has {source_count}; "
            f"they must be equal, because a forecast goes to the partition of its reading: {remedy}"
        )


def _partitions(count: int) -> str:
    return f"{count} partition" if count == 1 else f"{count} partitions"


def _replicas(topic: Mapping[str, Any] | None) -> int:
    """Return the replicas of the partition that has the fewest; 0 = unknown."""
    partitions = topic["partitions"] if topic is not None else []
    return min((len(partition["replica_nodes"]) for partition in partitions), default=0)


def _values(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the values of described settings; those without a value are left out."""
    return {name: str(setting["value"]) for name, setting in settings.items() if setting["value"] is not None}
