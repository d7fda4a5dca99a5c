"""`forecaster topics`: the topics that the daemon needs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from forecaster.app.connect import ask_broker
from forecaster.app.topics import needed_topics
from forecaster.broker.needed_topics import NeededTopic
from forecaster.cli.options import settings_with_broker
from forecaster.cli.terminal import console
from forecaster.settings import Settings


def topics(
    *,
    create: Annotated[bool, typer.Option("--create", help="Create the topics that are missing.")] = False,
) -> None:
    """List the topics that the daemon needs with their settings; create missing ones with --create."""
    settings = settings_with_broker()
    if create:
        ask_broker(settings, lambda topics: topics.ensure(settings.topics.input, needed_topics(settings), create=True))
    console().print(topic_table(settings))


def topic_table(settings: Settings) -> Table:
    """Return a table of the input and of all needed topics: purpose, number of partitions, settings."""
    needed = needed_topics(settings)
    names = [settings.topics.input, *(topic.name for topic in needed)]
    counts = ask_broker(settings, lambda topics: topics.partition_counts(names))
    table = Table("topic", "purpose", "partitions", "settings")
    for topic in [NeededTopic(settings.topics.input, "input, never created"), *needed]:
        count = counts.get(topic.name)
        wanted = ", ".join(f"{name}={value}" for name, value in topic.settings.items()) or "the broker's defaults"
        table.add_row(topic.name, topic.purpose, "missing" if count is None else str(count), wanted)
    return table
