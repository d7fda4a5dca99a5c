"""The HTTP server: uvicorn in a thread of its own, so that its failures cannot stop the worker."""

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

MAX_CONNECTIONS = 64
BACKLOG = 128
FIRST_REQUEST_SECONDS = 5.0
"""Time after which a connection without a request is closed."""
SHUTDOWN_SECONDS = 3.0
_log = structlog.get_logger()


class FirstRequestTimeout(H11Protocol):
    """Closes a connection that sends no request; uvicorn would keep it for ever, and it counts against the limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time-out of a new connection."""
        super().connection_made(transport)
        self.loop.call_later(FIRST_REQUEST_SECONDS, self._close_without_request)

    def _close_without_request(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


@contextmanager
def serving_http(service: Service, host: str, port: int | None) -> Iterator[None]:
    """Answer HTTP requests while the context is open.

    Args:
        service: the daemon that is shown.
        host: address to listen on.
        port: port to listen on; 0 = any free one, None = no HTTP.

    Raises:
        UsageError: the address is taken or does not exist.
    """
    if port is None:
        yield
        return
    from forecaster.web.api import build_app  # slow to import, and most commands do not need it

    listening = _listen(host, port)
    _log.info("http_started", host=host, port=listening.getsockname()[1])
    config = uvicorn.Config(
        build_app(service),
        lifespan="off",
        http=FirstRequestTimeout,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
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
        thread.join(SHUTDOWN_SECONDS)
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on this address; raise UsageError if it cannot be opened."""
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"FORECASTER_HTTP__HOST={host}, FORECASTER_HTTP__PORT={port}: {error}; choose a free port, 0 for any "
            "free port, or leave it empty for no HTTP"
        ) from error
