"""The report: rows, their lines of JSON, and the Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, and what came of it.

    Attributes:
        what: what was done.
        times: how often.
        readings: records of the input.
        forecasts: forecasts written.
        dead_letters: dead letters written.
        ignored: readings that get no forecast: late or repeated ones, or too far ahead.
        lost: output records that are missing.
        doubled: output records that are there a second time.
        different: output records that the uninterrupted reference does not have.
        pause_seconds: longest time from a reading to its forecast.
        memory_mib: resident memory of a daemon at the beginning and at the end.
        faults: everything else that went wrong.
    """

    what: str
    times: int
    readings: int
    forecasts: int
    dead_letters: int = 0
    ignored: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    pause_seconds: float | None = None
    memory_mib: tuple[float, float] = (0.0, 0.0)
    faults: list[str] = []

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words; empty = nothing."""
        counts = {"lost": self.lost, "doubled": self.doubled, "different": self.different}
        return [*(f"{count:,} {name}" for name, count in counts.items() if count), *self.faults]


HEADER = """\
| what was done | times | readings | forecasts | dead letters | ignored | lost | doubled | different | longest \
pause, s | memory before / after, MiB |
|---|---|---|---|---|---|---|---|---|---|---|"""


def joined(rows: Iterable[Row]) -> list[Row]:
    """Return one row for everything that was done, in the order of its first row: parts of a report add up."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.what, []).append(row)
    return [reduce(_sum, parts) for parts in by_name.values()]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table."""
    return "\n".join([HEADER, *map(_line, rows)])


def append(path: Path, row: Row) -> None:
    """Append a row to a file of JSON lines."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(row) + b"\n")


def read(path: Path) -> list[Row]:
    """Return the rows of a file of JSON lines."""
    return [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()]


def _sum(one: Row, other: Row) -> Row:
    pauses = [row.pause_seconds for row in (one, other) if row.pause_seconds is not None]
    return Row(
        what=one.what,
        times=one.times + other.times,
        readings=one.readings + other.readings,
        forecasts=one.forecasts + other.forecasts,
        dead_letters=one.dead_letters + other.dead_letters,
        ignored=one.ignored + other.ignored,
        lost=one.lost + other.lost,
        doubled=one.doubled + other.doubled,
        different=one.different + other.different,
        pause_seconds=max(pauses) if pauses else None,
        memory_mib=max(one.memory_mib, other.memory_mib, key=lambda memory: memory[1] - memory[0]),
        faults=one.faults + other.faults,
    )


def _line(row: Row) -> str:
    counts = (row.times, row.readings, row.forecasts, row.dead_letters, row.ignored)
    faults = (row.lost, row.doubled, row.different)
    pause = "-" if row.pause_seconds is None else f"{row.pause_seconds:.1f}"
    memory = " / ".join(f"{mib:.0f}" for mib in row.memory_mib)
    return f"| {' | '.join([row.what, *(f'{count:,}' for count in counts + faults), pause, memory])} |"
