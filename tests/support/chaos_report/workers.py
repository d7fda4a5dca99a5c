"""Daemons that start fast: each is forked from a process that has imported everything and has started no thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from daemons import Daemon, wait_until

from forecaster.broker.embedded import SESSION_TIMEOUT_MS
from forecaster.settings import Settings, load_settings
from forecaster.settings.environment import PREFIX

FORKS = multiprocessing.get_context("forkserver")
SETTINGS = {
    "HTTP__PORT": "",
    "KAFKA__SESSION_TIMEOUT": f"{SESSION_TIMEOUT_MS}ms",
    "LOG__FORMAT": "json",
    "SERIES__INTERVAL": "1h",
    "FORECAST__HORIZON": "4",
    "STATE__REPLAY_LIMIT": "300",
}
"""Settings of every daemon: blocks are written often, and a dead member is noticed soon."""


def prepare_forks() -> None:
    """Name what the parent of the daemons imports; call it before the first daemon starts."""
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # the parent does not inherit sys.path
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # no threads that a fork would lose
    FORKS.set_forkserver_preload(["chaos_report.preload"])


class ForkedDaemon(Daemon):
    """`forecaster run` in a process of its own, without the seconds of its imports.

    Args:
        folder: folder for the log.
        address: address of the broker.
        topic: input topic.
        fault: a fault of `faults`; empty = none.
        variables: settings, named without FORECASTER_.
    """

    def __init__(self, folder: Path, address: str, topic: str, *, fault: str = "", **variables: str) -> None:
        super().__init__(folder, address, topic, **{**SETTINGS, **variables})
        self._fault = fault

    def __enter__(self) -> ForkedDaemon:
        self._log.touch()
        self.process = _Fork(self._environment, self._log, self._fault)  # type: ignore[assignment]
        return self

    def settings(self) -> Settings:
        """Return the settings of the daemon, except its role."""
        groups: dict[str, dict[str, Any]] = {}
        for name, value in self._environment.items():
            group, _, field = name.lower().partition("__")
            if name.startswith(PREFIX) and field:
                groups.setdefault(group.removeprefix(PREFIX.lower()), {})[field] = value
        return load_settings(**groups)

    @property
    def has_struck(self) -> bool:
        """Whether the fault has come."""
        return "fault at " in self.log

    @property
    def serves(self) -> bool:
        """Whether the daemon has opened a partition since its start."""
        return "partitions_opened" in self.log

    @property
    def is_ready(self) -> bool:
        """Whether SIGTERM would end the daemon in order."""
        return "worker_started" in self.log

    @property
    def is_dead(self) -> bool:
        return self.process.poll() is not None


class _Fork:
    """The part of `subprocess.Popen` that a daemon needs."""

    _lock = threading.Lock()  # a start asks all processes for their exit codes, and each code can be read once

    def __init__(self, environment: dict[str, str], log: Path, fault: str) -> None:
        self._process = FORKS.Process(target=_run, args=(environment, str(log), fault))
        with self._lock:
            self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    def wait(self, seconds: float) -> int:
        wait_until(lambda: self.poll() is not None, f"the end of process {self.pid}", seconds)
        return self.poll() or 0

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(environment: dict[str, str], log: str, fault: str) -> None:
    """Be a daemon: its environment, its log, its fault, then its command."""
    os.environ.clear()
    os.environ.update(environment)
    descriptor: Any = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    if fault:
        from faults import install

        install(fault)
    from forecaster.cli.commands import main

    sys.argv = ["forecaster", "run"]
    main()
