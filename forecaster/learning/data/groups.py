"""The groups of the series in a history: series whose readings come in the same records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.history import SeriesHistory
from forecaster.records import I64

MAX_SERIES = 300
"""Largest number of series with local readouts: in a larger fleet no series gets one."""
MAX_MEMBERS = 16
"""Largest number of members whose inputs each series of a group sees one by one."""


@dataclass(frozen=True, slots=True)
class SeriesGroups:
    """The series of a fleet, and their places in their groups.

    Attributes:
        series_ids: ids of the C series.
        member: place of each series in its group, in the order of their ids; (C,).
        size: number of series in the largest group; 1 = no series sees another.
    """

    series_ids: tuple[str, ...]
    member: I64
    size: int


def series_groups_of(history: SeriesHistory) -> SeriesGroups | None:
    """Return the groups of a history; None if it holds more than `MAX_SERIES` series, or none."""
    count = len(history.series_ids)
    if not 0 < count <= MAX_SERIES:
        return None
    group = _group_of_each_series(history)
    names = np.array(history.series_ids, object)
    member = np.zeros(count, np.int64)
    for number in np.unique(group):
        series = np.flatnonzero(group == number)
        member[series[np.argsort(names[series], kind="stable")]] = np.arange(len(series))
    size = int(member.max()) + 1
    return SeriesGroups(tuple(history.series_ids), member, size if size <= MAX_MEMBERS else 1)


def _group_of_each_series(history: SeriesHistory) -> I64:
    """Return a number for the group of each series: two series that ever share a record have the same; (C,)."""
    count = len(history.series_ids)
    begins = np.flatnonzero(np.diff(history.record_of_reading, prepend=-1))
    lengths = np.diff(begins, append=len(history.series_index))
    first_of_record = np.repeat(history.series_index[begins], lengths)
    group = np.arange(count)
    for pair in np.unique(first_of_record * count + history.series_index).tolist():
        first, second = group[pair // count], group[pair % count]
        group[group == second] = first
    return group
