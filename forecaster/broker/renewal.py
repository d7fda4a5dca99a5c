"""Renewal: a new client replaces one that has lost its brokers or its consumer group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import structlog
from kafka.errors import KafkaError

from forecaster.broker.retry import describe
from forecaster.broker.silence import Asking, SilenceWatch

LAST_CHANCE_MS = 1_000
"""Time for a client whose brokers are silent to connect once more, before a new one takes over."""
CLOSE_SECONDS = 1.0
"""Longest delay of a new client by the closing of the old one, which usually leaves its group in this time."""
SILENT = "its brokers are silent"
"""Reason for the renewal of a client, for the log."""
_log = structlog.get_logger()


class Closable(Protocol):
    """A client that can be closed."""

    def close(self) -> None:
        """Close the connections."""


class Answering(Protocol):
    """A client that can wait for an answer of its brokers: a `TolerantConsumer`."""

    def answers(self, timeout_ms: int) -> bool:
        """Return whether a broker answers in time."""


class Renewable(Asking, Answering, Closable, Protocol):
    """A client that can be asked for metadata, waited for, and closed: a `TolerantConsumer`."""


Client = TypeVar("Client", bound=Closable)
Reader = TypeVar("Reader", bound=Renewable)


def follow_brokers(
    client: Reader, silence: SilenceWatch, connect: Callable[[], Reader], name: str, *, has_failed: bool = False
) -> Reader:
    """Return the client to continue with: a new one if the brokers of the present one stay silent.

    Brokers that have sent nothing for a while are asked something.

    Args:
        client: the present client.
        silence: watches its brokers.
        connect: makes a client that continues where the present one is, from the bootstrap servers.
        name: what the client does, for the log.
        has_failed: a request of the client has failed: do not wait until the silence is long.
    """
    silence.look(client, has_failed=has_failed)
    if not must_be_renewed(client, silence):
        return client
    new = successor(client, connect, name, SILENT)
    silence.record_attempt(new)
    return new or client


def must_be_renewed(client: Answering, silence: SilenceWatch) -> bool:
    """Return whether a renewal is due and the brokers do not answer a last question either; note their answer."""
    if not silence.is_renewal_due:
        return False
    if client.answers(LAST_CHANCE_MS):
        silence.record_answer()
        return False
    return True


def successor(old: Client, connect: Callable[[], Client], name: str, reason: str) -> Client | None:
    """Return a new client, and close the old one; None = no bootstrap server answered, the old one is kept.

    The new client must not join a group before this returns: a static member would be fenced by its former client.

    Args:
        old: client that the new one takes over from.
        connect: makes a client, from the bootstrap servers.
        name: what the client does, for the log.
        reason: why it is replaced, for the log.
    """
    try:
        new = connect()
    except (KafkaError, OSError) as error:
        _log.debug("client_not_renewed", client=name, reason=reason, error=describe(error))
        return None
    close_aside(old)
    _log.warning("client_renewed", client=name, reason=reason)
    return new


def close_aside(client: Closable) -> None:
    """Close a client in a thread of its own, and return after a moment, whether it is closed or not."""

    def close() -> None:
        with suppress(Exception):  # nobody needs this client any more
            client.close()

    thread = threading.Thread(target=close, name="closing a client", daemon=True)
    thread.start()
    thread.join(CLOSE_SECONDS)
