"""Waiting for a broker: again and again with back-off, up to a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog
from kafka.errors import KafkaError

from forecaster.errors import BrokerUnavailable, TransientBrokerError

Result = TypeVar("Result")
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 5.0
_log = structlog.get_logger()


def retry(call: Callable[[], Result], what: str, deadline_seconds: float, stop: threading.Event) -> Result:
    """Returns what `call` returns, as soon as it raises no broker error.

    Args:
        call: asks the broker for something.
        what: said in the log and in the error.
        deadline_seconds: how long it is asked.
        stop: set when nobody wants the answer any more.

    Raises:
        BrokerUnavailable: the deadline passed, or `stop` was set; its cause is the last error.
    """
    begin, wait = time.monotonic(), FIRST_WAIT_SECONDS
    while True:
        try:
            return call()
        except (KafkaError, TransientBrokerError, OSError) as error:
            waited = time.monotonic() - begin
            if waited + wait > deadline_seconds or stop.is_set():
                raise BrokerUnavailable(
                    f"{what}: no success for {waited:.0f} s: {describe(error)}; are the addresses in "
                    "FORECASTER_KAFKA__BOOTSTRAP_SERVERS right, and may this user do it?"
                ) from error
            _log.warning("broker not ready, trying again", what=what, error=describe(error), wait_seconds=wait)
            stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and those that the client wrapped in it: as arguments, or as causes."""
    yield error
    for inner in [*error.args, error.__cause__]:
        if isinstance(inner, BaseException):
            yield from causes(inner)


def describe(error: Exception) -> str:
    """Returns the error's name and text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
