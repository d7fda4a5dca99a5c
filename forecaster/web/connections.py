"""Connections of the HTTP server, with limits that a client cannot pass: on number, time, size and requests."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from forecaster.clock import Clock, monotonic
from forecaster.web.pace import Pace

REQUEST_SECONDS = 5.0
"""Time to send a request, from its first byte on; and time that a connection without a request stays open."""
ANSWER_SECONDS = 60.0
"""Time from a request to the last byte of its answer that the client has read."""
LINGER_SECONDS = 0.5
"""Time to read an answer before a connection with an unread body is closed."""
SWEEP_SECONDS = 0.5
MOST_REQUESTS = 200
"""Requests on one connection; with the last answer it is closed. It bounds the requests that are sent ahead."""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
MOST_HEADER_BYTES = 16_384
"""Size of the request line and the headers together."""


@dataclass(slots=True)
class Connections:
    """All connections of one server. When there are too many, the one that has waited longest for its client is closed.

    So a new connection is always accepted: clients that keep connections open cannot keep others out.

    Attributes:
        most: number of open connections.
        pace: how long the answer to a request that is not HTTP is delayed.
        clock: seconds.
        open: the open connections.
    """

    most: int
    pace: Pace
    clock: Clock = monotonic
    open: set[LimitedConnection] = field(default_factory=set)
    _sweeping: bool = False

    def protocol(self, **options: Any) -> LimitedConnection:
        """Return the protocol of a new connection; uvicorn calls this in place of a class."""
        return LimitedConnection(self, **options)

    def add(self, connection: LimitedConnection) -> None:
        """Add a new connection, and close another one if there are too many."""
        while len(self.open) >= self.most:
            longest = min(self.open, key=lambda other: (not other.waits_for_client, other.since))
            self.open.remove(longest)
            longest.drop()
        self.open.add(connection)
        if not self._sweeping:
            self._sweeping = True
            connection.loop.call_later(SWEEP_SECONDS, self._sweep, connection.loop.call_later)

    def _sweep(self, later: Callable[..., object]) -> None:
        """Close the connections whose time is over, and look again while there are others."""
        for connection in [connection for connection in self.open if connection.is_overdue]:
            connection.drop()
        self._sweeping = bool(self.open)
        if self._sweeping:
            later(SWEEP_SECONDS, self._sweep, later)


class LimitedConnection(H11Protocol):
    """Connection of one client; uvicorn alone would wait for ever for half a request and for a client that never reads.

    Args:
        connections: the connections of the server.
        options: what uvicorn gives every protocol.

    Attributes:
        since: when the connection began to wait for its client, or to answer.
    """

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all, self.since = connections, connections.clock()
        self._requests, self._has_begun = 0, False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection."""
        super().connection_made(transport)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._all.open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the time of a request at its first byte; more bytes do not extend it."""
        if not self._is_answering and not self._has_begun:
            self._has_begun, self.since = True, self._all.clock()
        super().data_received(data)

    def handle_events(self) -> None:
        """Start the time of an answer when its request has arrived."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.since, self._has_begun = self._all.clock(), False
            self._requests += 1
            if self._requests >= MOST_REQUESTS:
                self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]

    def on_response_complete(self) -> None:
        """Wait for the next request, unless the client still sends a body that nobody reads."""
        self._has_begun = False
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.flow.pause_reading()
            self.loop.call_later(LINGER_SECONDS, self.drop)
            return
        if not self.transport.get_write_buffer_size():
            self.since = self._all.clock()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """Continue an answer; if all of it is sent, wait for the next request from now on."""
        super().resume_writing()
        if not self._is_answering:
            self.since = self._all.clock()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no request, after the delay that all requests have now."""
        if self._is_answering:
            self.drop()
        else:
            self.flow.pause_reading()
            delay = min(self._all.pace.delay_seconds, REQUEST_SECONDS)
            self.loop.call_later(delay, self._refuse, msg)

    def timeout_keep_alive_handler(self) -> None:
        """Leave the end of a connection without requests to the sweep: a close would wait for a client to read."""

    @property
    def waits_for_client(self) -> bool:
        """Whether the client is to send or to read something before anything can happen."""
        return not self._is_answering or self.flow.write_paused

    @property
    def is_overdue(self) -> bool:
        """Whether the time for the request or for the answer is over."""
        is_sending = self._is_answering or self.transport.get_write_buffer_size() > 0
        return self._all.clock() - self.since > (ANSWER_SECONDS if is_sending else REQUEST_SECONDS)

    def drop(self) -> None:
        """Close the connection at once; what the client has not read of an answer is discarded, also by the kernel."""
        if self.transport.get_write_buffer_size():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, message: str) -> None:
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(message)
        else:
            self.drop()
