"""Whether the loop still turns: a process that hangs is worth less than one that is restarted."""

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
"""A loop that has been silent for so long is not alive: more than any single call to a broker may take."""
DEADLINE_SECONDS = 300.0
LAST_WORDS_SECONDS = 10.0
_log = structlog.get_logger()


class Pulse(threading.Event):
    """The order to end; whoever asks whether it was given shows that it turns.

    The loop asks between two batches, and whoever waits for a broker between two attempts, so that an outage is no
    silence. Threads beside the loop must not ask.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beats = 0

    def is_set(self) -> bool:
        """Returns whether the process is to end."""
        self.beats += 1
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Returns whether the process is to end, after so many seconds at most."""
        self.beats += 1
        return super().wait(timeout)


class Watchdog:
    """Ends the process with exit code 7 when the pulse has been silent for too long.

    Silence is counted in ticks of its own: of a process that was stopped, and goes on, nothing was expected meanwhile.

    Args:
        pulse: of the loop.
        end: is called with the exit code; tests have their own.
    """

    def __init__(self, pulse: Pulse, end: Callable[[int], object] = os._exit) -> None:
        self._pulse, self._end = pulse, end
        self._beats = -1
        self.silent_seconds = 0.0

    @property
    def is_alive(self) -> bool:
        """The loop turns."""
        return self.silent_seconds < SICK_SECONDS

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A thread of its own watches while the context is open."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(TICK_SECONDS):
                self.look()

        threading.Thread(target=watch, name="watchdog", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def look(self) -> None:
        """One tick."""
        if self._pulse.beats != self._beats:
            self._beats, self.silent_seconds = self._pulse.beats, 0.0
            return
        self.silent_seconds += TICK_SECONDS
        if self.silent_seconds - TICK_SECONDS < SICK_SECONDS <= self.silent_seconds:
            _log.warning("the loop is silent: what every thread does is written below", seconds=self.silent_seconds)
            faulthandler.dump_traceback(sys.stderr)  # now: who asks /livez may end it before the deadline
        elif self.silent_seconds >= DEADLINE_SECONDS:
            self._give_up()

    def _give_up(self) -> None:
        error = NoProgress(f"no progress for {DEADLINE_SECONDS:.0f} s: what every thread does is written below")
        last_words = threading.Timer(LAST_WORDS_SECONDS, self._end, [error.exit_code])
        last_words.start()  # a loop that hangs while it writes to standard error would keep us from writing, too
        _log.error("ended with an error", exit_code=error.exit_code, error=str(error))
        faulthandler.dump_traceback(sys.stderr)
        last_words.cancel()
        self._end(error.exit_code)
