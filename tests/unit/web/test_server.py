"""The HTTP server in its thread."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import ExitStack

import pytest

from forecaster.app.watchdog import Pulse, Watchdog
from forecaster.errors import UsageError
from forecaster.web import server
from forecaster.web.server import serving_http
from forecaster.web.service import Service


def service() -> Service:
    return Service("worker", "readings", "group", Watchdog(Pulse(), lambda _: None))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_the_server_answers_only_while_its_context_is_open() -> None:
    port = free_port()
    with serving_http(service(), "127.0.0.1", port):
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10)


def test_connections_without_a_request_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_SECONDS", 0.5)
    port = free_port()
    with serving_http(service(), "127.0.0.1", port), ExitStack() as silent:
        sockets = [
            silent.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            for _ in range(server.MAX_CONNECTIONS + 1)
        ]
        for connection in sockets:
            assert connection.recv(1) == b"", "the server has closed it"
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status == 200


def test_a_port_that_is_taken_is_a_usage_error() -> None:
    """No port means no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="FORECASTER_HTTP__PORT"), serving_http(service(), "127.0.0.1", port):
            pass
    with serving_http(service(), "127.0.0.1", None):
        pass
