"""The watchdog: it ends a process whose loop hangs, because an orchestrator can restart that process."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from forecaster.errors import NoProgress

TICK_SECONDS = 1.0
SICK_SECONDS = 60.0
"""Silence after which a loop counts as hanging; longer than any single call to a broker may take."""
DEADLINE_SECONDS = 300.0
"""Silence after which the process ends."""
DUMP_SECONDS = 10.0
"""Time for writing the log and the stacks of all threads before the process ends anyway."""
_log = structlog.get_logger()


class Pulse(threading.Event):
    """The event that tells the process to end; each look at it counts as a sign of life.

    The loop looks at it between two batches, and `retry` between two attempts, so that waiting for a broker is not
    silence. Threads other than the loop must not look.

    Attributes:
        beats: number of looks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beats = 0

    def is_set(self) -> bool:
        """Return whether the process is to end."""
        self.beats += 1
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether the process is to end; wait for that at most `timeout` seconds."""
        self.beats += 1
        return super().wait(timeout)


class Watchdog:
    """Ends the process with exit code 7 when its pulse has been silent for too long.

    Silence is counted in ticks of the watchdog's own thread, not by a clock: while a process is stopped (SIGSTOP, a
    suspended machine), neither the loop nor the watchdog runs, and the loop is not to blame.

    Args:
        pulse: pulse of the loop.
        end: ends the process with an exit code.

    Attributes:
        silent_seconds: present silence of the pulse.
    """

    def __init__(self, pulse: Pulse, end: Callable[[int], object] = os._exit) -> None:
        self._pulse, self._end = pulse, end
        self._beats = -1
        self.silent_seconds = 0.0

    @property
    def is_alive(self) -> bool:
        """Whether the loop makes progress, or was silent for a short time only."""
        return self.silent_seconds < SICK_SECONDS

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch in a thread of its own while the context is open."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(TICK_SECONDS):
                self.tick()

        threading.Thread(target=watch, name="watchdog", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def tick(self) -> None:
        """Look at the pulse once; a hanging loop is first logged, later the process ends."""
        if self._pulse.beats != self._beats:
            self._beats, self.silent_seconds = self._pulse.beats, 0.0
            return
        self.silent_seconds += TICK_SECONDS
        if self.silent_seconds - TICK_SECONDS < SICK_SECONDS <= self.silent_seconds:
            _log.warning("loop_silent", silent_seconds=self.silent_seconds, deadline_seconds=DEADLINE_SECONDS)
            faulthandler.dump_traceback(sys.stderr)  # now: a liveness probe may end the process before the deadline
        elif self.silent_seconds >= DEADLINE_SECONDS:
            self._give_up()

    def _give_up(self) -> None:
        error = NoProgress(
            f"the loop made no progress for {DEADLINE_SECONDS:.0f} s; the stacks of all threads follow: report them"
        )
        forced_end = threading.Timer(DUMP_SECONDS, self._end, [error.exit_code])
        forced_end.start()  # if the loop hangs while it writes to standard error, this thread would hang there, too
        _log.error("daemon_failed", exit_code=error.exit_code, error=str(error))
        faulthandler.dump_traceback(sys.stderr)
        forced_end.cancel()
        self._end(error.exit_code)
