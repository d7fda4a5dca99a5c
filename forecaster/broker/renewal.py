"""Renewal: a new client replaces one that has lost its brokers or its consumer group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import structlog
from kafka.errors import KafkaError

from forecaster.broker.retry import describe

LAST_CHANCE_MS = 1_000
"""Time for a client whose brokers are silent to connect once more, before a new one takes over."""
CLOSE_SECONDS = 1.0
"""Longest delay of a new client by the closing of the old one, which usually leaves its group in this time."""
_log = structlog.get_logger()


class Closable(Protocol):
    """A client that can be closed."""

    def close(self) -> None:
        """Close the connections."""


Client = TypeVar("Client", bound=Closable)


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
