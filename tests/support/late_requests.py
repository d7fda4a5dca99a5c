"""A loopback TCP proxy through which a request reaches the broker too late: after the client has sent it again."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from proxy import Proxy, api_key, frames

PRODUCE, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 0, 24, 25, 26, 28
"""Kafka's API keys of the requests of a transaction."""


class LateRequests(Proxy):
    """Holds a request, cuts its connection, and delivers it to the broker in the middle of the next transaction.

    Whatever address the broker advertises, clients get the proxy's.

    Args:
        broker: address of the broker, host:port.

    Attributes:
        address: address of the proxy.
        delivered: number of requests that were delivered late.
    """

    def __init__(self, broker: str) -> None:
        host, port = broker.rsplit(":", 1)
        self._host = host.encode()
        self._held: bytes = b""
        self._hold = self._before = -1
        self._has_ended = False
        self.delivered = 0
        super().__init__(0, int(port))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"

    def hold(self, request: int, *, before: int) -> None:
        """Hold the next request of one kind; deliver it in the next transaction, before a request of another kind."""
        self._before, self._hold = before, request

    @property
    def is_holding(self) -> bool:
        """Whether a request is held now."""
        return bool(self._held)

    def _forward(self, request: bytes, broker: socket.socket) -> None:
        key = api_key(request)
        if key == self._hold:
            self._held, self._hold = request, -1
            self._cut()
            return
        if self._has_ended and key == self._before:
            self._deliver()
        if self._held and key == END_TXN:
            self._has_ended = True
        broker.sendall(request)

    def _deliver(self) -> None:
        held, self._held, self._has_ended = self._held, b"", False
        with socket.create_connection(("127.0.0.1", self._target), timeout=10) as connection:
            connection.sendall(held)
            next(frames(connection))
        self.delivered += 1

    def _answers(self, broker: socket.socket, client: socket.socket) -> None:
        mine = struct.pack(">i", self._server.getsockname()[1])
        theirs = struct.pack(">i", self._target)
        with suppress(OSError):
            for answer in frames(broker):
                client.sendall(answer.replace(self._host + theirs, self._host + mine))
        self._end(client, broker)
