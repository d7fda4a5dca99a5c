"""The topics that forecaster writes, and the settings of topics and brokers that it cannot work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from forecaster.errors import TopicError, TransientBrokerError

MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's default of `max.message.bytes`; it takes every record that forecaster writes."""


@dataclass(frozen=True, slots=True)
class NeededTopic:
    """A topic that forecaster writes.

    Attributes:
        name: name of the topic.
        purpose: what the topic holds, for people.
        settings: settings that the topic is created with.
        required: names of those settings that an existing topic must have, too.
        partitions: partition count that the topic must have; None = that of the input.
        batch_bytes: largest batch of records that is written to it; a single record is a batch, too.
    """

    name: str
    purpose: str
    settings: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    partitions: int | None = None
    batch_bytes: int = 0


class SeenTopic(NamedTuple):
    """What the broker knows of a topic.

    Attributes:
        topic_id: id of the topic, which changes when it is deleted and created again.
        partitions: number of its partitions.
        replicas: replicas of the partition that has the fewest.
    """

    topic_id: str
    partitions: int
    replicas: int


@dataclass(frozen=True, slots=True)
class ClientTimes:
    """Times of this process that settings of the input and of the broker must allow.

    Attributes:
        transaction_timeout_ms: time after which the broker aborts a transaction.
        session_timeout_ms: KAFKA__SESSION_TIMEOUT.
        replay_ms: age of the oldest reading that a replay may need.
    """

    transaction_timeout_ms: int
    session_timeout_ms: int
    replay_ms: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of a comparison that refuses nothing.

    Attributes:
        warnings: settings of the input with which state can be lost.
        unknown: topics, or `broker`, whose settings were not reported: usually, the right DescribeConfigs is missing.
    """

    warnings: list[str]
    unknown: list[str]


def refuse_wrong_settings(topic: NeededTopic, settings: Mapping[str, str], replicas: int) -> None:
    """Check the settings of a topic that forecaster writes; those that the broker does not report are not checked.

    Args:
        topic: the topic.
        settings: its settings.
        replicas: replicas of its partition that has the fewest; 0 = unknown.

    Raises:
        TopicError: a setting does not fit.
        TransientBrokerError: the broker does not report a required setting.
    """
    for name in topic.required:
        value = settings.get(name)
        if value is None:  # the topic was created a moment ago
            raise TransientBrokerError(f"topic {topic.name}: the broker does not report its {name} yet")
        if value != topic.settings[name]:
            raise _unfit(
                topic,
                f"{name} is {value}, it must be {topic.settings[name]}, otherwise Kafka deletes records that are still "
                "needed",
                f"{name}={topic.settings[name]}",
            )
    largest = int(settings.get("max.message.bytes", topic.batch_bytes))
    if largest < topic.batch_bytes:
        raise _unfit(
            topic,
            f"max.message.bytes is {largest}, but batches of records of up to {topic.batch_bytes} bytes are written to "
            "it, and Kafka would refuse them",
            f"max.message.bytes={max(MAX_MESSAGE_BYTES, topic.batch_bytes)}",
        )
    in_sync = int(settings.get("min.insync.replicas", 0))
    if 0 < replicas < in_sync:
        raise _unfit(
            topic,
            f"min.insync.replicas is {in_sync}, but the replication factor is {replicas}: nothing can be written",
            f"min.insync.replicas={replicas}",
            "add replicas with kafka-reassign-partitions, or ",
        )


def refuse_wrong_broker(settings: Mapping[str, str], times: ClientTimes) -> None:
    """Check the settings of a broker; those that it does not report are not checked.

    Raises:
        TopicError: the broker would refuse the transactions, or the members of the consumer group.
    """
    longest = int(settings.get("transaction.max.timeout.ms", times.transaction_timeout_ms))
    if longest < times.transaction_timeout_ms:
        raise TopicError(
            f"broker: transaction.max.timeout.ms is {longest}, but forecaster's transactions have a time-out of "
            f"{times.transaction_timeout_ms} ms: raise it in server.properties of all brokers"
        )
    session = times.session_timeout_ms
    least = int(settings.get("group.min.session.timeout.ms", session))
    most = int(settings.get("group.max.session.timeout.ms", session))
    if not least <= session <= most:
        raise TopicError(
            f"broker: FORECASTER_KAFKA__SESSION_TIMEOUT is {session} ms, but the broker allows {least} to {most} ms "
            "(group.min.session.timeout.ms, group.max.session.timeout.ms): change the variable, or the broker's "
            "settings in server.properties"
        )


def input_warnings(source: str, settings: Mapping[str, str], times: ClientTimes) -> list[str]:
    """Return why state can be lost with these settings of the input.

    Args:
        source: name of the input topic.
        settings: its settings.
        times: times of this process.
    """
    policies = settings.get("cleanup.policy", "").split(",")
    retention = int(settings.get("retention.ms", -1))
    warnings: list[str] = []
    if "compact" in policies:
        warnings.append(
            f"topic {source} (input): cleanup.policy is {settings['cleanup.policy']}: a replay cannot read records "
            "that compaction has removed, so that a restore after a failure can lose readings: use cleanup.policy="
            "delete"
        )
    if "delete" in policies and 0 <= retention < times.replay_ms:
        warnings.append(
            f"topic {source} (input): retention.ms is {retention}, but a restore may need readings of the last "
            f"{times.replay_ms} ms: raise retention.ms, or shorten FORECASTER_STATE__SNAPSHOT_INTERVAL"
        )
    return warnings


def unknown_settings(names: Sequence[str], settings: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the names without settings: topics, or `broker`, that the broker does not let this user ask about."""
    return [name for name in names if not settings.get(name)]


def _unfit(topic: NeededTopic, problem: str, setting: str, before: str = "") -> TopicError:
    """Return the error of a setting, with the command that changes it."""
    return TopicError(
        f"topic {topic.name} ({topic.purpose}): {problem}: {before}change it with kafka-configs --alter --entity-type "
        f"topics --entity-name {topic.name} --add-config {setting}"
    )
