"""Repeated requests: a call is made again after each broker error, with growing pauses, up to a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog
from kafka.errors import KafkaError

from forecaster.backoff import Backoff
from forecaster.clock import Clock, monotonic
from forecaster.errors import BrokerUnavailable, TransientBrokerError

Result = TypeVar("Result")
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 5.0
_log = structlog.get_logger()


def retry(
    call: Callable[[], Result],
    action: str,
    deadline_seconds: float,
    stop: threading.Event,
    clock: Clock = monotonic,
) -> Result:
    """Return the result of a call, which is repeated as long as it raises broker errors.

    Args:
        call: asks the broker for something.
        action: what the call does, as in "reading the models topic"; for the log and the error.
        deadline_seconds: time after which no further call is made.
        stop: set when the result is no longer wanted.
        clock: seconds; for the deadline.

    Raises:
        BrokerUnavailable: the deadline passed, or `stop` was set; its cause is the last error.
    """
    begin, backoff = clock(), Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
    while True:
        try:
            return call()
        except (KafkaError, TransientBrokerError, OSError) as error:
            now = clock()
            waited, backoff = now - begin, backoff.after_failure(now)
            if waited + backoff.pause_seconds > deadline_seconds or stop.is_set():
                raise BrokerUnavailable(
                    f"{action}: no success for {waited:.0f} s: {describe(error)}; check the addresses in "
                    "FORECASTER_KAFKA__BOOTSTRAP_SERVERS and the rights of this user"
                ) from error
            _log.warning("broker_call_failed", action=action, error=describe(error), wait_seconds=backoff.pause_seconds)
            stop.wait(backoff.pause_seconds)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, and every error that is wrapped in it as an argument or as its cause."""
    yield error
    for inner in [*error.args, error.__cause__]:
        if isinstance(inner, BaseException):
            yield from causes(inner)


def describe(error: Exception) -> str:
    """Return the name of the error's class, and its text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
