"""`forecaster models` and `train --publish`: what is on the models topic, and what of it is served."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import UTC, datetime

import msgspec
from rich.table import Table

from forecaster.app.configs import connection, models_topic, network_config
from forecaster.app.daemon import with_topics
from forecaster.broker.log_reader import LogReader
from forecaster.broker.retry import retry
from forecaster.broker.topics import TopicAdmin
from forecaster.broker.writer import write_records
from forecaster.core.network.model import NO_CHECKPOINT, Checkpoint, body_of
from forecaster.core.network.network import Network
from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import refuse_other_network
from forecaster.formats.models import Serve, iso_time, publication, serve_message
from forecaster.records import Message
from forecaster.registry.follower import read_registry
from forecaster.registry.registry import ModelRegistry
from forecaster.settings import Settings


def model_table(settings: Settings) -> Table:
    """Returns a row for each checkpoint, and for each decision whose checkpoint is gone."""
    registry = _registry(settings)
    table = Table("id", "published", "readings", "decision", "loss", "champion's loss", "", caption=_serving(registry))
    table.columns[0].no_wrap = True
    for name in sorted({*registry.checkpoints, *registry.decisions, *registry.faults}):
        published, decision = registry.published(name), registry.decisions.get(name)
        table.add_row(
            name,
            iso_time(published.published_ms) if published else "",
            str(published.description.facts.get("readings", "")) if published else "",
            ("promoted" if decision.promoted else "rejected") if decision else "",
            _loss(decision.challenger_loss if decision else None),
            _loss(decision.champion_loss if decision else None),
            _mark(registry, name),
        )
    return table


def model_json(settings: Settings, checkpoint_id: str) -> str:
    """Returns all that is known of a checkpoint, as JSON for people.

    Raises:
        CheckpointError: the topic does not have it.
    """
    registry = _registry(settings)
    published, decision = registry.published(checkpoint_id), registry.decisions.get(checkpoint_id)
    if published is None and decision is None:
        raise _unknown(settings, registry, checkpoint_id)
    shown = {
        "id": checkpoint_id,
        "serving": _mark(registry, checkpoint_id),
        "published": iso_time(published.published_ms) if published else None,
        "bytes": published.size if published else None,
        "description": published.description if published else None,
        "decision": decision,
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()


def promote(settings: Settings, checkpoint_id: str) -> str:
    """The fleet is to serve the checkpoint; returns a sentence that says so.

    Raises:
        CheckpointError: the topic does not have it, or it forecasts something else than the settings ask for.
    """
    registry = _registry(settings)
    now = registry.serve.checkpoint if registry.serve else NO_CHECKPOINT
    _refuse_unusable(settings, registry, checkpoint_id)
    if now == checkpoint_id:
        return f"{checkpoint_id} is served already"
    _write(settings, [_ordered(checkpoint_id, now, "promoted by hand")])
    return f"{checkpoint_id} is to be served, instead of {now}{_larger(settings, registry, checkpoint_id)}"


def roll_back(settings: Settings) -> str:
    """The fleet is to serve the last other body that it served; returns a sentence that says so.

    A new readout of a bad body is as bad: where all that is known is of the same body, it goes back to the readout
    before.

    Raises:
        CheckpointError: nothing was served before, or it cannot be served any more.
    """
    registry = _registry(settings)
    if registry.serve is None:
        topic = settings.topics.named("models")
        raise CheckpointError(f"topic {topic}: no checkpoint was ever promoted: there is nothing to go back to")
    now = registry.serve.checkpoint
    others = (name for name in registry.superseded if body_of(name) != body_of(now))
    before = next((name for name in others if _is_usable(settings, registry, name)), registry.serve.previous)
    _refuse_unusable(settings, registry, before)
    _write(settings, [_ordered(before, now, "rolled back by hand")])
    of_same = ", another readout of the same body: no other one is left" if body_of(before) == body_of(now) else ""
    return f"{before} is to be served again, instead of {now}{of_same}{_larger(settings, registry, before)}"


def ensure_models_topic(settings: Settings) -> None:
    """The topic fits, or was made where TOPICS__CREATE says so; raises TopicError where it does not."""
    with_topics(settings, lambda topics: _ensure(settings, topics, create=settings.topics.create))


def publish(settings: Settings, checkpoint: Checkpoint) -> str:
    """The checkpoint is on the topic, and is to be served where nothing was so far; returns a sentence that says so."""
    messages, topic = publication(checkpoint), settings.topics.named("models")
    first = _registry(settings).serve is None
    if first:
        messages.append(_ordered(checkpoint.id, NO_CHECKPOINT, "the first one that was published"))
    _write(settings, messages)
    if first:
        return f"published to {topic}, and to be served, since nothing was: {checkpoint.id}"
    return f"published to {topic}, not served before `forecaster models promote {checkpoint.id}`"


def _registry(settings: Settings) -> ModelRegistry:
    def read(topics: TopicAdmin) -> ModelRegistry:
        _ensure(settings, topics, create=False)
        with closing(LogReader(connection(settings), topics)) as reader:
            return read_registry(reader, settings.topics.named("models"))

    return with_topics(settings, read)


def _ensure(settings: Settings, topics: TopicAdmin, *, create: bool) -> None:
    topics.ensure(settings.topics.input, [models_topic(settings)], create=create)


def _write(settings: Settings, messages: list[Message]) -> None:
    """The records are on the topic; written twice, they say the same."""
    topic, deadline = settings.topics.named("models"), settings.kafka.connect_deadline / 1000
    retry(
        lambda: write_records(connection(settings), topic, messages), f"writing to {topic}", deadline, threading.Event()
    )


def _ordered(checkpoint_id: str, previous: str, reason: str) -> Message:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return serve_message(Serve(checkpoint_id, previous, "operator", at, reason))


def _refuse_unusable(settings: Settings, registry: ModelRegistry, checkpoint_id: str) -> None:
    if checkpoint_id == NO_CHECKPOINT:
        return
    published = registry.published(checkpoint_id)
    if published is None:
        raise _unknown(settings, registry, checkpoint_id)
    refuse_other_network(published.description.network, network_config(settings), f"checkpoint {checkpoint_id}")


def _is_usable(settings: Settings, registry: ModelRegistry, checkpoint_id: str) -> bool:
    try:
        _refuse_unusable(settings, registry, checkpoint_id)
    except CheckpointError:
        return False
    return True


def _larger(settings: Settings, registry: ModelRegistry, checkpoint_id: str) -> str:
    """Returns what to do where workers that run have no room for the checkpoint's hidden states; else nothing."""
    published = registry.published(checkpoint_id)
    if published is None:
        return ""
    needed, room = (Network(one).state_size for one in (published.description.network, network_config(settings)))
    if needed <= room:
        return ""
    return (
        "; its hidden state is larger than NETWORK__HIDDEN_SIZE and LAYERS ask for: "
        "a worker that began without it serves it after a restart"
    )


def _unknown(settings: Settings, registry: ModelRegistry, checkpoint_id: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {checkpoint_id}, topic {settings.topics.named('models')}: {registry.why_not(checkpoint_id)}; "
        "`forecaster models list` shows what there is"
    )


def _serving(registry: ModelRegistry) -> str:
    serve = registry.serve
    if serve is None:
        return "nothing is promoted yet: forecasts are made without a network"
    return f"to be served: {serve.checkpoint} ({serve.reason}, by the {serve.by}, {serve.at})"


def _mark(registry: ModelRegistry, checkpoint_id: str) -> str:
    serve = registry.serve
    if checkpoint_id in registry.faults:
        return "damaged"
    if serve is not None and checkpoint_id == serve.checkpoint:
        return "serving"
    return "previous" if serve is not None and checkpoint_id == serve.previous else ""


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.5f}"
