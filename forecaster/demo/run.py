"""Train the demo's network, run its daemon, and stream the weather through it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from forecaster.broker.embedded import SESSION_TIMEOUT_MS
from forecaster.broker.plain_clients import RecordReader, RecordWriter, create_topic
from forecaster.clock import Clock, monotonic
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.demo.scoreboard import Scoreboard
from forecaster.demo.weather import FIELDS, HOUR_MS, Weather
from forecaster.errors import ForecasterError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.learning.fitting.network_fit import TrainingConfig, TrainingProgress
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.settings import PREFIX

INPUT, PARTITIONS = "weather", 3
"""Input topic with a partition for each airport: the worker reads partitions evenly, so airports stay side by side."""
SEASON_TICKS = 24
OBSERVATION = ObservationConfig(interval_ms=HOUR_MS)
NETWORK = NetworkConfig(horizons=tuple(range(1, 25)), quantile_levels=(0.1, 0.5, 0.9))
"""The network that the daemon's default settings ask for."""
CHUNK = 500
"""Number of records that are sent before the forecasts are read again."""
QUIET_SECONDS = 30.0
"""Time without a forecast after which the demo gives up."""
READY_SECONDS, ANSWER_SECONDS = 60.0, 2.0
LOG_CHARACTERS = 2_000
"""Length of the end of the daemon's log that an error shows."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Pace of the stream.

    Attributes:
        seconds: the stream ends after this time; 0 = when all weather is sent.
        hours_per_second: hours of weather that are sent per second; 0 = as fast as possible.
    """

    seconds: float = 0.0
    hours_per_second: float = 0.0


def train_network(weather: Weather, folder: Path, progress: Callable[[TrainingProgress], None]) -> Path:
    """Train a network on the first months; return the folder of its checkpoint."""
    return write_checkpoint(train_checkpoint(weather.history, OBSERVATION, NETWORK, TrainingConfig(), progress), folder)


@contextmanager
def run_daemon(broker: str, checkpoint: Path, folder: Path) -> Iterator[str]:
    """Run the daemon in its own process until SIGTERM; yield the address of its live page as soon as it is ready.

    Args:
        broker: address of the broker.
        checkpoint: folder of the checkpoint to serve.
        folder: folder for the daemon's log.

    Raises:
        ForecasterError: the daemon did not get ready; an error inside the block shows the end of its log, too.
    """
    create_topic(broker, INPUT, PARTITIONS)
    page, log = f"http://127.0.0.1:{_free_port()}/", folder / "daemon.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "forecaster", "run"]
        process = subprocess.Popen(command, env=_environment(broker, checkpoint, page), stderr=output)
    try:
        _wait_until_ready(page, process)
        yield page
    except ForecasterError as error:
        raise ForecasterError(f"{error}\n{log.read_text()[-LOG_CHARACTERS:]}") from error
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(QUIET_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class WeatherStream:
    """Sends the weather, reads the forecasts and scores them.

    Args:
        broker: address of the broker.
        weather: readings to send.
        pace: speed and duration of the stream.
        clock: seconds; for the pace and the deadlines.

    Attributes:
        board: forecasts received so far, with their scores.
        readings: number of readings sent so far.
    """

    def __init__(self, broker: str, weather: Weather, pace: Pace, clock: Clock = monotonic) -> None:
        self.board = Scoreboard(weather.truths, SEASON_TICKS)
        self.readings = 0
        self._broker = broker
        self._weather = weather
        self._pace = pace
        self._clock = clock
        self._first_forecast = self._last_forecast = 0.0
        self._partitions: dict[bytes, int] = {}

    @property
    def seconds(self) -> float:
        """Time between the first and the last forecast."""
        return self._last_forecast - self._first_forecast

    def run(self) -> Iterator[None]:
        """Send all records and read their forecasts; yield after every few records.

        Raises:
            ForecasterError: some forecasts did not arrive.
        """
        writer = RecordWriter(self._broker, INPUT)
        reader = RecordReader(self._broker, f"{INPUT}.forecasts", PARTITIONS)
        try:
            for _ in self._send(writer):
                self._read(reader)
                yield
            writer.flush()
            while len(self.board) < self.readings and self._clock() - self._last_forecast < QUIET_SECONDS:
                self._read(reader)
                yield
        finally:
            reader.close()
            writer.close()
        if len(self.board) < self.readings:
            raise ForecasterError(f"only {len(self.board)} forecasts arrived for {self.readings} readings")

    def _send(self, writer: RecordWriter) -> Iterator[None]:
        """Send the records; yield after every few, and while the next one is not due yet."""
        begin = self._last_forecast = self._clock()
        first_ms = 0
        for number, (timestamp_ms, key, value) in enumerate(self._weather.records()):
            first_ms = first_ms or timestamp_ms
            while self._is_early(timestamp_ms - first_ms, self._clock() - begin):
                yield
            if self._pace.seconds and self._clock() - begin > self._pace.seconds:
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
            self._last_forecast = self._clock()
            self._first_forecast = self._first_forecast or self._last_forecast


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _environment(broker: str, checkpoint: Path, page: str) -> dict[str, str]:
    """Return the daemon's environment; FORECASTER_* variables of this process are left out."""
    host, port = page.removeprefix("http://").rstrip("/").split(":")
    variables = {
        "KAFKA__BOOTSTRAP_SERVERS": broker,
        "KAFKA__SESSION_TIMEOUT": f"{SESSION_TIMEOUT_MS}ms",
        "TOPICS__INPUT": INPUT,
        "INPUT__VALUE_FIELDS": ",".join(FIELDS),
        "SERIES__INTERVAL": "1h",
        "NETWORK__CHECKPOINT": str(checkpoint),
        "HTTP__HOST": host,
        "HTTP__PORT": port,
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**others, **{PREFIX + name: value for name, value in variables.items()}}


def _wait_until_ready(page: str, process: subprocess.Popen[bytes]) -> None:
    """Return when all partitions are served; raise ForecasterError if the daemon ends or takes too long."""
    deadline = monotonic() + READY_SECONDS
    while not _is_ready(page):
        if process.poll() is not None or monotonic() > deadline:
            raise ForecasterError("the daemon of the demo did not get ready in time, or ended")
        time.sleep(0.1)


def _is_ready(page: str) -> bool:
    try:
        with urllib.request.urlopen(f"{page}readyz", timeout=ANSWER_SECONDS):
            return True
    except OSError:  # no server listens yet, or the answer is 503
        return False
