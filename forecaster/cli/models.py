"""`forecaster models`: the checkpoints on the models topic, and which of them serves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from forecaster.app.configs import connection, network_config
from forecaster.app.connect import ask_broker
from forecaster.app.topics import models_topic
from forecaster.broker.log_reader import LogReader
from forecaster.broker.retry import retry
from forecaster.broker.topics import TopicAdmin
from forecaster.broker.writer import write_records
from forecaster.cli.options import settings_with_broker
from forecaster.cli.terminal import console
from forecaster.core.checkpoint_ids import NO_CHECKPOINT, body_of
from forecaster.core.network.model import Checkpoint
from forecaster.errors import CheckpointError
from forecaster.formats.models import iso_time, publication, serve_message
from forecaster.printable import printable, printable_json
from forecaster.records import Message
from forecaster.registry.follower import read_registry
from forecaster.registry.orders import first_order, promotion_order, rollback_order, serving_now, unknown_checkpoint
from forecaster.registry.registry import MAX_PENDING_BYTES, ModelRegistry
from forecaster.settings import Settings

models = typer.Typer(no_args_is_help=True)
CheckpointId = Annotated[str, typer.Argument(help="Id as `forecaster models list` shows it; `none` = no network.")]


@models.command(name="list")
def list_models() -> None:
    """List the checkpoints: when published, readings, decision with both losses, and which one serves."""
    console().print(model_table(settings_with_broker()))


@models.command()
def show(checkpoint_id: CheckpointId) -> None:
    """Print a checkpoint's network, the facts of its training and its decision, as JSON."""
    typer.echo(printable_json(model_json(settings_with_broker(), checkpoint_id)))


@models.command()
def promote(checkpoint_id: CheckpointId) -> None:
    """Let all workers serve this checkpoint."""
    typer.echo(printable(promote_checkpoint(settings_with_broker(), checkpoint_id)))


@models.command()
def rollback() -> None:
    """Let all workers serve the last checkpoint that they served with another body."""
    typer.echo(printable(roll_back(settings_with_broker())))


def model_table(settings: Settings) -> Table:
    """Return a table with a row for each checkpoint, and for each decision whose checkpoint is gone."""
    registry = _registry(settings)
    serving = serving_now(registry, network_config(settings))
    caption = _caption(registry, serving)
    table = Table("id", "published", "readings", "decision", "loss", "champion's loss", "", caption=caption)
    table.columns[0].no_wrap = True
    for name in sorted({*registry.checkpoints, *registry.decisions, *registry.faults}):
        published, decision = registry.published(name), registry.decisions.get(name)
        table.add_row(
            name,
            iso_time(published.published_ms) if published else "",
            escape(str(published.description.facts.get("readings", ""))) if published else "",
            ("promoted" if decision.promoted else "rejected") if decision else "",
            _loss(decision.challenger_loss if decision else None),
            _loss(decision.champion_loss if decision else None),
            escape(_mark(registry, name, serving)),
        )
    return table


def model_json(settings: Settings, checkpoint_id: str) -> str:
    """Return everything that the topic holds of a checkpoint, as indented JSON.

    Raises:
        CheckpointError: the topic does not hold it.
    """
    registry = _registry(settings)
    published, decision = registry.published(checkpoint_id), registry.decisions.get(checkpoint_id)
    fault = registry.faults.get(checkpoint_id)
    if published is None and decision is None and fault is None:
        with _topic_in_errors(settings):
            raise unknown_checkpoint(registry, checkpoint_id)
    shown = {
        "id": checkpoint_id,
        "serving": _mark(registry, checkpoint_id, serving_now(registry, network_config(settings))),
        "fault": fault,
        "published": iso_time(published.published_ms) if published else None,
        "bytes": published.size if published else None,
        "description": published.description if published else None,
        "decision": decision,
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()


def promote_checkpoint(settings: Settings, checkpoint_id: str) -> str:
    """Let all workers serve the checkpoint; return a sentence for the operator.

    Raises:
        CheckpointError: the topic does not hold it, it must not be served, or it does not fit the settings.
    """
    registry = _registry(settings)
    published = registry.published(checkpoint_id)
    if published is not None and published.size > MAX_PENDING_BYTES:  # its weights have not been checked yet
        fault = _registry(settings, checkpoint_id).faults.get(checkpoint_id)
        if fault is not None:
            registry.refuse(checkpoint_id, fault)
    with _topic_in_errors(settings):
        order = promotion_order(registry, checkpoint_id, network_config(settings), _now())
    if order is None:
        return f"{checkpoint_id} serves already"
    _write(settings, [serve_message(order)])
    before = registry.serve.checkpoint if registry.serve else NO_CHECKPOINT
    return f"{checkpoint_id} will serve instead of {before}{_restart_note(settings, registry, checkpoint_id)}"


def roll_back(settings: Settings) -> str:
    """Let all workers serve the checkpoint of `rollback_order`; return a sentence for the operator.

    Raises:
        CheckpointError: no checkpoint served before, or it is not usable.
    """
    registry = _registry(settings)
    with _topic_in_errors(settings):
        order = rollback_order(registry, network_config(settings), _now())
    _write(settings, [serve_message(order)])
    target, champion = order.checkpoint, order.previous
    is_same_body = body_of(target) == body_of(champion)
    body_note = " (a readout of the same body: no other body is left)" if is_same_body else ""
    return f"{target} will serve again instead of {champion}{body_note}{_restart_note(settings, registry, target)}"


def ensure_models_topic(settings: Settings) -> None:
    """Create the models topic if it is missing and TOPICS__CREATE allows it; raise TopicError if it does not fit."""
    ask_broker(settings, lambda topics: _ensure(settings, topics, create=settings.topics.create))


def publish_checkpoint(settings: Settings, checkpoint: Checkpoint) -> str:
    """Write the checkpoint to the models topic, and let it serve if it is the first; return a sentence about it."""
    messages, topic = publication(checkpoint), settings.topics.named("models")
    order = first_order(_registry(settings), checkpoint.id, _now())
    if order is not None:
        messages.append(serve_message(order))
    _write(settings, messages)
    if order is not None:
        return f"{checkpoint.id} is published to {topic} and will serve, because no checkpoint has served before"
    return f"published to {topic}; to serve it: forecaster models promote {checkpoint.id}"


def _registry(settings: Settings, only: str = "") -> ModelRegistry:
    """Return the content of the models topic.

    Args:
        settings: settings of the command.
        only: the one checkpoint whose weights are checked, however large; empty = all that are small enough.
    """

    def read(topics: TopicAdmin) -> ModelRegistry:
        _ensure(settings, topics, create=False)
        with closing(LogReader(connection(settings), topics)) as reader:
            return read_registry(reader, settings.topics.named("models"), only)

    return ask_broker(settings, read)


def _ensure(settings: Settings, topics: TopicAdmin, *, create: bool) -> None:
    topics.ensure(settings.topics.input, [models_topic(settings)], create=create)


def _write(settings: Settings, messages: list[Message]) -> None:
    """Write the records to the models topic; a repetition does no harm."""
    topic, deadline = settings.topics.named("models"), settings.kafka.connect_deadline / 1000
    retry(
        lambda: write_records(connection(settings), topic, messages), f"writing to {topic}", deadline, threading.Event()
    )


@contextmanager
def _topic_in_errors(settings: Settings) -> Iterator[None]:
    """Name the models topic in every CheckpointError of the block."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"topic {settings.topics.named('models')}: {error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _restart_note(settings: Settings, registry: ModelRegistry, checkpoint_id: str) -> str:
    """Return what to do if the rows of running workers have no room for the checkpoint's hidden state; else nothing."""
    published = registry.published(checkpoint_id)
    if published is None:
        return ""
    if published.description.network.state_size <= network_config(settings).state_size:
        return ""
    return (
        "; its hidden state needs more space than NETWORK__HIDDEN_SIZE and NETWORK__LAYERS give: restart the running "
        "workers so that they can serve it"
    )


def _caption(registry: ModelRegistry, serving: str) -> str:
    """Return which checkpoint was ordered to serve, and which one serves instead if it cannot."""
    serve = registry.serve
    if serve is None:
        return "nothing is promoted yet: forecasts are made without a network"
    order = f"champion: {serve.checkpoint} ({serve.reason}, by the {serve.by}, {serve.at})"
    instead = "" if serving == serve.checkpoint else f"; it cannot be served, and {serving} serves instead"
    return escape(order + instead)


def _mark(registry: ModelRegistry, checkpoint_id: str, serving: str) -> str:
    """Return what the table says about a checkpoint: refused and why, serving, previous, or nothing."""
    serve = registry.serve
    if checkpoint_id in registry.faults:
        return f"refused: {registry.faults[checkpoint_id]}"
    if serve is not None and checkpoint_id == serving:
        return "serving"
    return "previous" if serve is not None and checkpoint_id == serve.previous else ""


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.5f}"
