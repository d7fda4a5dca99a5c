"""Who is whose neighbour in a fleet: which series come in one record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.formats.files import SeriesHistory
from forecaster.records import I64

MOST_SERIES = 300
"""Series of a larger fleet have no readouts of their own."""
MOST_MEMBERS = 16
"""Of a larger group no series sees the others one by one."""


@dataclass(frozen=True, slots=True)
class SeriesGroups:
    """The series of a fleet and their places in their groups.

    Attributes:
        series_ids: C of them.
        member: place of each series in its group, in the order of their ids; (C,).
        size: of the largest group; 1 = no series sees another.
    """

    series_ids: tuple[str, ...]
    member: I64
    size: int


def series_groups_of(history: SeriesHistory) -> SeriesGroups | None:
    """Returns who is whose neighbour, by the records that they came in; None of a large fleet."""
    count = len(history.series_ids)
    if not 0 < count <= MOST_SERIES:
        return None
    begins = np.flatnonzero(np.diff(history.records, prepend=-1))
    lengths = np.diff(begins, append=len(history.row))
    lead = np.repeat(history.row[begins], lengths)
    group = list(range(count))
    for pair in np.unique(lead * count + history.row).tolist():
        first, second = group[pair // count], group[pair % count]
        group = [first if one == second else one for one in group]
    names = np.array(history.series_ids, object)
    member = np.zeros(count, np.int64)
    for one in set(group):
        mine = np.flatnonzero(np.array(group) == one)
        member[mine[np.argsort(names[mine], kind="stable")]] = np.arange(len(mine))
    size = int(member.max()) + 1
    return SeriesGroups(tuple(history.series_ids), member, size if size <= MOST_MEMBERS else 1)
