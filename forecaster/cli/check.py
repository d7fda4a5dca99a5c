"""`forecaster check` and `forecaster topics`: what would go wrong, before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import SecretStr
from rich.table import Table

from forecaster.app.configs import fixed_checkpoint, needed_topics, training_schedule
from forecaster.app.daemon import opened_state, with_topics
from forecaster.broker.topics import NeededTopic, TopicAdmin
from forecaster.cli.terminal import console
from forecaster.core.network.model import NO_CHECKPOINT
from forecaster.errors import TopicError
from forecaster.serving.state.restore import Restorer
from forecaster.settings import Settings, variables
from forecaster.settings.example import as_written


def check_everything(settings: Settings) -> None:
    """Everything that `run` needs was looked at, and printed; raises what `run` would raise."""
    to = console()
    to.print(_settings_table(settings))
    fixed_checkpoint(settings)  # before anybody is asked
    training_schedule(settings)
    with_topics(settings, lambda topics: _check_topics(settings, topics))
    for line in with_topics(settings, lambda topics: _stored(settings, topics)):
        to.print(line)
    topic_table(settings, needed_topics(settings))
    to.print(_rights_table(settings))
    to.print("everything fits")


def create_topics(settings: Settings, needed: Sequence[NeededTopic]) -> None:
    """The missing output topics exist."""
    with_topics(settings, lambda topics: topics.ensure(settings.topics.input, needed, create=True))


def topic_table(settings: Settings, needed: Sequence[NeededTopic]) -> None:
    """The topics were printed: what for, how many partitions, which are missing."""
    names = [settings.topics.input, *(topic.name for topic in needed)]
    found = with_topics(settings, lambda topics: topics.partition_counts(names))
    table = Table("topic", "purpose", "partitions", "settings")
    for topic in [NeededTopic(settings.topics.input, "input, never created"), *needed]:
        count = found.get(topic.name)
        wanted = ", ".join(f"{name}={value}" for name, value in topic.settings.items()) or "the broker's defaults"
        table.add_row(topic.name, topic.purpose, "missing" if count is None else str(count), wanted)
    console().print(table)


def needed_rights(settings: Settings) -> list[tuple[str, str]]:
    """Returns on what the daemon needs which rights where the topics are there; `SECURITY.md` has the same list."""
    topics, group = settings.topics, settings.kafka.group_id
    written = [topics.named("forecasts"), topics.named("dead_letters"), topics.scores, topics.denoised]
    return [
        (f"topic {topics.input}", "Read"),
        *((f"topic {name}", "Write") for name in written if name),
        (f"topic {topics.named('state')}", "Read, Write, DescribeConfigs"),
        (f"topic {topics.named('models')}", "Read, Write, DescribeConfigs"),
        (f"topic {topics.named('history')}", "Read, Write"),
        (f"groups that begin with {group}", "Read"),
        (f"transactional ids that begin with {group}", "Write"),
    ]


def _check_topics(settings: Settings, topics: TopicAdmin) -> None:
    """Missing outputs are well where `run` would create them."""
    source, needed = settings.topics.input, needed_topics(settings)
    found = topics.partition_counts([source, *(topic.name for topic in needed)])
    if source not in found:
        raise TopicError(f"topic {source}: does not exist: create it, or correct FORECASTER_TOPICS__INPUT")
    existing = [topic for topic in needed if topic.name in found or not settings.topics.create]
    topics.ensure(source, existing, create=False)
    others = [
        name for name in topics.training_groups(settings.topics.named("models")) if name != settings.kafka.group_id
    ]
    if others:
        raise TopicError(
            f"topic {settings.topics.named('models')}: group {', '.join(others)} trains on it, too: give this group "
            "its own FORECASTER_TOPICS__FORECASTS, DEAD_LETTERS, MODELS and HISTORY"
        )


def _stored(settings: Settings, topics: TopicAdmin) -> list[str]:
    """Returns what `run` would serve, what a series takes, and what would become of the stored state.

    Raises what `run` would raise.
    """
    names = settings.topics
    found = topics.partition_counts([names.input, names.named("state")])
    with opened_state(settings, topics) as (follower, restorer):
        name = (
            f"{NO_CHECKPOINT} (the last value, until one is trained)"
            if follower.champion == NO_CHECKPOINT
            else follower.champion
        )
        lines = [
            f"checkpoint: {name}",
            f"memory: {restorer.config.state_config.row_bytes:,} bytes a series, beside its name",
        ]
        if names.named("state") not in found:
            return [*lines, "state: none is stored yet"]
        return lines + _verdicts(restorer, found[names.input])


def _verdicts(restorer: Restorer, partitions: int) -> list[str]:
    plans = [restorer.plan(number) for number in range(partitions)]
    verdicts = Counter((plan.recovery.value, plan.reason) for plan in plans)
    return [
        f"state: {count} of {len(plans)} partitions would be: {how}{f' ({reason})' if reason else ''}"
        for (how, reason), count in verdicts.items()
    ]


def _rights_table(settings: Settings) -> Table:
    table = Table("on", "rights that are needed (not asked for here)")
    for on, rights in needed_rights(settings):
        table.add_row(on, rights)
    return table


def _settings_table(settings: Settings) -> Table:
    table = Table("variable", "value")
    for variable, (group, name) in variables().items():
        value = getattr(getattr(settings, group) if group else settings, name)
        is_secret = isinstance(value, SecretStr) and bool(value.get_secret_value())
        table.add_row(variable, "(hidden)" if is_secret else as_written(group, name, value))
    return table
