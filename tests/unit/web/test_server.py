"""The HTTP servers in their threads: whatever clients do with their connections, probes are answered."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from daemons import free_port, wait_until

from forecaster.app.watchdog import Pulse, Watchdog
from forecaster.errors import UsageError
from forecaster.web import connections, server, views
from forecaster.web.server import serving_http
from forecaster.web.service import Service

ESTABLISHED = 1
"""State of an open connection in TCP_INFO."""
ASKED = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
SELFISH_CLIENTS = {
    "sends nothing": b"",
    "sends half of the headers": b"GET / HTTP/1.1\r\nHost: x\r\nX-a: ",
    "sends half of a second request": ASKED + b"GET / HTTP/1.1\r\nX-a: ",
    "sends half of a body": b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc",
    "sends half of a chunk": b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nabc",
    "does not read a large file": b"GET /page/plotly.js HTTP/1.1\r\nHost: x\r\n\r\n",
    "sends no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
}


def service() -> Service:
    return Service("worker", "readings", "group", Watchdog(Pulse(), lambda _: None))


def get(port: int, path: str, seconds: float = 10.0) -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        link.request("GET", path)
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


def connected(port: int, sent: bytes, resources: ExitStack) -> socket.socket:
    """Return a connection with a small buffer, on which these bytes have been sent."""
    link = resources.enter_context(socket.socket())
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.settimeout(10)
    link.connect(("127.0.0.1", port))
    link.sendall(sent)
    return link


def is_open(link: socket.socket) -> bool:
    """Return whether the server has neither closed nor reset the connection; without reading from it."""
    return link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Serve with few connections and short deadlines; return the port."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 16)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.1)
    number = free_port()
    with serving_http(service(), "127.0.0.1", number):
        yield number


def test_the_server_answers_only_while_its_context_is_open() -> None:
    port = free_port()
    with serving_http(service(), "127.0.0.1", port):
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10)


@pytest.mark.parametrize("sent", [*SELFISH_CLIENTS.values(), ASKED * 1_000], ids=[*SELFISH_CLIENTS, "asks ahead"])
def test_probes_are_answered_whatever_other_clients_do(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more such clients than connections, and no deadline helps."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 16)
    port = free_port()
    with serving_http(service(), "127.0.0.1", port), ExitStack() as clients:
        for _ in range(24):
            connected(port, sent, clients)
        for path, status in (("/livez", 200), ("/readyz", 503), ("/metrics", 200)) * 3:
            begin = time.monotonic()
            assert get(port, path)[0] == status
            assert time.monotonic() - begin < 2.0
    assert not [thread for thread in threading.enumerate() if thread.name == "http"]


def test_connections_that_wait_for_their_clients_are_closed_in_time(port: int) -> None:
    with ExitStack() as clients:
        links = {name: connected(port, sent, clients) for name, sent in SELFISH_CLIENTS.items()}
        for name, link in links.items():
            wait_until(lambda link=link: not is_open(link), f"the end of a client that {name}", 20)  # type: ignore[misc]
        assert get(port, "/livez")[0] == 200


def test_a_request_that_comes_byte_by_byte_is_not_waited_for(port: int) -> None:
    with ExitStack() as clients:
        link = connected(port, b"GET / HTTP/1.1\r\nX-", clients)

        def drip() -> bool:
            with suppress(ConnectionError):
                link.sendall(b"a")
            return not is_open(link)

        wait_until(drip, "the end of the connection", 20)


def test_the_connection_that_waits_longest_makes_room_for_a_new_one(port: int) -> None:
    with ExitStack() as clients:
        first, *_ = [connected(port, b"", clients) for _ in range(16)]
        assert get(port, "/livez")[0] == 200
        wait_until(lambda: not is_open(first), "the end of the first connection", 5)


def test_a_connection_ends_after_many_requests(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So requests that are sent ahead are bounded; the last answer says so."""
    monkeypatch.setattr(connections, "MOST_REQUESTS", 5)
    with ExitStack() as clients:
        link = connected(port, ASKED * 20, clients)
        answers = b""
        with suppress(ConnectionError):  # it has not read all requests
            while piece := link.recv(65_536):
                answers += piece
    assert answers.count(b"200 OK") <= 5
    browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    closing = []
    for _ in range(5):
        browser.request("GET", "/livez")
        answer = browser.getresponse()
        answer.read()
        closing.append(answer.headers["connection"])
    browser.close()
    assert closing == [None] * 4 + ["close"]


@pytest.mark.parametrize(
    "sent",
    [b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 100_000), b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * 100_000)],
    ids=["path", "header"],
)
def test_a_request_line_or_header_that_is_too_long_is_refused(port: int, sent: bytes) -> None:
    with ExitStack() as clients:
        link = connected(port, sent, clients)
        status = int(link.recv(65_536).split(b" ")[1])
    assert status in (400, 431)


def test_browsers_with_more_connections_than_the_limit_are_served(port: int) -> None:
    """Twenty clients with three connections each ask the whole time; no probe and none of their requests fails."""
    stop, failures, answers = threading.Event(), list[object](), list[int]()

    def browse() -> None:
        links = [http.client.HTTPConnection("127.0.0.1", port, timeout=10) for _ in range(3)]
        while not stop.wait(0.2):
            for link in links:
                try:
                    link.request("GET", "/api/v1/status")
                    answers.append(link.getresponse().status)
                except (OSError, http.client.HTTPException):  # its idle connection made room: a browser asks again
                    link.close()
                    try:
                        link.request("GET", "/api/v1/status")
                        answers.append(link.getresponse().status)
                    except (OSError, http.client.HTTPException) as error:
                        failures.append(error)
                link.close()

    browsers = [threading.Thread(target=browse) for _ in range(20)]
    for browser in browsers:
        browser.start()
    for _ in range(10):
        assert get(port, "/livez", 2.0)[0] == 200
        assert get(port, "/metrics", 2.0)[0] == 200
    wait_until(lambda: len(answers) > 50, "answers")
    stop.set()
    for browser in browsers:
        browser.join()
    assert answers.count(200) > 0.9 * len(answers)
    assert len(failures) < 0.1 * len(answers)


def test_the_probe_port_answers_while_the_other_server_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has nothing but health and metrics."""
    stuck, free = threading.Event(), threading.Event()

    def overview(_: Service) -> None:
        stuck.set()
        free.wait(30)

    monkeypatch.setattr(views, "overview", overview)
    port, probe_port = free_port(), free_port()
    with serving_http(service(), "127.0.0.1", port, probe_port), ExitStack() as clients:
        connected(port, b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n\r\n", clients)
        assert stuck.wait(10)
        try:
            for path, status in (
                ("/livez", 200),
                ("/readyz", 503),
                ("/metrics", 200),
                ("/", 404),
                ("/api/v1/status", 404),
            ):
                assert get(probe_port, path, 2.0)[0] == status
            with pytest.raises(TimeoutError):
                get(port, "/livez", 0.5)
        finally:
            free.set()
        assert get(port, "/livez")[0] == 200


def test_probes_alone_can_be_served() -> None:
    probe_port = free_port()
    with serving_http(service(), "127.0.0.1", None, probe_port):
        assert get(probe_port, "/livez")[0] == 200
        assert json.loads(get(probe_port, "/api/v1/series")[1])["status"] == 404


@pytest.mark.parametrize("variable", ["PORT", "PROBE_PORT"])
def test_a_port_that_is_taken_is_a_usage_error(variable: str) -> None:
    """No port means no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        ports = (number, None) if variable == "PORT" else (None, number)
        with (
            pytest.raises(UsageError, match=f"FORECASTER_HTTP__{variable}="),
            serving_http(service(), "127.0.0.1", *ports),
        ):
            pass
    with serving_http(service(), "127.0.0.1", None):
        pass
