"""A thread for calls of the Kafka client that may never return."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable

from forecaster.errors import TransientBrokerError

LOOK_SECONDS = 0.5
"""Time between two calls of `look` while a call waits."""


class NoAnswer(TransientBrokerError):
    """The deadline of a call passed."""


class CallThread:
    """Runs calls that may never return in a thread of its own, which can be abandoned."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._errors: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="transactions", daemon=True).start()

    def run(self, call: Callable[[], object], deadline_seconds: float, look: Callable[[], None] = lambda: None) -> None:
        """Make a call, and return when it has ended.

        Args:
            call: the call; after the deadline it continues in the thread, and nobody waits for it.
            deadline_seconds: time for the call.
            look: called from time to time while the call waits; an error that it raises ends the waiting.

        Raises:
            NoAnswer: the call takes longer than the deadline.
            BaseException: what the call raised.
        """
        self._calls.put(call)
        for _ in range(math.ceil(deadline_seconds / LOOK_SECONDS)):
            try:
                error = self._errors.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                look()
                continue
            if error is not None:
                raise error
            return
        raise NoAnswer(f"the broker did not answer within {deadline_seconds:.0f} s")

    def end(self, last: Callable[[], object] = lambda: None) -> None:
        """End the thread after its present call and a last one, without waiting for either."""
        self._calls.put(last)
        self._calls.put(None)

    def _loop(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # `run` raises it in the caller's thread
                self._errors.put(error)
            else:
                self._errors.put(None)
