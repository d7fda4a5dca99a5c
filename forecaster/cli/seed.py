"""`forecaster seed`: fills the state of a consumer group from files before its first start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table

from forecaster.app.configs import connection
from forecaster.app.connect import Connector
from forecaster.app.threads import use_one_torch_thread
from forecaster.broker.consumer_groups import ConsumerGroup, partition_of
from forecaster.cli.options import Files, TimeColumn, column_names, settings_with_broker
from forecaster.cli.terminal import console
from forecaster.errors import UsageError
from forecaster.formats.files import read_files
from forecaster.formats.readings import MAX_MAGNITUDE, MAX_SERIES_ID_BYTES, MAX_TIMESTAMP_MS
from forecaster.history import SeriesHistory
from forecaster.records import I64, Bools, Outcome, Readings
from forecaster.serving.seeding import SeededPartition, Seeder
from forecaster.settings import Settings

BATCH_READINGS = 2_000


@dataclass(frozen=True, slots=True)
class InputHistory:
    """A history as it would have come through the input topic.

    Attributes:
        history: the readings that records can carry.
        groups: group of each series, which is the key of its records.
        one_record: the readings of a group at one time come in one record; otherwise every reading has its own.
        unnamed: number of series that no field of the input names.
        refused: number of readings that no record can carry.
    """

    history: SeriesHistory
    groups: list[str]
    one_record: bool
    unnamed: int
    refused: int

    def partitions_of_series(self, partitions: int) -> I64:
        """Return the partition that the default partitioner assigns to each series."""
        return np.array([partition_of(group.encode(), partitions) for group in self.groups], np.int64)

    def batches(self, selected: Bools) -> Iterator[Readings]:
        """Yield the readings of the selected series, in order of time; all readings of a record are in one batch."""
        history = _filtered(self.history, selected[self.history.series_index])
        for begin, end in history.spans(BATCH_READINGS):
            readings = history.readings(begin, end)
            if self.one_record:
                groups = [self.groups[row] for row in history.series_index[begin:end].tolist()]
                yield replace(readings, groups=groups)
            else:
                yield replace(readings, record_of_reading=np.arange(len(readings)))


@dataclass(frozen=True, slots=True)
class SeedResult:
    """Result of seeding a group.

    Attributes:
        checkpoint: id of the checkpoint that computed the rows.
        partitions: all partitions of the input.
        unnamed: number of series that no field of the input names.
        refused: number of readings that no record can carry.
    """

    checkpoint: str
    partitions: list[SeededPartition]
    unnamed: int
    refused: int


def seed(files: Files, *, time: TimeColumn = "") -> None:
    """Fill the state of a consumer group from files before its first start, so that its series do not start cold."""
    settings = settings_with_broker()
    print_result(settings, seed_group(settings, read_files(files, column_names(time))))


def input_history(history: SeriesHistory, value_fields: tuple[str, ...]) -> InputHistory:
    """Return a history as it would have come through the input topic.

    Args:
        history: readings of files.
        value_fields: fields of a record, each a series `<group>/<field>`; empty = a record is a reading.

    Raises:
        UsageError: no reading of the history could have come through the input.
    """
    groups = [_group(name, value_fields) for name in history.series_ids]
    named = np.array([group is not None for group in groups], np.bool_)
    carried = (history.timestamp_ms >= 0) & (history.timestamp_ms <= MAX_TIMESTAMP_MS)
    carried &= ~(np.abs(history.values) > MAX_MAGNITUDE)
    known = named[history.series_index]
    if not (known & carried).any():
        advice = "check that they have readings with series ids"
        if value_fields and len(history) and not named.any():
            advice = (
                f"with FORECASTER_INPUT__VALUE_FIELDS={','.join(value_fields)} each series must be named <id>/<field>, "
                "as the columns of a wide file are"
            )
        raise UsageError(f"no reading in the files is valid for the input topic; {advice}")
    return InputHistory(
        history=_filtered(history, known & carried),
        groups=[group or "" for group in groups],
        one_record=bool(value_fields),
        unnamed=int((~named).sum()),
        refused=int((known & ~carried).sum()),
    )


def seed_group(settings: Settings, history: SeriesHistory) -> SeedResult:
    """Write the state that the history makes, and the group's offsets; return what was written.

    Raises:
        UsageError: no reading of the history could have come through the input.
        StateError: the group has offsets or live members.
        TopicError: a topic is missing or does not fit.
        BrokerUnavailable: no broker answered within the deadline.
    """
    use_one_torch_thread()
    source, name = settings.topics.input, settings.kafka.group_id
    arranged = input_history(history, settings.input.value_fields)
    with ExitStack() as resources:
        connector = Connector(settings, threading.Event(), resources)
        topics, partitions = connector.topics()
        follower = connector.follower(topics)
        restorer = connector.restorer(topics, follower)
        group = ConsumerGroup(connection(settings), connector.log_reader(topics), source, partitions)
        seeder = Seeder(restorer, connector.producer(f"{name}-seed", source, unique=False), group)
        connector.retry(seeder.refuse_used_group, f"asking about group {name}")
        numbers = arranged.partitions_of_series(partitions)
        seeded = [
            connector.retry(_seeding(seeder, number, arranged, numbers == number), f"writing partition {number}")
            for number in range(partitions)
        ]
        connector.retry(seeder.finish, f"committing offsets of group {name}")
        return SeedResult(follower.champion, seeded, arranged.unnamed, arranged.refused)


def print_result(settings: Settings, result: SeedResult) -> None:
    """Print a table of the partitions, and sentences about the whole."""
    terminal = console()
    table = Table("partition", "series", "blocks", "readings", "late or duplicate")
    for partition in result.partitions:
        dropped = partition.outcomes[Outcome.LATE] + partition.outcomes[Outcome.DUPLICATE]
        counts = partition.series, partition.blocks, partition.readings, dropped
        table.add_row(str(partition.number), *(f"{count:,}" for count in counts))
    terminal.print(table)
    for sentence in summary(settings, result):
        terminal.print(sentence, markup=False, highlight=False, soft_wrap=True)


def summary(settings: Settings, result: SeedResult) -> list[str]:
    """Return sentences about what was seeded and what was left out."""
    series = sum(partition.series for partition in result.partitions)
    readings = sum(partition.readings for partition in result.partitions)
    left_out = sum(partition.left_out for partition in result.partitions)
    sentences = [
        f"seeded group {settings.kafka.group_id}: {series:,} series from {readings:,} readings, in "
        f"{len(result.partitions)} partitions of {settings.topics.input}, by checkpoint {result.checkpoint}"
    ]
    if left_out:
        sentences.append(
            f"{left_out:,} series will start cold: their partitions hold FORECASTER_STATE__MAX_SERIES="
            f"{settings.state.max_series} series already"
        )
    if result.unnamed:
        sentences.append(
            f"{result.unnamed:,} series were left out: their ids are not valid (1 to {MAX_SERIES_ID_BYTES:,} bytes; "
            "with FORECASTER_INPUT__VALUE_FIELDS, named <id>/<field>)"
        )
    if result.refused:
        sentences.append(f"{result.refused:,} readings were left out: no record can hold their value or time")
    return sentences


def _seeding(seeder: Seeder, number: int, history: InputHistory, selected: Bools) -> Callable[[], SeededPartition]:
    """Return a call that seeds one partition, so that it can be repeated."""
    return lambda: seeder.seed(number, history.batches(selected))


def _group(series_id: str, value_fields: tuple[str, ...]) -> str | None:
    """Return the id in the records of a series; None = no record names the series."""
    ends = [f"/{field}" for field in value_fields] or [""]
    names = [series_id.removesuffix(end) for end in ends if series_id.endswith(end)]
    return next((name for name in names if 0 < len(name.encode()) <= MAX_SERIES_ID_BYTES), None)


def _filtered(history: SeriesHistory, kept: Bools) -> SeriesHistory:
    """Return the history with only some of its readings; (N,)."""
    return SeriesHistory(
        history.series_ids,
        history.series_index[kept],
        history.timestamp_ms[kept],
        history.values[kept],
        history.record_of_reading[kept],
    )
