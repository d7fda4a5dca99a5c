"""A loopback TCP proxy that can be slow, and that can cut all connections when a client ends a transaction."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

END_TXN = 26
"""Kafka's API key of the request that commits or aborts a transaction."""


def api_key(request: bytes) -> int:
    """Return which kind of request it is."""
    return int(struct.unpack(">h", request[4:6])[0])


def frames(source: socket.socket) -> Iterator[bytes]:
    """Yield requests or answers, each with its four bytes of length, until the connection ends."""
    buffered = b""
    while data := source.recv(65_536):
        buffered += data
        while len(buffered) >= 4 and len(buffered) >= (size := 4 + struct.unpack(">i", buffered[:4])[0]):
            frame, buffered = buffered[:size], buffered[size:]
            yield frame


class Proxy:
    """Forwards connections to 127.0.0.1:port to another port.

    Args:
        port: port to listen at.
        target: port to forward to.
        delay_seconds: delay of every answer.

    Attributes:
        port: port to listen at.
        armed: whether the next request to end a transaction cuts all connections.
        cuts: number of cuts.
    """

    def __init__(self, port: int, target: int, delay_seconds: float = 0.0) -> None:
        self.port, self._target = port, target
        self._delay_seconds = delay_seconds
        self._server = socket.create_server(("127.0.0.1", port))
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.armed = False
        self.cuts = 0
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def cut_at_next_commit(self) -> None:
        """Cut all connections right after the next request to end a transaction, so that its answer is lost."""
        self.armed = True

    def lead_to(self, target: int) -> None:
        """Forward new connections to another port, and cut those to the former one."""
        self._target = target
        self._cut()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # otherwise the thread still listens, and the port stays taken
        self._accepting.join()
        self._server.close()
        self._cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._connections |= {client, broker}
                threading.Thread(target=self._requests, args=(client, broker), daemon=True).start()
                threading.Thread(target=self._answers, args=(broker, client), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket) -> None:
        """Forward requests: four bytes of length, then two of the API key."""
        with suppress(OSError):
            for request in frames(client):
                self._forward(request, broker)
        self._end(client, broker)

    def _forward(self, request: bytes, broker: socket.socket) -> None:
        broker.sendall(request)
        if self.armed and api_key(request) == END_TXN:
            self.armed, self.cuts = False, self.cuts + 1
            self._cut()

    def _answers(self, broker: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := broker.recv(65_536):
                threading.Event().wait(self._delay_seconds)
                client.sendall(data)
        self._end(client, broker)

    def _cut(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _end(self, *connections: socket.socket) -> None:
        with self._lock:
            self._connections -= set(connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
