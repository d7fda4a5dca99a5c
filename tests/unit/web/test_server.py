"""The server in its thread."""

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
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_it_answers_while_the_context_is_open_and_not_after() -> None:
    port = free_port()
    with serving_http(service(), "127.0.0.1", port):
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10)


def test_connections_that_ask_nothing_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_SECONDS", 0.5)
    port = free_port()
    with serving_http(service(), "127.0.0.1", port), ExitStack() as silent:
        sockets = [
            silent.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            for _ in range(server.MAX_CONNECTIONS + 1)
        ]
        for one in sockets:
            assert one.recv(1) == b"", "it was closed"
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status == 200


def test_a_port_that_is_taken_is_a_wrong_setting_and_no_port_is_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="FORECASTER_HTTP__PORT"), serving_http(service(), "127.0.0.1", port):
            pass
    with serving_http(service(), "127.0.0.1", None):
        pass
