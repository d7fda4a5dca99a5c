"""The child process that trains: it computes and writes files, and never writes to a topic.

The child holds the reading end of a pipe from its parent, and ends when the parent, and with it the pipe, is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from forecaster.clock import Clock, monotonic

KILL_SECONDS = 10.0
"""Longest wait for a killed child to end."""
NICENESS = 10
"""The child gives way to the worker on the same machine."""
OUTPUT_TAIL_BYTES = 2_000
"""Length of the end of the child's output that its failure reports."""


class ExitKind(StrEnum):
    """Ways in which a child ends."""

    OK = "ok"
    FAILED = "failed"
    KILLED = "killed"  # it ran past its deadline


class ChildProcess:
    """One run of a command of this program, with a deadline.

    Args:
        command: arguments of the program.
        log: file that takes the output.
        deadline_seconds: longest duration; a child that takes longer is killed.
        clock: clock for the deadline.
    """

    def __init__(self, command: Sequence[str], log: Path, deadline_seconds: float, clock: Clock = monotonic) -> None:
        self._log = log
        self._clock = clock
        self._deadline = clock() + deadline_seconds
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "forecaster", *command], stdin=subprocess.PIPE, stdout=output, stderr=output
            )

    def poll(self) -> ExitKind | None:
        """Return how the child ended, None while it works; kill a child that is past its deadline."""
        code = self._process.poll()
        if code is None and self._clock() < self._deadline:
            return None
        self.kill()
        if code is None:
            return ExitKind.KILLED
        return ExitKind.OK if code == 0 else ExitKind.FAILED

    def kill(self) -> None:
        """Kill the child.

        A child that the system cannot end at once, say because it waits for a disk, delays the caller by `KILL_SECONDS`
        at most.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_SECONDS)

    @property
    def output_tail(self) -> str:
        """The end of the output; empty if it cannot be read."""
        try:
            return self._log.read_bytes()[-OUTPUT_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""


def end_with_parent(pipe: int) -> None:
    """Lower the priority of this process, and end it as soon as the other end of its pipe is closed.

    Args:
        pipe: descriptor of its reading end.
    """
    os.nice(NICENESS)

    def wait() -> None:
        while os.read(pipe, 4_096):  # the descriptor, since a file object has a lock that can block the process's exit
            pass
        os._exit(1)  # no parent is left to use the result

    threading.Thread(target=wait, name="parent", daemon=True).start()
