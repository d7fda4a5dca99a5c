"""Connections that have an end, whatever a broker does or does not."""

from __future__ import annotations

import gc
import inspect
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from daemons import free_port, wait_until
from kafka import KafkaProducer
from kafka.admin.client import KafkaAdminClient
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, UnknownTopicOrPartitionError
from kafka.future import Future
from kafka.net.manager import KafkaConnectionManager
from kafka.net.transport import KafkaSSLTransport

from forecaster.broker.connection import Connection
from forecaster.broker.renewal import successor
from forecaster.broker.tolerant_clients import TolerantAdminClient, TolerantConsumer
from forecaster.broker.tolerant_connections import BoundedManager, Question

BOOTSTRAP_MS = 300
Client = Callable[[Connection], Any]


def consumer(connection: Connection) -> TolerantConsumer:
    return TolerantConsumer(**connection.consumer_options())


def admin(connection: Connection) -> TolerantAdminClient:
    return TolerantAdminClient(**connection.admin_options())


def producer(connection: Connection) -> KafkaProducer:
    return KafkaProducer(**connection.producer_options("id"))


def connected(servers: str, **options: Any) -> Connection:
    return Connection(servers, "group", options={"bootstrap_timeout_ms": BOOTSTRAP_MS, **options})


def leftovers() -> tuple[int, int]:
    """Return the numbers of threads and of open files; the client leaves closed connections to the collector."""
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Keep pytest from keeping log records, whose arguments are connections."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def mute() -> Iterator[str]:
    """Yield the address of a server that accepts connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize("client", [consumer, admin, producer])
def test_a_client_that_finds_no_broker_leaves_no_thread_and_no_file(client: Client) -> None:
    address = connected(f"127.0.0.1:{free_port()}", bootstrap_timeout_ms=20)
    with pytest.raises(KafkaTimeoutError):
        client(address)
    threads, files = leftovers()
    for _ in range(50):
        with pytest.raises(KafkaTimeoutError):
            client(address)
    wait_until(lambda: leftovers() <= (threads, files + 2), f"{leftovers()} instead of {threads, files}", 10)


@pytest.mark.usefixtures("unlogged")
def test_a_client_that_is_made_anew_fifty_times_leaves_no_thread_and_no_file() -> None:
    options = {**connected("127.0.0.1:9").consumer_options(), "api_version": (2, 6)}
    client = TolerantConsumer(**options)
    client.subscribe(["readings"])
    threads, files = leftovers()
    for _ in range(50):
        new = successor(client, lambda: TolerantConsumer(**options), "test", "test")
        assert new is not None
        client = new
        client.subscribe(["readings"])
    wait_until(lambda: leftovers() <= (threads, files + 2), f"{leftovers()} instead of {threads, files}", 10)
    client.close()


def test_a_successor_that_finds_no_broker_leaves_the_old_client_as_it_is(mute: str) -> None:
    options = connected(mute).consumer_options()
    with closing(TolerantConsumer(**{**options, "api_version": (2, 6)})) as client:
        assert successor(client, lambda: TolerantConsumer(**options), "test", "test") is None
        client.subscribe(["readings"])
        assert client.poll(timeout_ms=0) == {}


@pytest.mark.parametrize("client", [consumer, admin, producer])
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_server_that_says_nothing_is_given_up(mute: str, client: Client, protocol: str) -> None:
    """The client has no deadline for the TLS handshake."""
    connection = Connection(
        mute, "group", security={"security_protocol": protocol}, options={"bootstrap_timeout_ms": BOOTSTRAP_MS}
    )
    errors: list[Exception] = []

    def connect() -> None:
        try:
            client(connection)
        except KafkaTimeoutError as error:
            errors.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(10.0)
    assert len(errors) == 1, "the client never gives up"


def test_one_mute_bootstrap_server_leaves_time_for_the_other(mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would wait for it until the deadline."""
    seen: list[float] = []

    def connection(self: Any, node_id: Any, timeout_ms: float, **_: Any) -> Any:  # noqa: ARG001 - signature of the client
        seen.append(timeout_ms)
        raise NodeNotReadyError(node_id)

    monkeypatch.setattr(KafkaConnectionManager, "get_connection", connection)
    for servers, share in ((f"{mute},{mute}", 1_000), (mute, 1_500)):
        seen.clear()
        with pytest.raises(KafkaTimeoutError):
            consumer(connected(servers, bootstrap_timeout_ms=1_500))
        assert share - 100 <= seen[0] <= share


def test_names_are_looked_up_again_for_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of a bootstrap server can lead to another address each time."""
    asked: list[Any] = []

    def look_up(host: str, port: int, *_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for number in (1, 2):
        asked.clear()
        with pytest.raises(KafkaTimeoutError):
            consumer(connected("broker.example:9"))
        assert asked[0] == "broker.example", number


@pytest.mark.parametrize(
    ("future", "is_answered", "is_lost"),
    [
        (Future(), False, False),
        (Future().success(None), True, False),
        (Future().failure(UnknownTopicOrPartitionError()), True, False),
        (Future().failure(NodeNotReadyError()), False, True),
    ],
)
def test_an_error_that_a_broker_reports_is_an_answer(future: Future, *, is_answered: bool, is_lost: bool) -> None:
    question = Question(future)
    assert (question.is_answered, question.is_lost) == (is_answered, is_lost)


def test_metadata_is_refreshed_although_the_coroutine_that_does_it_has_ended() -> None:
    options = {**connected("127.0.0.1:9").consumer_options(), "api_version": (2, 6)}
    with closing(TolerantConsumer(**options)) as client:
        cluster = vars(client)["_cluster"]
        client.ask()
        first = vars(cluster)["_refresh_loop_future"]
        client.ask()
        assert vars(cluster)["_refresh_loop_future"] is first
        setattr(cluster, "_refresh_loop_future", Future().failure(RuntimeError("bug")))  # noqa: B010 - private
        client.ask()
        assert not vars(cluster)["_refresh_loop_future"].is_done


def test_a_client_that_another_thread_has_closed_is_an_error_of_the_connection() -> None:
    options = {**connected("127.0.0.1:9").consumer_options(), "api_version": (2, 6)}
    client = TolerantConsumer(**options)
    client.close()
    with pytest.raises(KafkaConnectionError, match="another thread"):
        vars(client)["_manager"].run(lambda: None)


def test_a_question_to_silent_brokers_has_a_deadline() -> None:
    options = {**connected("127.0.0.1:9").consumer_options(), "api_version": (2, 6)}
    with closing(TolerantConsumer(**options)) as client:
        begin = time.monotonic()
        assert not client.answers(200)
        assert time.monotonic() - begin < 5.0


def test_the_private_names_of_the_connections_are_where_they_were() -> None:
    """A new version of the client that moves one of them must fail here, not in production."""
    assert "self._refresh_loop_future is not None" in inspect.getsource(ClusterMetadata.start_refresh_loop)
    assert "self._backoff[node_id]" in inspect.getsource(KafkaConnectionManager.reset_backoff)
    build = inspect.getsource(vars(KafkaConnectionManager)["_build_transport"])
    assert "create_connection(self._net" in build
    assert "KafkaSSLTransport(self._net, sock, host=node.host, **ssl_configs)" in build
    assert "self._sock.do_handshake()" in inspect.getsource(KafkaSSLTransport.handshake)
    assert "self._manager.bootstrap(" in inspect.getsource(KafkaAdminClient.__init__)
    assert "timeout_ms=timeout_ms" in inspect.getsource(vars(KafkaConnectionManager)["_do_bootstrap"])
    assert issubclass(BoundedManager, KafkaConnectionManager)
