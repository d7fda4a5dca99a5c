"""Questions of requests to the worker's thread; equal questions within a second share one answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from forecaster.clock import Clock
from forecaster.serving.inspect import monitor
from forecaster.serving.inspect.monitor import Monitor, WorkerBusy, WorkerView
from forecaster.web.pace import Pace
from forecaster.web.service import Service
from forecaster.web.views import NotFoundHere

SHARED_SECONDS = 1.0
"""Age up to which an answer is used again; the status of a worker is as old."""
Value = TypeVar("Value")


class Questions:
    """Asks the worker, and waits for its answer without a thread.

    Args:
        service: the daemon.
        pace: counts the time that the answers take.
        clock: for the age of shared answers.
    """

    def __init__(self, service: Service, pace: Pace, clock: Clock) -> None:
        self._service, self._pace, self._clock = service, pace, clock
        self._shared: dict[Callable[[WorkerView], Any], tuple[float, Future[Any]]] = {}

    async def ask(self, question: Callable[[WorkerView], Value]) -> Value:
        """Return the worker's answer.

        Raises:
            NotFoundHere: this process has no worker, or the worker does not have what the question names.
            WorkerBusy: the worker has not started yet, did not answer in time, or too many questions wait.
        """
        return await _answer(self._put(question))

    async def ask_shared(self, question: Callable[[WorkerView], Value]) -> Value:
        """Return the worker's answer, which may be a second old and is not to be changed; raise as `ask` does."""
        asked_at, future = self._shared.get(question, (0.0, None))
        is_failed = future is not None and future.done() and (future.cancelled() or future.exception() is not None)
        if future is None or is_failed or (future.done() and self._clock() - asked_at >= SHARED_SECONDS):
            future = self._put(question)
            self._shared[question] = self._clock(), future
        return await _answer(future)

    def _put(self, question: Callable[[WorkerView], Value]) -> Future[Value]:
        def counted(view: WorkerView) -> Value:
            with self._pace.charging():
                return question(view)

        return self._monitor().ask(counted)

    def _monitor(self) -> Monitor:
        if self._service.role == "trainer":
            raise NotFoundHere("this process is a trainer and has no series: ask a worker")
        if self._service.monitor is None:
            raise WorkerBusy("the worker has not started yet")
        return self._service.monitor


async def _answer(future: Future[Value]) -> Value:
    """Return the answer; after a time-out, it may still come for others who wait for it."""
    answer = asyncio.wrap_future(future)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to read an error
    try:
        return await asyncio.wait_for(asyncio.shield(answer), monitor.ANSWER_SECONDS)
    except TimeoutError:
        raise monitor.no_answer() from None


class Cached(Generic[Value]):
    """Value that is computed at most once a second, by one thread at a time; all threads may ask for it.

    Args:
        compute: returns the value.
        clock: seconds.
    """

    def __init__(self, compute: Callable[[], Value], clock: Clock) -> None:
        self._compute, self._clock = compute, clock
        self._lock, self._made_at = threading.Lock(), clock()
        self._value: Value | None = None

    def get(self) -> Value:
        """Return the value; it is a second old at most."""
        with self._lock:
            if self._value is None or self._clock() - self._made_at >= SHARED_SECONDS:
                self._value, self._made_at = self._compute(), self._clock()
            return self._value
