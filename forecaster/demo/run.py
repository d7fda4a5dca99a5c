"""`forecaster demo`: an embedded broker, real weather, the real daemon, a live table and a summary."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Group
from rich.live import Live
from rich.table import Table

from forecaster.broker.embedded import SESSION_TIMEOUT_MS, EmbeddedBroker
from forecaster.broker.plain_clients import RecordReader, RecordWriter, create_topic
from forecaster.cli.terminal import console, training_progress
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.demo.scoreboard import Scoreboard, Totals
from forecaster.demo.weather import FIELDS, HOUR_MS, TRAIN_MONTHS, Weather, read_weather
from forecaster.errors import ForecasterError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.settings import PREFIX

INPUT, PARTITIONS = "weather", 3
"""One partition for each airport: the worker takes as many records of one as of another, so all stay side by side."""
SEASON_TICKS = 24
OBSERVATION = ObservationConfig(interval_ms=HOUR_MS)
NETWORK = NetworkConfig(horizons=tuple(range(1, 25)), quantile_levels=(0.1, 0.5, 0.9))
"""What the daemon's defaults ask of a checkpoint; it refuses another."""
CHUNK = 500
QUIET_SECONDS, READY_SECONDS = 30.0, 60.0
NEXT_STEPS = f"""
next steps:
  your Kafka  {PREFIX}KAFKA__BOOTSTRAP_SERVERS=HOST:9092 {PREFIX}TOPICS__INPUT=TOPIC forecaster run
  your file   forecaster backtest FILE.csv --train 0.5
  Docker      docker compose -f deploy/compose.yaml up --build"""
_console = console()


@dataclass(frozen=True, slots=True)
class Pace:
    """`seconds`: streaming ends after these; 0 = when all is streamed. `hours_per_second`: of weather; 0 = no limit."""

    seconds: float = 0.0
    hours_per_second: float = 0.0


def run_demo(pace: Pace, *, page: bool = True) -> None:
    """The demo has run, and its summary is printed.

    Args:
        pace: of the stream.
        page: the daemon's page is opened in a browser, where there is one.

    Raises:
        ForecasterError: a part of it did not do its work.
    """
    weather = read_weather()
    with tempfile.TemporaryDirectory(prefix="forecaster-demo-") as folder, EmbeddedBroker() as broker:
        series = len(weather.history.series_ids)
        _console.print(f"training on the first {TRAIN_MONTHS} months of {series} series of hourly weather")
        with training_progress() as progress:
            checkpoint = train_checkpoint(weather.history, OBSERVATION, NETWORK, TrainingConfig(), progress)
        place = write_checkpoint(checkpoint, Path(folder))
        create_topic(broker.address, INPUT, PARTITIONS)
        port = _free_port()
        with _daemon(_environment(broker.address, str(place), port), Path(folder) / "daemon.log"):
            _console.print(f"live page: http://127.0.0.1:{port}/")
            if page and _console.is_terminal:
                webbrowser.open(f"http://127.0.0.1:{port}/")
            replay = _Replay(broker.address, weather, pace)
            replay.run()
    _print_summary(replay)


class _Replay:
    """Streams the weather, reads the forecasts, keeps score."""

    def __init__(self, address: str, weather: Weather, pace: Pace) -> None:
        self.board = Scoreboard(weather.truths, SEASON_TICKS)
        self.readings = 0
        self.streaming_seconds = float("nan")
        self._address = address
        self._weather = weather
        self._pace = pace
        self._first_forecast = self._last_forecast = 0.0
        self._partitions: dict[bytes, int] = {}

    def run(self) -> None:
        """All forecasts of what was streamed have come, or none came for a long while."""
        writer = RecordWriter(self._address, INPUT)
        reader = _forecasts_reader(self._address)
        try:
            with Live(console=_console, refresh_per_second=4) as live:
                for _ in self._stream(writer):
                    self._read(reader)
                    live.update(self._view())
                writer.flush()
                while len(self.board) < self.readings and time.monotonic() - self._last_forecast < QUIET_SECONDS:
                    self._read(reader)
                    live.update(self._view())
        finally:
            reader.close()
            writer.close()
        self.streaming_seconds = self._last_forecast - self._first_forecast
        if len(self.board) < self.readings:
            raise ForecasterError(f"{len(self.board)} forecasts came for {self.readings} readings")

    def _stream(self, writer: RecordWriter) -> Iterator[None]:
        """Yields after every few records that were sent."""
        begin = self._last_forecast = time.monotonic()
        first_ms = 0
        for number, (stamp, key, value) in enumerate(self._weather.records()):
            first_ms = first_ms or stamp
            while self._is_early(stamp - first_ms, time.monotonic() - begin):
                yield
            if self._pace.seconds and time.monotonic() - begin > self._pace.seconds:
                return
            writer.send(key, value, partition=self._partitions.setdefault(key, len(self._partitions)))
            self.readings += len(FIELDS)
            if number % CHUNK == 0:
                yield

    def _is_early(self, elapsed_ms: int, seconds: float) -> bool:
        return self._pace.hours_per_second > 0 and elapsed_ms / HOUR_MS > seconds * self._pace.hours_per_second

    def _read(self, reader: RecordReader) -> None:
        for record in reader.poll():
            self.board.add(orjson.loads(record.value or b""))
            self._last_forecast = time.monotonic()
            self._first_forecast = self._first_forecast or self._last_forecast

    def _view(self) -> Group:
        table = Table("series", "last reading (UTC)", "in 1 hour", "in 24 hours", "80 % interval in 24 hours")
        for name in sorted(self.board.latest):
            record = self.board.latest[name]
            low, high = record["quantiles"]["0.1"][-1], record["quantiles"]["0.9"][-1]
            made = time.strftime("%d %b %H:%M", time.gmtime(record["timestamp"] / 1000))
            points = record["point"]
            table.add_row(name, made, f"{points[0]:.1f}", f"{points[-1]:.1f}", f"{low:.1f} … {high:.1f}")
        return Group(table, f"{self.readings:,} readings sent, {len(self.board):,} forecasts received")


def _print_summary(replay: _Replay) -> None:
    totals: Totals = replay.board.totals()
    _console.print("\nmean over all series and horizons of 1 to 24 hours:")
    table = Table("", "MASE", "MAE")
    for name in totals.mae:
        table.add_row(name, f"{totals.mase[name]:.3f}", f"{totals.mae[name]:.3f}")
    _console.print(table)
    rate = totals.forecasts / replay.streaming_seconds if replay.streaming_seconds > 0 else float("nan")
    _console.print(
        f"{replay.readings:,} readings, {totals.forecasts:,} forecasts, {totals.scored:,} values compared\n"
        f"80 % intervals contained {100 * totals.interval_coverage:.1f} % of the readings\n"
        f"{rate:,.0f} forecasts per second, from Kafka to Kafka, exactly once\n"
        "The demo's broker keeps everything in memory and compacts nothing; on Apache Kafka, state survives restarts."
    )
    _console.print(NEXT_STEPS, highlight=False, soft_wrap=True)


def _forecasts_reader(address: str) -> RecordReader:
    return RecordReader(address, f"{INPUT}.forecasts", PARTITIONS)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def _environment(address: str, checkpoint: str, port: int) -> dict[str, str]:
    """Returns the daemon's environment: nothing of FORECASTER_* comes from outside."""
    variables = {
        "KAFKA__BOOTSTRAP_SERVERS": address,
        "KAFKA__SESSION_TIMEOUT": f"{SESSION_TIMEOUT_MS}ms",
        "TOPICS__INPUT": INPUT,
        "INPUT__VALUE_FIELDS": ",".join(FIELDS),
        "SERIES__INTERVAL": "1h",
        "NETWORK__CHECKPOINT": checkpoint,
        "HTTP__HOST": "127.0.0.1",
        "HTTP__PORT": str(port),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**kept, **{PREFIX + name: value for name, value in variables.items()}}


@contextmanager
def _daemon(environment: dict[str, str], log: Path) -> Iterator[None]:
    """The real daemon runs in a process of its own, has made its topics, and ends by SIGTERM."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "forecaster", "run"], env=environment, stderr=output)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while b"partitions_opened" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ForecasterError(f"the daemon did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    except ForecasterError as error:
        raise ForecasterError(f"{error}\n{log.read_text()[-2000:]}") from error
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(QUIET_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
