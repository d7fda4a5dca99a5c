"""A Kafka that a test starts, restarts and ends, with a second listener behind a proxy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType

from daemons import SHARED_BROKER


class OwnBroker:
    """A broker on this machine; a context manager.

    Args:
        folder: its folder.
        port: first of its four ports: clients, controller, clients through the proxy, the proxy itself.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.address, self.proxied = f"127.0.0.1:{port}", f"127.0.0.1:{port + 3}"
        self.proxied_port, self.proxy_port = port + 2, port + 3
        listeners = {"PLAINTEXT": port, "CONTROLLER": port + 1, "PROXIED": self.proxied_port}
        self._start = (
            str(SHARED_BROKER),
            "start",
            str(folder),
            str(port),
            f"listeners={','.join(f'{name}://127.0.0.1:{number}' for name, number in listeners.items())}",
            f"advertised.listeners=PLAINTEXT://{self.address},PROXIED://{self.proxied}",
            f"listener.security.protocol.map={','.join(f'{name}:PLAINTEXT' for name in listeners)}",
            "inter.broker.listener.name=PLAINTEXT",
            "log.cleaner.min.compaction.lag.ms=86400000",  # a reference run reads old floors
        )

    def __enter__(self) -> OwnBroker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end("kill")

    def start(self) -> None:
        """Start it, and return when it serves."""
        self._run(*self._start)

    def end(self, how: str) -> None:
        """End it, by `stop` in order, or by `kill` as in a crash."""
        self._run(str(SHARED_BROKER), how, str(self._folder))

    def restart(self, how: str) -> None:
        """End it, and start it again."""
        self.end(how)
        self.start()

    def _run(self, *command: str) -> None:
        environment = {"KAFKA_HEAP": "512m", **os.environ}
        subprocess.run(command, check=True, timeout=120, env=environment, stdout=subprocess.DEVNULL)
