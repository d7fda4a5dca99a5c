"""The demo: each airport has a partition of its own, and the summary ends with what to do next."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forecaster.cli.demo import print_summary
from forecaster.cli.terminal import console
from forecaster.demo.run import PARTITIONS, Pace, WeatherStream
from forecaster.demo.scoreboard import Truths
from forecaster.demo.weather import FIELDS, HOUR_MS, Weather
from forecaster.history import SeriesHistory

AIRPORTS = ("EWR", "JFK", "LGA")
HOURS = 30


class Writer:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, int]] = []

    def send(self, key: bytes, value: bytes, *, partition: int) -> None:
        assert value
        self.sent.append((key, partition))


def weather() -> Weather:
    """Some hours of each airport, in order of time."""
    rows = [
        {"origin": airport, "timestamp": hour * HOUR_MS, **{field: float(hour) for field in FIELDS}}
        for hour in range(HOURS)
        for airport in AIRPORTS
    ]
    values = {f"{airport}/{field}": np.arange(HOURS, dtype=float) for airport in AIRPORTS for field in FIELDS}
    nothing = SeriesHistory([], np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    return Weather(nothing, pd.DataFrame(rows), Truths(0, HOUR_MS, values, 10))


def stream() -> WeatherStream:
    return WeatherStream("nowhere:9092", weather(), Pace())


def forecast(series_id: str, hour: int) -> dict[str, object]:
    return {
        "series_id": series_id,
        "timestamp": hour * HOUR_MS,
        "point": [float(hour)] * 24,
        "quantiles": {"0.1": [hour - 1.0] * 24, "0.5": [float(hour)] * 24, "0.9": [hour + 1.0] * 24},
    }


def test_each_airport_has_a_partition_of_its_own() -> None:
    writer = Writer()
    for _ in stream()._send(writer):  # type: ignore[arg-type]  # noqa: SLF001
        pass
    assert len(writer.sent) == HOURS * len(AIRPORTS)
    assert dict(writer.sent) == {airport.encode(): number for number, airport in enumerate(AIRPORTS)}
    assert set(dict(writer.sent).values()) == set(range(PARTITIONS))


def test_the_summary_ends_with_three_next_steps(capsys: pytest.CaptureFixture[str]) -> None:
    running = stream()
    for airport in AIRPORTS:
        running.board.add(forecast(f"{airport}/temp", 12))
    print_summary(console(), running)
    lines = capsys.readouterr().out.splitlines()
    steps = lines[lines.index("next steps:") + 1 :]
    assert [step.split("  ")[1].strip() for step in steps] == ["your Kafka", "your file", "Docker"]
    assert "KAFKA__BOOTSTRAP_SERVERS=" in steps[0]
    assert "forecaster backtest" in steps[1]
    assert "docker compose -f deploy/compose.yaml up" in steps[2]
