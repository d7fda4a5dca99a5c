"""uvicorn in a thread of its own: whatever happens to it, the worker goes on."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from forecaster.errors import UsageError
from forecaster.web.service import Service

MOST_CONNECTIONS = 64
BACKLOG = 128
FIRST_QUESTION_SECONDS = 5.0
END_SECONDS = 3.0
_log = structlog.get_logger()


class Impatient(H11Protocol):
    """Closes a connection that asks nothing: uvicorn would wait for ever, and each one counts against the limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected."""
        super().connection_made(transport)
        self.loop.call_later(FIRST_QUESTION_SECONDS, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


@contextmanager
def serving_http(service: Service, host: str, port: int | None) -> Iterator[None]:
    """HTTP is answered while the context is open; no port = it is not.

    Raises:
        UsageError: the address cannot be had.
    """
    if port is None:
        yield
        return
    from forecaster.web.api import build_app  # which takes a while to import, and most commands need it not

    listening = _listening(host, port)
    _log.info("http", host=host, port=listening.getsockname()[1])
    config = uvicorn.Config(
        build_app(service),
        lifespan="off",
        http=Impatient,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(END_SECONDS)
        listening.close()


def _listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens there."""
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"FORECASTER_HTTP__HOST={host}, FORECASTER_HTTP__PORT={port}: {error}; choose a port that is free, 0 for "
            "any, or leave it empty for no HTTP"
        ) from error
