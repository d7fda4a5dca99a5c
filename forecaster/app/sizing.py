"""The generated table of memory and partitions for fleets of several sizes, `config/sizing.md`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from forecaster.app.configs import hidden_size, state_config
from forecaster.serving.state.config import UNSTORED
from forecaster.settings import Settings, load_settings

SERIES_PER_PARTITION = 10_000
"""Number of series that one partition restores within seconds; see README, \"How good, how fast\"."""
LEAST_PARTITIONS = 4
MIB = 2**20
HEADER = """\
# Sizing

Memory that the state of the series takes (the rows), and partitions to begin with, for fleets of several sizes.

- The figures are for a fixed `FORECASTER_SERIES__INTERVAL`. If the interval is learned (`auto`), a series takes up to
  800 bytes more for its seasons.
- In addition to the rows, a process takes about 400 MiB. While a training runs, its child process takes about 250 MiB,
  plus the readings that it trains on.
- The rows are divided among the workers by partition, so that there can be at most as many busy workers as partitions.
  Adding partitions later starts the state again: begin with enough.
- How many readings a worker processes in a second depends on the machine; `tests/benchmarks/throughput.py` measures it.

Generated: `python -m forecaster.app.sizing > config/sizing.md`

| series | one reading every | readings per second | horizon, context, readouts | bytes per series | rows | partitions |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet to size.

    Attributes:
        series: number of series.
        interval_seconds: time between two readings of a series.
        horizon: ticks ahead that are forecast.
        context: ticks of input that are kept.
        readouts: own or shared, as NETWORK__READOUTS.
    """

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
    """Return the page as Markdown."""
    return HEADER + "".join(map(_line, FLEETS))


def row_bytes(settings: Settings) -> int:
    """Return the bytes of one series in memory, without its name."""
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
        f"| {fleet.series:,} | {_span(fleet.interval_seconds)} | {_rate(fleet)} | "
        f"{fleet.horizon}, {fleet.context}, {fleet.readouts} | {row:,} | {fleet.series * row / MIB:,.0f} MiB | "
        f"{partitions} |\n"
    )


def _rate(fleet: Fleet) -> str:
    rate = fleet.series / fleet.interval_seconds
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _span(seconds: int) -> str:
    return f"{seconds // 3_600} h" if seconds >= 3_600 else f"{seconds // 60} min"


if __name__ == "__main__":
    sys.stdout.write(sizing_table())
