"""The trainer's child process: it computes and writes files, and never talks to the topics that it learns for.

It ends with its parent: it holds the reading end of a pipe, and ends when the pipe does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

KILL_SECONDS = 10.0
NICENESS = 10
"""The child gives way to the worker beside it."""
LAST_BYTES = 2_000


class ExitKind(StrEnum):
    """How a child ended."""

    WELL = "well"
    FAILED = "failed"
    KILLED = "killed"  # it was past its deadline


class ChildProcess:
    """One run of a command with a deadline.

    Args:
        command: of this program, without the program's own name.
        log: file that takes what it prints.
        deadline_seconds: it is killed when it takes longer.
    """

    def __init__(self, command: Sequence[str], log: Path, deadline_seconds: float) -> None:
        self._log = log
        self._deadline = time.monotonic() + deadline_seconds
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "forecaster", *command], stdin=subprocess.PIPE, stdout=output, stderr=output
            )

    def poll(self) -> ExitKind | None:
        """Returns how it has ended; None while it works. One that is past its deadline is killed."""
        code = self._process.poll()
        if code is None and time.monotonic() < self._deadline:
            return None
        self.end()
        if code is None:
            return ExitKind.KILLED
        return ExitKind.WELL if code == 0 else ExitKind.FAILED

    def end(self) -> None:
        """It is killed. One that the system cannot end at once (it waits for a disk) must not hold up who calls."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_SECONDS)

    @property
    def output_tail(self) -> str:
        """The end of what it printed; nothing where that cannot be read any more."""
        try:
            return self._log.read_bytes()[-LAST_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""


def end_with_parent(pipe: int) -> None:
    """This process gives way to others, and ends as soon as the other end of its pipe, a descriptor, is closed."""
    os.nice(NICENESS)

    def wait() -> None:
        while os.read(pipe, 4_096):  # not through a file object, whose lock would be in the way of a clean end
            pass
        os._exit(1)  # nobody wants the result

    threading.Thread(target=wait, name="parent", daemon=True).start()
