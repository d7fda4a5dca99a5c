"""The share of the processor that HTTP may take, so that a flood of requests does not cost the worker its forecasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from forecaster.clock import Clock, monotonic

SHARE = 0.1
"""Processor time that requests take over a long time, relative to one core."""
BURST_SECONDS = 0.2
"""Processor time that requests may take at once after a quiet time, such as the first load of the page."""
thread_seconds: Callable[[], float] = time.thread_time
"""Return the processor time of the calling thread, seconds."""


class Pace:
    """Counts the processor time of requests, and says how long the next one is to wait; all threads may use it.

    The worker and HTTP share the interpreter: a second of processor time that a request takes is a second in which the
    worker computes nothing.

    Args:
        clock: seconds.
        share: processor time that requests may take over a long time, relative to one core.
        burst: seconds of processor time that requests may take at once.
    """

    def __init__(self, clock: Clock = monotonic, share: float = SHARE, burst: float = BURST_SECONDS) -> None:
        self._clock, self._share, self._burst = clock, share, burst
        self._credit, self._counted_at = burst, clock()
        self._lock = threading.Lock()

    def charge(self, seconds: float) -> None:
        """Count processor time that a request has taken."""
        with self._lock:
            self._refill()
            self._credit -= max(0.0, seconds)

    @contextmanager
    def charging(self) -> Iterator[None]:
        """Count the processor time that the calling thread takes in the block."""
        begin = thread_seconds()
        try:
            yield
        finally:
            self.charge(thread_seconds() - begin)

    @property
    def delay_seconds(self) -> float:
        """Time after which the requests so far have taken no more than their share."""
        with self._lock:
            self._refill()
            return max(0.0, -self._credit / self._share)

    def _refill(self) -> None:
        now = self._clock()
        self._credit = min(self._burst, self._credit + (now - self._counted_at) * self._share)
        self._counted_at = now
