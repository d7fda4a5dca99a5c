"""The topics that are needed, whether they fit, and how they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from forecaster.broker.connection import TRAINERS, Connection
from forecaster.errors import TopicError, TransientBrokerError

UNKNOWN_TOPIC = 3
CREATE_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class NeededTopic:
    """A topic of ours, and its settings when it is made.

    Attributes:
        name: of the topic.
        purpose: for people.
        settings: given to it when it is made.
        required: those of the settings without which it is refused.
        partitions: how many it must have; None = as many as the input.
    """

    name: str
    purpose: str
    settings: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    partitions: int | None = None


class TopicAdmin:
    """Asks the broker about topics; a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._admin = KafkaAdminClient(**connection.admin_options())

    def __enter__(self) -> TopicAdmin:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """The connection is closed."""
        self._admin.close()

    def partition_counts(self, names: Sequence[str]) -> dict[str, int]:
        """Returns the partition counts of those topics that exist.

        Raises:
            TransientBrokerError: the broker could not say.
        """
        found: dict[str, int] = {}
        for topic in self._admin.describe_topics(list(names)):
            code = topic["error_code"]
            if code not in (0, UNKNOWN_TOPIC):
                raise TransientBrokerError(f"topic {topic['name']}: {for_code(code).__name__}")
            if code == 0:
                found[topic["name"]] = len(topic["partitions"])
        return found

    def create(self, needed: Sequence[NeededTopic], partitions: int) -> None:
        """The topics exist, with as many partitions where they ask for no others.

        One that somebody else made meanwhile is as good.
        """
        for topic in needed:
            new = NewTopic(topic.name, topic.partitions or partitions, -1, topic_configs=topic.settings)
            try:
                self._admin.create_topics([new], timeout_ms=CREATE_TIMEOUT_MS)
            except TopicAlreadyExistsError:
                continue

    def ensure(self, source: str, needed: Sequence[NeededTopic], *, create: bool) -> int:
        """Returns the input's partition count, which all outputs share that ask for no other.

        Args:
            source: the input topic; it is never made.
            needed: the outputs.
            create: missing outputs are made.

        Raises:
            TopicError: a topic is missing, or has another partition count than it must; names it.
        """
        names = [source, *(topic.name for topic in needed)]
        found = self.partition_counts(names)
        if source not in found:
            raise TopicError(f"topic {source}: does not exist: create it, or correct FORECASTER_TOPICS__INPUT")
        missing = [topic for topic in needed if topic.name not in found]
        if missing and create:
            self.create(missing, found[source])
            found |= {topic.name: topic.partitions or found[source] for topic in missing}
        for topic in needed:
            if topic.name not in found:
                raise TopicError(
                    f"topic {topic.name} ({topic.purpose}): does not exist: create it with "
                    f"{_partitions(topic.partitions or found[source])} (`forecaster topics --create`), or set "
                    "FORECASTER_TOPICS__CREATE=true"
                )
            _refuse_other_count(topic, found[topic.name], source, found[source])
            self._verify(topic)
        return found[source]

    def identity(self, name: str) -> tuple[str, str]:
        """Returns the cluster's id and the topic's: another one when the topic was deleted and made again."""
        cluster = self._admin.describe_cluster()["cluster_id"]
        return str(cluster), str(self._admin.describe_topics([name])[0]["topic_id"])

    def training_groups(self, models: str) -> list[str]:
        """Returns the groups whose trainers read a models topic now; none where we may not ask."""
        try:
            names = [one["group_id"] for one in self._admin.list_groups() if one["group_id"].endswith(TRAINERS)]
            groups = self._admin.describe_groups(names) if names else {}
        except (KafkaError, ValueError):  # or the client cannot read what some other broker says
            return []
        return sorted(
            name.removesuffix(TRAINERS)
            for name, group in groups.items()
            if any(models in _subscribed(member) for member in group["members"])
        )

    def bounds(self, name: str, partition: int) -> tuple[int, int]:
        """Returns the first offset of a partition and the next one, its high watermark.

        Raises:
            TransientBrokerError: the broker could not say.
        """
        where = TopicPartition(name, partition)
        return self._offset(where, OffsetSpec.EARLIEST), self._offset(where, OffsetSpec.LATEST)

    def offset_at(self, name: str, partition: int, timestamp_ms: int) -> int:
        """Returns the first offset written at a time (epoch ms) or later; the high watermark where there is none.

        Raises:
            TransientBrokerError: the broker could not say.
        """
        where = TopicPartition(name, partition)
        found = self._offset(where, max(timestamp_ms, 0))
        return found if found >= 0 else self._offset(where, OffsetSpec.LATEST)

    def _offset(self, where: TopicPartition, spec: int) -> int:
        try:
            offset: int = self._admin.list_partition_offsets({where: spec})[where].offset
        except KafkaError as error:
            raise TransientBrokerError(f"offsets of {where.topic}: {type(error).__name__}: {error}") from error
        return offset

    def _verify(self, topic: NeededTopic) -> None:
        """The topic has the settings that it must have; raises TopicError, or TransientBrokerError: not known yet."""
        if not topic.required:
            return
        resource = ConfigResource(ConfigResourceType.TOPIC, topic.name)
        found = self._admin.describe_configs([resource], config_filter="all")["topic"][topic.name]
        for name in topic.required:
            value = found.get(name, {}).get("value")
            if value is None:  # a topic that was only just made
                raise TransientBrokerError(f"topic {topic.name}: the broker does not tell its {name} yet")
            if value != topic.settings[name]:
                raise TopicError(
                    f"topic {topic.name} ({topic.purpose}): {name} is {value}, it must be {topic.settings[name]}: "
                    f"change it (kafka-configs --alter --add-config {name}={topic.settings[name]}), since with any "
                    "other value what is kept there is lost"
                )


def _subscribed(member: Mapping[str, Any]) -> Sequence[str]:
    """Returns the topics of a member of a group; none of those that are no consumers."""
    metadata = member["member_metadata"]
    return metadata["topics"] if isinstance(metadata, Mapping) else ()


def _refuse_other_count(topic: NeededTopic, found: int, source: str, wanted: int) -> None:
    """Raises TopicError where the topic does not have as many partitions as it must, `wanted` of them as its source."""
    if topic.partitions not in (None, found):
        raise TopicError(
            f"topic {topic.name} ({topic.purpose}): has {_partitions(found)}, it must have {topic.partitions}, since "
            "the order of all its records counts: delete it, or name another"
        )
    if topic.partitions is None and found != wanted:
        raise TopicError(
            f"topic {topic.name} ({topic.purpose}): has {_partitions(found)}, the input {source} has {wanted}: "
            "they must be equal, since a forecast goes to the partition of its reading"
        )


def _partitions(count: int) -> str:
    return f"{count} partition" if count == 1 else f"{count} partitions"
