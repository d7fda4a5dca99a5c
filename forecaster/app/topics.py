"""The topics that a process needs, and how large the records are that are written to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forecaster.app.configs import connection, horizons, network_config, state_config
from forecaster.broker.connection import TRANSACTION_TIMEOUT_MS
from forecaster.broker.needed_topics import MAX_MESSAGE_BYTES, ClientTimes, NeededTopic
from forecaster.formats import history, models, readings
from forecaster.serving.state.config import UNSTORED
from forecaster.settings import Settings

COMPACTED_TOPIC = {"cleanup.policy": "compact", "segment.bytes": "67108864", "segment.ms": "600000"}
"""Kafka compacts closed segments only, and every restore reads the others in full: small segments keep it fast."""
BATCH_OVERHEAD = 16_384
"""Bytes of a batch of records in addition to the content of its largest record: key, headers, names of arrays."""
NUMBER_BYTES = 26
"""Bytes of a number in JSON with its comma, at most."""
COLUMNS = 5
"""Numbers for each horizon in a record of forecasts or scores in addition to the quantiles, at most."""
ID_COPIES = 4
"""Room for a series id in a record, in lengths of the id: it is the key, and escaped in JSON."""
DEAD_LETTER_PARTS = 4
"""Number of parts of a dead letter, none of which is larger than a value: key, value, headers, detail."""


def needed_topics(settings: Settings) -> list[NeededTopic]:
    """Return the output topics.

    Raises:
        UsageError: the settings make rows that are too large for a record of the state topic.
    """
    topics = settings.topics
    optional = {"scores of the forecasts": topics.scores, "denoised readings": topics.denoised}
    numbers = len(horizons(settings)) * (len(settings.forecast.quantile_levels) + COLUMNS)
    published = _batch_bytes(settings, numbers * NUMBER_BYTES + ID_COPIES * readings.MAX_SERIES_ID_BYTES)
    dead_letters = _batch_bytes(settings, DEAD_LETTER_PARTS * readings.MAX_VALUE_BYTES)
    state = _batch_bytes(settings, state_config(settings, network_config(settings).state_size, UNSTORED).record_bytes)
    kept = {"cleanup.policy": "delete", "retention.ms": str(settings.training.window)}
    return [
        _needed(topics.named("forecasts"), "forecasts", published),
        _needed(topics.named("dead_letters"), "dead letters", dead_letters),
        _needed(topics.named("state"), "state of the series", state, COMPACTED_TOPIC, required=("cleanup.policy",)),
        models_topic(settings),
        _needed(topics.named("history"), "readings to train on", _batch_bytes(settings, history.MAX_VALUE_BYTES), kept),
        *(_needed(name, purpose, published) for purpose, name in optional.items() if name),
    ]


def models_topic(settings: Settings) -> NeededTopic:
    """Return the topic of the checkpoints; it has one partition, because the order of all its records counts."""
    name, size = settings.topics.named("models"), _batch_bytes(settings, models.CHUNK_BYTES)
    return replace(_needed(name, "checkpoints", size, COMPACTED_TOPIC, required=("cleanup.policy",)), partitions=1)


def client_times(settings: Settings) -> ClientTimes:
    """Return the times that the settings of the input and of the broker must allow."""
    return ClientTimes(
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        session_timeout_ms=settings.kafka.session_timeout,
        replay_ms=settings.state.snapshot_interval,
    )


def _batch_bytes(settings: Settings, record_bytes: int) -> int:
    """Return the size of the largest batch of a topic: one record of at most this size, or many small ones."""
    many: int = connection(settings).producer_options("")["batch_size"]
    return max(record_bytes + BATCH_OVERHEAD, many)


def _needed(
    name: str, purpose: str, batch_bytes: int, settings: Mapping[str, str] | None = None, required: tuple[str, ...] = ()
) -> NeededTopic:
    """Return a topic that is created with the settings, and so that its largest batch fits."""
    created = {**(settings or {}), "max.message.bytes": str(max(MAX_MESSAGE_BYTES, batch_bytes))}
    return NeededTopic(name, purpose, created, required, batch_bytes=batch_bytes)
