"""`forecaster check`: finds what would stop `forecaster run`; access rights are only listed."""

from __future__ import annotations

from collections import Counter

from pydantic import SecretStr
from rich.table import Table

from forecaster.app.configs import connection, fixed_checkpoint, training_schedule
from forecaster.app.connect import ask_broker, open_state
from forecaster.app.rights import needed_rights
from forecaster.app.topics import client_times, needed_topics
from forecaster.broker.topics import TopicAdmin, no_input_topic
from forecaster.cli.options import settings_with_broker
from forecaster.cli.terminal import console
from forecaster.cli.topics import topic_table
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.errors import TopicError
from forecaster.serving.state.restore import Restorer
from forecaster.settings import Settings, variables
from forecaster.settings.example import as_written


def check() -> None:
    """Check settings, checkpoint, broker, topics and stored state; exit with the code of the first problem."""
    settings = settings_with_broker()
    connection(settings)  # an unknown option is refused before its value is shown
    terminal = console()
    terminal.print(_settings_table(settings))
    fixed_checkpoint(settings)  # a wrong setting is reported before the broker is asked
    training_schedule(settings)
    for line in ask_broker(settings, lambda topics: _check_topics(settings, topics)):
        terminal.print(line, markup=False)
    for line in ask_broker(settings, lambda topics: _state_lines(settings, topics)):
        terminal.print(line, markup=False)
    terminal.print(topic_table(settings))
    terminal.print(_rights_table(settings))
    terminal.print("settings, checkpoint, topics and stored state fit; rights were not checked")


def _check_topics(settings: Settings, topics: TopicAdmin) -> list[str]:
    """Return lines about settings with which state can be lost, and about settings that this user may not read.

    Raises:
        TopicError: a topic or the broker does not fit, or a topic is missing and `run` would not create it.
    """
    source, needed = settings.topics.input, needed_topics(settings)
    counts = topics.partition_counts([source, *(topic.name for topic in needed)])
    if source not in counts:
        raise no_input_topic(source)
    existing = [topic for topic in needed if topic.name in counts or not settings.topics.create]
    topics.ensure(source, existing, create=False)
    others = [
        name for name in topics.training_groups(settings.topics.named("models")) if name != settings.kafka.group_id
    ]
    if others:
        raise TopicError(
            f"topic {settings.topics.named('models')}: consumer group {', '.join(others)} trains on it, too: give this "
            "one its own FORECASTER_TOPICS__FORECASTS, FORECASTER_TOPICS__DEAD_LETTERS, FORECASTER_TOPICS__MODELS and "
            "FORECASTER_TOPICS__HISTORY"
        )
    comparison = topics.compare(source, existing, client_times(settings))
    lines = [f"warning: {warning}" for warning in [*comparison.warnings, *_other_topics(settings, topics)]]
    if comparison.unknown:
        lines.append(
            f"not compared, because this user may not read them (right DescribeConfigs): settings of "
            f"{', '.join(comparison.unknown)}"
        )
    return lines


def _other_topics(settings: Settings, topics: TopicAdmin) -> list[str]:
    """Return a warning if members of the consumer group read other topics than the input.

    It is no error: the group assigns to each member partitions of its own topics only.
    """
    group = settings.kafka.group_id
    others = [name for name in topics.read_by_group(group) if name != settings.topics.input]
    if not others:
        return []
    return [
        f"consumer group {group} has members that read {', '.join(others)}: all members pause when one comes or goes; "
        "give each deployment its own FORECASTER_KAFKA__GROUP_ID before its first start (under a new name, a group has "
        "neither the offsets nor the state of the former one)"
    ]


def _state_lines(settings: Settings, topics: TopicAdmin) -> list[str]:
    """Return lines about the checkpoint that would serve, the memory per series, and the recovery of the state.

    Raises:
        CheckpointError: `run` would refuse the checkpoint.
        StateError: `run` would refuse the state.
    """
    names = settings.topics
    counts = topics.partition_counts([names.input])
    with open_state(settings, topics) as (follower, restorer):
        without = " (the last value, until one is trained)" if follower.champion == NO_CHECKPOINT else ""
        return [
            f"checkpoint: {follower.champion}{without}",
            f"memory: {restorer.config.state_config.row_bytes:,} bytes per series, without its name",
            *_plan_lines(restorer, counts[names.input]),
        ]


def _plan_lines(restorer: Restorer, partitions: int) -> list[str]:
    """Return a line for each way in which partitions would be recovered, with the number of them."""
    plans = [restorer.plan(partition_number) for partition_number in range(partitions)]
    counts = Counter((plan.recovery.sentence, plan.reason) for plan in plans)
    return [
        f"state: {count} of {len(plans)} partitions: {how}{f' ({reason})' if reason else ''}"
        for (how, reason), count in counts.items()
    ]


def _rights_table(settings: Settings) -> Table:
    table = Table("resource", "rights that are needed (not checked)")
    for resource, rights in needed_rights(settings):
        table.add_row(resource, rights)
    table.add_row("the other topics, and the cluster", "optional: DescribeConfigs, to compare their settings")
    return table


def _settings_table(settings: Settings) -> Table:
    table = Table("variable", "value")
    for variable, (group, name) in variables().items():
        value = getattr(getattr(settings, group) if group else settings, name)
        is_secret = isinstance(value, SecretStr) and bool(value.get_secret_value())
        table.add_row(variable, "(hidden)" if is_secret else as_written(group, name, value))
    return table
