"""How large a deployment is: a table made by what the program says of itself, so that it is never out of date."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from forecaster.app.configs import hidden_size, state_config
from forecaster.serving.state.keeping import UNSTORED
from forecaster.settings import Settings, load_settings

SERIES_PER_PARTITION = 10_000
"""A partition of so many is taken over in the time that the restore of README needs."""
LEAST_PARTITIONS = 4
MIB = 2**20
HEADER = """\
# Sizing

Of the rows in memory, with `SERIES__INTERVAL` set; where it is learned, its seasons take up to 800 bytes more.
A process takes some 400 MiB beside them, and its trainer's child some 250 MiB more while it works, and what it trains
on. Rows are shared out over the workers by partition. Partitions bound how many workers can share the work, and more of
them later is a new start of the state, so begin with enough. What a worker can do a second depends on the machine:
`tests/benchmarks/throughput.py` measures it on yours.
Generated: `python -m forecaster.app.sizing > config/sizing.md`

| series | a reading every | readings a second | horizon, context, readouts | bytes a series | rows | partitions |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Series, the seconds between their readings, and how they are forecast."""

    series: int
    interval_seconds: int
    horizon: int = 24
    context: int = 96
    readouts: str = "shared"


FLEETS = (
    Fleet(100, 60, readouts="own"),
    Fleet(300, 3_600, 48, 192, "own"),
    Fleet(1_000, 60),
    Fleet(10_000, 60),
    Fleet(10_000, 900, 48, 192),
    Fleet(100_000, 60),
    Fleet(1_000_000, 3_600),
)


def sizing_table() -> str:
    """Returns the table as Markdown."""
    return HEADER + "".join(map(_line, FLEETS))


def row_bytes(settings: Settings) -> int:
    """Returns what a series takes in memory."""
    return state_config(settings, hidden_size(settings, None), UNSTORED).row_bytes


def _line(fleet: Fleet) -> str:
    settings = load_settings(
        kafka={"bootstrap_servers": "none"},
        topics={"input": "none"},
        series={"interval": 1_000 * fleet.interval_seconds},
        forecast={"horizon": fleet.horizon},
        network={"context": fleet.context, "readouts": fleet.readouts},
    )
    row = row_bytes(settings)
    partitions = max(LEAST_PARTITIONS, -(-fleet.series // SERIES_PER_PARTITION))
    return (
        f"| {fleet.series:,} | {_span(fleet.interval_seconds)} | {fleet.series / fleet.interval_seconds:,.3g} | "
        f"{fleet.horizon}, {fleet.context}, {fleet.readouts} | {row:,} | {fleet.series * row / MIB:,.0f} MiB | "
        f"{partitions} |\n"
    )


def _span(seconds: int) -> str:
    return f"{seconds // 3_600} h" if seconds >= 3_600 else f"{seconds // 60} min"


if __name__ == "__main__":
    sys.stdout.write(sizing_table())
