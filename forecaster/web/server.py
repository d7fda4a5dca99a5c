"""The HTTP servers: uvicorn in threads of their own, so that their failures cannot stop the worker."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import structlog
import uvicorn

from forecaster.errors import UsageError
from forecaster.web.connections import REQUEST_SECONDS, Connections
from forecaster.web.pace import Pace
from forecaster.web.service import Service

MAX_CONNECTIONS, MAX_PROBES = 256, 32
"""Open connections of the server, and of the port for probes; of more, the longest idle one is closed."""
BACKLOG = 128
SHUTDOWN_SECONDS = 3.0
SWITCH_SECONDS = 0.001
"""Time after which a thread that computes lets another one continue. With Python's 5 ms, the worker would wait that
long at each of the many moments at which numpy and torch release the interpreter, while a request is answered."""
_log = structlog.get_logger()


@contextmanager
def serving_http(service: Service, host: str, port: int | None, probe_port: int | None = None) -> Iterator[None]:
    """Answer HTTP requests while the context is open.

    Args:
        service: the daemon that is shown.
        host: address to listen on.
        port: port to listen on; 0 = any free one, None = no HTTP.
        probe_port: port of a second server with health and metrics alone, in a thread of its own, which no client of
            the first one can delay; 0 = any free one, None = none.

    Raises:
        UsageError: the address is taken or does not exist.
    """
    if port is None and probe_port is None:
        yield
        return
    from forecaster.web.api import build_app, build_probes  # slow to import, and most commands do not need it

    with ExitStack() as servers:
        main, probes = _listen(host, port, "PORT", servers), _listen(host, probe_port, "PROBE_PORT", servers)
        _log.info("http_started", host=host, port=_number(main), probe_port=_number(probes))
        servers.enter_context(_short_switches())
        if probes is not None:
            pace = Pace()
            servers.enter_context(
                _serving(build_probes(service, pace), probes, Connections(MAX_PROBES, pace), "probes")
            )
        if main is not None:
            pace = Pace()
            servers.enter_context(_serving(build_app(service, pace), main, Connections(MAX_CONNECTIONS, pace), "http"))
        yield


@contextmanager
def _serving(app: Any, listening: socket.socket, connections: Connections, name: str) -> Iterator[None]:
    """Run a server in a thread while the context is open."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        http=connections.protocol,  # type: ignore[arg-type] # uvicorn calls it as it would call a class
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(REQUEST_SECONDS),
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(SHUTDOWN_SECONDS)


@contextmanager
def _short_switches() -> Iterator[None]:
    """Let threads of Python take turns more often while the context is open."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _number(listening: socket.socket | None) -> int | None:
    return None if listening is None else int(listening.getsockname()[1])


def _listen(host: str, port: int | None, variable: str, resources: ExitStack) -> socket.socket | None:
    """Return a socket that listens on this address, None for no port; raise UsageError if it cannot be opened."""
    if port is None:
        return None
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        return resources.enter_context(listening)
    except OSError as error:
        raise UsageError(
            f"FORECASTER_HTTP__HOST={host}, FORECASTER_HTTP__{variable}={port}: {error}; choose a free port, 0 for any "
            "free port, or leave it empty for none"
        ) from error
