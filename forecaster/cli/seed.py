"""`forecaster seed`: a group's rows are filled from files before its first start, so that no series starts cold."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table

from forecaster.app.configs import connection
from forecaster.app.daemon import Connector, restorer_of, use_one_thread
from forecaster.broker.consumer_groups import ConsumerGroup, partition_of
from forecaster.cli.terminal import console
from forecaster.errors import UsageError
from forecaster.formats.files import SeriesHistory
from forecaster.formats.readings import MAX_MAGNITUDE, MAX_SERIES_ID_BYTES, MAX_TIMESTAMP_MS
from forecaster.records import I64, Bools, Outcome, Readings
from forecaster.serving.seeding import SeededPartition, Seeder
from forecaster.settings import Settings

PART_READINGS = 2_000


@dataclass(frozen=True, slots=True)
class Arranged:
    """A history as it would have come through the input.

    Attributes:
        history: without what could not have come.
        groups: of each series: the key of its records.
        one_record: the series of a group come in one record, else each reading in its own.
        unnamed: series that no field of the input names.
        refused: readings that no record can carry.
    """

    history: SeriesHistory
    groups: list[str]
    one_record: bool
    unnamed: int
    refused: int

    def places(self, partitions: int) -> I64:
        """Returns the partition that the default partitioner sends each series to."""
        return np.array([partition_of(group.encode(), partitions) for group in self.groups], np.int64)

    def parts(self, there: Bools) -> Iterator[Readings]:
        """Yields the readings of some of the series, in order of time; a record is never cut."""
        own = _kept(self.history, there[self.history.row])
        for begin, end in own.spans(PART_READINGS):
            readings = own.readings(begin, end)
            if self.one_record:
                groups = [self.groups[row] for row in own.row[begin:end].tolist()]
                yield replace(readings, groups=groups)
            else:
                yield replace(readings, records=np.arange(len(readings)))


@dataclass(frozen=True, slots=True)
class Seeded:
    """What was done.

    Attributes:
        checkpoint: what made the rows.
        partitions: all of the input's.
        unnamed: series that no field of the input names.
        refused: readings that no record can carry.
    """

    checkpoint: str
    partitions: list[SeededPartition]
    unnamed: int
    refused: int


def arrange(history: SeriesHistory, value_fields: tuple[str, ...]) -> Arranged:
    """Returns the history as it would have come through the input.

    Args:
        history: of files.
        value_fields: fields of a record that are series of their own, `<group>/<field>`; none = a record is a reading.

    Raises:
        UsageError: nothing of it could have come.
    """
    groups = [_group(name, value_fields) for name in history.series_ids]
    named = np.array([group is not None for group in groups], np.bool_)
    carried = (history.timestamp_ms >= 0) & (history.timestamp_ms <= MAX_TIMESTAMP_MS)
    carried &= ~(np.abs(history.values) > MAX_MAGNITUDE)
    known = named[history.row]
    if not (known & carried).any():
        raise UsageError(
            "no reading of the files can be one of the input: with FORECASTER_INPUT__VALUE_FIELDS="
            f"{','.join(value_fields)} a series must be called <id>/<field>, as the columns of a wide file are"
            if value_fields and len(history) and not named.any()
            else "no reading of the files can be one of the input: they hold none, or none with a series id"
        )
    return Arranged(
        history=_kept(history, known & carried),
        groups=[group or "" for group in groups],
        one_record=bool(value_fields),
        unnamed=int((~named).sum()),
        refused=int((known & ~carried).sum()),
    )


def seed(settings: Settings, history: SeriesHistory) -> Seeded:
    """The group begins with the rows that the history makes.

    Raises:
        UsageError: nothing of the history could have come through the input.
        StateError: the group has offsets or live members.
        TopicError: a topic is missing or does not fit.
        BrokerUnavailable: there was no broker within the deadline.
    """
    use_one_thread()
    arranged = arrange(history, settings.input.value_fields)
    with ExitStack() as open_things:
        start = Connector(settings, threading.Event(), open_things)
        topics, partitions = start.topics()
        follower, reader = start.follower(topics), start.reader(topics)
        restorer = start.retry(
            lambda: restorer_of(settings, follower, topics, reader, partitions), "asking about topics"
        )
        source = settings.topics.input
        group = ConsumerGroup(connection(settings), start.reader(topics), source, partitions)
        name = settings.kafka.group_id
        producer = start.producer(f"{name}-seed", source, unique=False)
        seeder = Seeder(restorer, producer, group)
        start.retry(seeder.refuse_used_group, f"asking about group {name}")
        places = arranged.places(partitions)
        done = [
            start.retry(_seeding(seeder, number, arranged, places == number), f"writing partition {number}")
            for number in range(partitions)
        ]
        start.retry(seeder.finish, f"committing offsets of group {name}")
        return Seeded(follower.champion, done, arranged.unnamed, arranged.refused)


def print_seeded(settings: Settings, seeded: Seeded) -> None:
    """What was done was printed."""
    to = console()
    table = Table("partition", "series", "blocks", "readings", "not counted, late or twice")
    for one in seeded.partitions:
        readings, off = one.readings, one.outcomes[Outcome.LATE] + one.outcomes[Outcome.DUPLICATE]
        table.add_row(str(one.number), f"{one.series:,}", str(one.blocks), f"{readings:,}", f"{off:,}")
    to.print(table)
    for sentence in sentences(settings, seeded):
        to.print(sentence, markup=False, highlight=False, soft_wrap=True)


def sentences(settings: Settings, seeded: Seeded) -> list[str]:
    """Returns what was done, for people."""
    series = sum(one.series for one in seeded.partitions)
    left_out = sum(one.left_out for one in seeded.partitions)
    outcomes: Counter[Outcome] = Counter()
    for one in seeded.partitions:
        outcomes.update(one.outcomes)
    said = [
        f"seeded group {settings.kafka.group_id}: {series:,} series from {outcomes.total():,} readings, in "
        f"{len(seeded.partitions)} partitions of {settings.topics.input}, by checkpoint {seeded.checkpoint}"
    ]
    if left_out:
        said.append(
            f"{left_out:,} series begin cold: their partitions hold FORECASTER_STATE__MAX_SERIES="
            f"{settings.state.max_series} series already"
        )
    if seeded.unnamed:
        said.append(
            f"{seeded.unnamed:,} series were passed over: no record names them (an id of 1 to {MAX_SERIES_ID_BYTES} "
            "bytes; with FORECASTER_INPUT__VALUE_FIELDS, <id>/<field>)"
        )
    if seeded.refused:
        said.append(
            f"{seeded.refused:,} readings were passed over: their value or stamp is beyond what a record may hold"
        )
    return said


def _seeding(seeder: Seeder, number: int, arranged: Arranged, there: Bools) -> Callable[[], SeededPartition]:
    return lambda: seeder.seed(number, arranged.parts(there))


def _group(series_id: str, value_fields: tuple[str, ...]) -> str | None:
    """Returns the id in the records of a series; None where no record names it."""
    ends = [f"/{field}" for field in value_fields] or [""]
    names = [series_id.removesuffix(end) for end in ends if series_id.endswith(end)]
    return next((name for name in names if 0 < len(name.encode()) <= MAX_SERIES_ID_BYTES), None)


def _kept(history: SeriesHistory, kept: Bools) -> SeriesHistory:
    return SeriesHistory(
        history.series_ids, history.row[kept], history.timestamp_ms[kept], history.values[kept], history.records[kept]
    )
