"""Connections of Kafka's clients, changed so that none waits for ever and none outlives its client.

| case | the client | here |
|---|---|---|
| a peer accepts a connection and never answers the TLS handshake | waits for ever, with its requests | gives up |
| a peer answers and closes the connection at once, as after a refused login | drops the answer | reads it |
| no bootstrap server answers when a client is created | leaves its thread and its sockets behind | closes them |
| the coroutine that refreshes metadata ends | keeps what it knows for ever | starts it again |
| one of several bootstrap servers does not answer | waits for it until the deadline | leaves time for the others |
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

from kafka.errors import (
    BrokerResponseError,
    Cancelled,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    UnknownBrokerIdError,
)
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import create_connection
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from forecaster.broker.refusals import RefusalManager

NO_ANSWER = (
    Cancelled,
    KafkaConnectionError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    UnknownBrokerIdError,
)
"""Errors that the client raises because no broker answered; others are answers of a broker."""
BOOTSTRAP_SHARES = 3
LEAST_BOOTSTRAP_MS = 1_000
"""Of several bootstrap servers, each has a third of the time that is left, but at least this time."""


class Question:
    """A request to any broker that a client knows; nobody waits for its answer.

    Attributes:
        future: result of the request.
    """

    def __init__(self, future: Future) -> None:
        self.future = future

    @property
    def is_answered(self) -> bool:
        """Whether a broker has answered; an error that a broker reports is an answer, too."""
        error = self.future.exception
        is_report = isinstance(error, BrokerResponseError) and not isinstance(error, NO_ANSWER)
        return bool(self.future.is_done) and (error is None or is_report)

    @property
    def is_lost(self) -> bool:
        """Whether the request has failed without an answer."""
        return bool(self.future.is_done) and not self.is_answered


class TcpTransport(KafkaTCPTransport):  # type: ignore[misc]
    """A transport that reads what a peer has sent before it closed the connection."""

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        data, error = super()._sock_recv()
        return data, None if data else error  # the next read meets the end again


class BoundedTransport(KafkaSSLTransport):  # type: ignore[misc]
    """A TLS transport whose handshake has a deadline; it reads what a peer has sent before it closed the connection."""

    deadline: float | None = None

    async def handshake(self) -> None:
        """Do the handshake.

        Raises:
            KafkaTimeoutError: the peer did not answer before the deadline.
        """
        while True:
            try:
                self._sock.do_handshake()
            except ssl.SSLWantReadError:
                await self._net.wait_read(self._sock, timeout_at=self.deadline)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(self._sock, timeout_at=self.deadline)
            else:
                return

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        data, error = super()._sock_recv()
        return data, None if data else error


class BoundedManager(RefusalManager):
    """The connections of one client.

    Attributes:
        is_lost: whether the last call of `run` failed because no broker answered.
    """

    is_lost = False

    def bootstrap(self, timeout_ms: float | None = None, refresh: bool = True) -> None:  # noqa: FBT001, FBT002 - signature of the client
        """Connect to a bootstrap server; after a failure, close everything, since nobody else can."""
        try:
            super().bootstrap(timeout_ms, refresh)
        except BaseException:
            self.close()
            self._net.close()
            raise

    def get_connection(self, node_id: Any, timeout_ms: float | None = None, **options: Any) -> Any:
        """Return the connection to a node, which may still be in setup."""
        if timeout_ms is not None and self.cluster.is_bootstrap(node_id) and len(self.cluster.bootstrap_brokers()) > 1:
            timeout_ms = max(timeout_ms / BOOTSTRAP_SHARES, min(timeout_ms, LEAST_BOOTSTRAP_MS))
        return super().get_connection(node_id, timeout_ms=timeout_ms, **options)

    def run(self, coro: Any, *arguments: Any) -> Any:
        """Return the result of a coroutine, and note whether a broker has answered."""
        try:
            result = super().run(coro, *arguments)
        except NO_ANSWER:
            self.is_lost = True
            raise
        except RuntimeError as error:
            if not self.closed:
                raise
            raise KafkaConnectionError("another thread has closed this client") from error
        self.is_lost = False
        return result

    def ask(self) -> Question:
        """Ask any known broker for metadata; return at once."""
        refreshing = self.cluster._refresh_loop_future  # noqa: SLF001 - it ends at an error, and is not started again
        if refreshing is not None and refreshing.is_done:
            self.cluster._refresh_loop_future = None  # noqa: SLF001 - the next request starts it
        return Question(self.cluster.request_update())

    def answers(self, timeout_ms: int) -> bool:
        """Return whether a known broker answers within the time; pauses after failed attempts to connect are cut."""
        self.hurry()
        question = self.ask()
        with suppress(KafkaError):
            self._net.run(self.wait_for, question.future, timeout_ms)
        if question.is_answered:
            self.is_lost = False
        return question.is_answered

    def hurry(self) -> None:
        """Forget the pauses before the next attempts to connect, and ask for metadata now."""

        def forget() -> None:
            for node_id in list(self._backoff):
                self.reset_backoff(node_id)
            self.cluster.request_update()

        self._net.call_soon_threadsafe(forget)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        if not self.ssl_enabled:
            transport = await super()._build_transport(node, timeout_at)
            transport.__class__ = TcpTransport
            return transport
        config = self.config
        sock = await create_connection(
            self._net,
            node.host,
            node.port,
            config["socket_options"],
            proxy_url=config["proxy_url"],
            timeout_at=timeout_at,
        )
        options = {name: value for name, value in config.items() if name.startswith("ssl_")}
        transport = BoundedTransport(self._net, sock, host=node.host, **options)
        transport.deadline = timeout_at
        try:
            await transport.handshake()
        except Exception as error:
            transport.close()
            raise KafkaConnectionError(f"Handshake failed: {error}") from error
        return transport


class BoundedNetClient(KafkaNetClient):  # type: ignore[misc]
    """What consumers, producers and admin clients are built on; the client's option `kafka_client`."""

    def __init__(self, **configs: Any) -> None:
        net = NetworkSelector(**configs)
        super().__init__(net, BoundedManager(net, **configs), **configs)
