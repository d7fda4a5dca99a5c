"""`forecaster demo`: the real daemon over real weather, with a broker in memory."""

from __future__ import annotations

import tempfile
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from forecaster.broker.embedded import EmbeddedBroker
from forecaster.cli.terminal import console, training_progress
from forecaster.demo.run import Pace, WeatherStream, run_daemon, train_network
from forecaster.demo.weather import TRAIN_MONTHS, read_weather
from forecaster.settings import PREFIX

NEXT_STEPS = f"""
next steps:
  your Kafka  {PREFIX}KAFKA__BOOTSTRAP_SERVERS=HOST:9092 {PREFIX}TOPICS__INPUT=TOPIC forecaster run
  your file   forecaster backtest FILE.csv --train 0.5
  Docker      docker compose -f deploy/compose.yaml up --build"""


def demo(
    *,
    seconds: Annotated[float, typer.Option(help="Stop streaming after this many seconds; 0 = stream everything.")] = 0,
    speed: Annotated[float, typer.Option(help="Hours of weather per second; 0 = as fast as possible.")] = 0,
    page: Annotated[bool, typer.Option(help="Open the live page in a browser.")] = True,
) -> None:
    """Forecast the weather of three airports with a broker in memory, the real daemon and its page; print a summary."""
    terminal, weather = console(), read_weather()
    with tempfile.TemporaryDirectory(prefix="forecaster-demo-") as folder, EmbeddedBroker() as broker:
        series = len(weather.history.series_ids)
        terminal.print(f"training on the first {TRAIN_MONTHS} months of {series} series of hourly weather")
        with training_progress() as progress:
            checkpoint = train_network(weather, Path(folder), progress)
        with run_daemon(broker.address, checkpoint, Path(folder)) as address:
            terminal.print(f"live page: {address}")
            if page and terminal.is_terminal:
                webbrowser.open(address)
            stream = WeatherStream(broker.address, weather, Pace(seconds, speed))
            with Live(console=terminal, refresh_per_second=4) as live:
                for _ in stream.run():
                    live.update(_view(stream))
    print_summary(terminal, stream)


def _view(stream: WeatherStream) -> Group:
    """Return a table of the latest forecast of every series, and the number of readings and forecasts."""
    table = Table("series", "last reading (UTC)", "in 1 hour", "in 24 hours", "80 % interval in 24 hours")
    for name, forecast in sorted(stream.board.latest.items()):
        low, high = forecast["quantiles"]["0.1"][-1], forecast["quantiles"]["0.9"][-1]
        made = time.strftime("%d %b %H:%M", time.gmtime(forecast["timestamp"] / 1000))
        points = forecast["point"]
        table.add_row(name, made, f"{points[0]:.1f}", f"{points[-1]:.1f}", f"{low:.1f} … {high:.1f}")
    return Group(table, f"{stream.readings:,} readings sent, {len(stream.board):,} forecasts received")


def print_summary(terminal: Console, stream: WeatherStream) -> None:
    """Print the errors of the forecasts, the rate, and what to try next."""
    totals = stream.board.totals()
    terminal.print("\nmean over all series and horizons of 1 to 24 hours:")
    table = Table("", "MASE", "MAE")
    for name in totals.mae:
        table.add_row(name, f"{totals.mase[name]:.3f}", f"{totals.mae[name]:.3f}")
    terminal.print(table)
    rate = totals.forecasts / stream.seconds if stream.seconds > 0 else float("nan")
    terminal.print(
        f"{stream.readings:,} readings, {totals.forecasts:,} forecasts, {totals.scored:,} values compared\n"
        f"80 % intervals contained {100 * totals.interval_coverage:.1f} % of the readings\n"
        f"{rate:,.0f} forecasts per second, from Kafka to Kafka, exactly once\n"
        "The demo's broker keeps everything in memory and compacts nothing; on Apache Kafka, state survives restarts."
    )
    terminal.print(NEXT_STEPS, highlight=False, soft_wrap=True)
