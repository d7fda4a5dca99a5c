"""The topics that forecaster needs: whether they exist and fit, and how they are created."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from forecaster.broker.connection import TRAINERS_SUFFIX, Connection
from forecaster.broker.retry import describe
from forecaster.errors import TopicError, TransientBrokerError

UNKNOWN_TOPIC = 3
"""Kafka's error code for a topic that does not exist."""
CREATE_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class NeededTopic:
    """A topic that forecaster writes.

    Attributes:
        name: name of the topic.
        purpose: what the topic holds, for people.
        settings: settings that the topic is created with.
        required: names of those settings that an existing topic must have, too.
        partitions: partition count that the topic must have; None = that of the input.
    """

    name: str
    purpose: str
    settings: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    partitions: int | None = None


class TopicAdmin:
    """Asks the broker about topics, and creates them; a context manager.

    Args:
        connection: address of the broker.
    """

    def __init__(self, connection: Connection) -> None:
        self._admin = KafkaAdminClient(**connection.admin_options())

    def __enter__(self) -> TopicAdmin:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._admin.close()

    def partition_counts(self, names: Sequence[str]) -> dict[str, int]:
        """Return the partition count of each topic that exists.

        Raises:
            TransientBrokerError: the broker did not answer for a topic.
        """
        counts: dict[str, int] = {}
        for topic in self._admin.describe_topics(list(names)):
            code = topic["error_code"]
            if code not in (0, UNKNOWN_TOPIC):
                raise TransientBrokerError(f"partitions of topic {topic['name']}: {for_code(code).__name__}")
            if code == 0:
                counts[topic["name"]] = len(topic["partitions"])
        return counts

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
        counts = self.partition_counts([source, *(topic.name for topic in needed)])
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
            self._check_settings(topic)
        return counts[source]

    def identity(self, name: str) -> tuple[str, str]:
        """Return the id of the cluster, and that of a topic; a topic that is deleted and created again has another."""
        cluster = self._admin.describe_cluster()["cluster_id"]
        return str(cluster), str(self._admin.describe_topics([name])[0]["topic_id"])

    def training_groups(self, models: str) -> list[str]:
        """Return the consumer groups whose trainers read a models topic now, in alphabetical order.

        The list is empty if the broker does not let this user ask, or answers in a way that the client cannot read.
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

    def _check_settings(self, topic: NeededTopic) -> None:
        """Raise TopicError for a wrong setting of a topic, TransientBrokerError while the broker does not tell it."""
        if not topic.required:
            return
        resource = ConfigResource(ConfigResourceType.TOPIC, topic.name)
        settings = self._admin.describe_configs([resource], config_filter="all")["topic"][topic.name]
        for name in topic.required:
            value = settings.get(name, {}).get("value")
            if value is None:  # the topic was created a moment ago
                raise TransientBrokerError(f"topic {topic.name}: the broker does not tell its {name} yet")
            if value != topic.settings[name]:
                raise TopicError(
                    f"topic {topic.name} ({topic.purpose}): {name} is {value}, it must be {topic.settings[name]}, "
                    "otherwise Kafka deletes records that are still needed: change it with kafka-configs --alter "
                    f"--add-config {name}={topic.settings[name]}"
                )


def no_input_topic(source: str) -> TopicError:
    """Return the error of an input topic that does not exist."""
    return TopicError(f"topic {source}: does not exist: create it, or correct FORECASTER_TOPICS__INPUT")


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
        raise TopicError(
            f"topic {topic.name} ({topic.purpose}): has {_partitions(count)}, the input {source} has {source_count}; "
            "they must be equal, because a forecast goes to the partition of its reading: delete it, or name another"
        )


def _partitions(count: int) -> str:
    return f"{count} partition" if count == 1 else f"{count} partitions"
