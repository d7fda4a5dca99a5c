"""The real program in processes of its own, and streams of readings to feed it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from forecaster.broker.embedded import SESSION_TIMEOUT_MS
from forecaster.broker.plain_clients import CommittedRecord, RecordReader, RecordWriter

HOUR_MS = 3_600_000
START_MS = 1_735_689_600_000
QUICK_TO_GIVE_UP = '{"bootstrap_timeout_ms": 300}'
"""KAFKA__OPTIONS with which an attempt to reach a missing broker ends soon."""
SHARED_BROKER = Path(__file__).parents[3] / "shared" / "kafka" / "broker"


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Return when the condition holds; fail, and say what was waited for, if it does not within the time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        pause.wait(0.05)


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Daemon:
    """`forecaster run` in its own process; a context manager that leaves no process behind.

    Args:
        folder: folder for the log.
        address: address of the broker.
        topic: input topic.
        script: script to run instead of `forecaster run`.
        variables: settings, named without FORECASTER_; others are those of a small worker.
    """

    def __init__(
        self, folder: Path, address: str, topic: str, *, script: Path | str | None = None, **variables: str
    ) -> None:
        self.port = free_port()
        settings = {
            "KAFKA__BOOTSTRAP_SERVERS": address,
            "KAFKA__SESSION_TIMEOUT": f"{SESSION_TIMEOUT_MS}ms",
            "KAFKA__GROUP_ID": f"{topic}-group",
            "TOPICS__INPUT": topic,
            "SERIES__INTERVAL": "1h",
            "FORECAST__HORIZON": "4",
            "ROLE": "worker",
            "HTTP__HOST": "127.0.0.1",
            "HTTP__PORT": str(self.port),
            **variables,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FORECASTER_")}
        self._environment = {**kept, **{f"FORECASTER_{name}": value for name, value in settings.items()}}
        self._command = [sys.executable, *([str(script)] if script else ["-m", "forecaster", "run"])]
        self._log = folder / f"daemon-{time.monotonic_ns()}.log"

    def __enter__(self) -> Daemon:
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(self._command, env=self._environment, stderr=output, stdout=output)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(30)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log entries of an event, the oldest first."""
        entries: list[dict[str, Any]] = []
        for line in self.log.splitlines():
            with suppress(orjson.JSONDecodeError):  # stacks, and a line that is being written
                entries.append(orjson.loads(line))
        return [entry for entry in entries if entry.get("event") == name]

    def serving(self) -> Daemon:
        """Wait until the daemon is ready and has partitions."""
        wait_until(lambda: self._serves() or self.process.poll() is not None, "a daemon with partitions that is ready")
        assert self.process.poll() is None, self.log
        return self

    def _serves(self) -> bool:
        http = Http(self)
        try:
            return http.get("readyz")[0] == 200 and bool(http.json("partitions"))
        except OSError:  # it does not listen yet
            return False

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def resident_mib(self) -> float:
        """Resident memory of the process, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def exit_code(self, seconds: float = 60.0) -> int:
        return self.process.wait(seconds)


class Http:
    """Asks a daemon over HTTP, at the port of its API unless another is given; raises OSError if it does not listen."""

    def __init__(self, daemon: Daemon, port: int | None = None) -> None:
        self._address = f"http://127.0.0.1:{port or daemon.port}"

    def wait(self) -> Http:
        """Wait until the daemon listens."""

        def answers() -> bool:
            with suppress(OSError):
                return bool(self.get("livez"))
            return False

        wait_until(answers, "an answer over HTTP")
        return self

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self._address}/{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        status, text = self.get(f"api/v1/{path}")
        assert status == 200, text
        return orjson.loads(text)


class Stream:
    """Writes readings of ten series to a topic, and reads the forecasts that come out of it."""

    def __init__(self, address: str, topic: str, partitions: int) -> None:
        self._writer = RecordWriter(address, topic)
        self._reader = RecordReader(address, f"{topic}.forecasts", partitions)
        self._partitions = partitions
        self.hour = 0
        self.sent = 0
        self.forecasts: list[CommittedRecord] = []

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def send_hours(self, hours: int) -> None:
        """Send one reading of each series for each hour."""
        for _ in range(hours):
            for series in range(10):
                value = {"timestamp": START_MS + self.hour * HOUR_MS, "value": (series * self.hour) % 17}
                key = f"pump-{series}".encode()
                self._writer.send(key, orjson.dumps(value), partition=series % self._partitions)
                self.sent += 1
            self.hour += 1
        self._writer.flush()

    def receive(self) -> int:
        """Return the number of forecasts that have arrived since the start."""
        self.forecasts += self._reader.poll()
        return len(self.forecasts)

    def assert_exactly_once(self) -> None:
        """Wait for one forecast of each reading; check that it is in the partition and the order of its reading."""
        wait_until(
            lambda: self.receive() >= self.sent, f"{self.sent} forecasts, {len(self.forecasts)} have arrived", 120
        )
        self.receive()
        sources = [forecast.headers["source"] for forecast in self.forecasts]
        assert len(sources) == self.sent
        assert len(set(sources)) == self.sent
        for forecast in self.forecasts:
            assert int(forecast.headers["source"].split(b"/")[1]) == forecast.partition
        for partition in range(self._partitions):
            offsets = [
                int(forecast.headers["source"].split(b"/")[2])
                for forecast in self.forecasts
                if forecast.partition == partition
            ]
            assert offsets == sorted(offsets)
