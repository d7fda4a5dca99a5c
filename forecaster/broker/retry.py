"""Repeated requests: a call is made again after each broker error, with growing pauses, up to a deadline.

A call that fails because the broker refuses a login, a certificate or a right is repeated, too: somebody may be
changing it. At the start of a process, it is repeated for a short time only, because a setting is probably wrong.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TypeVar

import structlog
from kafka.errors import KafkaError

from forecaster.backoff import Backoff
from forecaster.broker.refusals import causes, explanation, refusal_in
from forecaster.clock import Clock, monotonic
from forecaster.errors import BrokerUnavailable, TransientBrokerError

Result = TypeVar("Result")
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 5.0
REFUSED_SECONDS = 5.0
"""Time for which a process that starts repeats what the broker refuses."""
__all__ = ["REFUSED_SECONDS", "causes", "describe", "retry"]
_log = structlog.get_logger()


def retry(
    call: Callable[[], Result],
    action: str,
    deadline_seconds: float,
    stop: threading.Event,
    clock: Clock = monotonic,
    refused_seconds: float = math.inf,
) -> Result:
    """Return the result of a call, which is repeated as long as it raises broker errors.

    Args:
        call: asks the broker for something.
        action: what the call does, as in "reading the models topic"; for the log and the error.
        deadline_seconds: time after which no further call is made.
        stop: set when the result is no longer wanted.
        clock: seconds; for the deadline.
        refused_seconds: deadline for a login, certificate or right that the broker refuses, from the first refusal on.

    Raises:
        BrokerUnavailable: the deadline passed, or `stop` was set; its cause is the last error.
    """
    begin, backoff = clock(), Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
    refused_at: float | None = None
    while True:
        try:
            return call()
        except (KafkaError, TransientBrokerError, OSError) as error:
            now, is_refused = clock(), refusal_in(error) is not None
            refused_at = (now if refused_at is None else refused_at) if is_refused else None
            waited, backoff = now - begin, backoff.after_failure(now)
            deadline = begin + deadline_seconds
            if refused_at is not None:
                deadline = min(deadline, refused_at + refused_seconds)
            if now + backoff.pause_seconds > deadline or stop.is_set():
                raise BrokerUnavailable(_failure(action, waited, error)) from error
            _log.warning("broker_call_failed", action=action, error=describe(error), wait_seconds=backoff.pause_seconds)
            stop.wait(backoff.pause_seconds)


def _failure(action: str, waited: float, error: Exception) -> str:
    advice = "" if refusal_in(error) else "; check the addresses in FORECASTER_KAFKA__BOOTSTRAP_SERVERS"
    return f"{action}: no success for {waited:.0f} s: {describe(error)}{advice}"


def describe(error: Exception) -> str:
    """Return the name of the error's class, and its text; for a refusal, what was refused and what to do."""
    if isinstance(error, KafkaError | OSError) and (refused := explanation(error)):
        return refused
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
