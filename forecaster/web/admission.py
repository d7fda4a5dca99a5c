"""The way of a request into the application: its size, its turn, and the headers of its answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forecaster.web.connections import MOST_HEADER_BYTES
from forecaster.web.pace import Pace, thread_seconds
from forecaster.web.problems import busy, problem

PROBES = frozenset({"/livez", "/readyz", "/metrics"})
PROBE_SECONDS = 0.2
"""Longest delay of a probe."""
TURN_SECONDS = 3.0
"""Longest delay of any other request; then it is refused."""


class Admission:
    """Lets requests into an application one after another, as long as all of them keep their share of the processor.

    Probes do not wait for their turn: they are delayed for `PROBE_SECONDS` at most, and are never refused.

    Args:
        app: the application.
        pace: the share of the processor.
        headers: headers of every answer.
    """

    def __init__(self, app: ASGIApp, pace: Pace, headers: Mapping[str, str]) -> None:
        self._app, self._pace, self._headers = app, pace, headers
        self._turn = asyncio.Lock()
        self._charged = math.inf  # what the thread computed before the first request is not charged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        self._charge_loop()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        app = self._app
        if _header_bytes(scope) > MOST_HEADER_BYTES:
            app = problem(431, f"request line and headers are longer than {MOST_HEADER_BYTES:,} bytes")
        elif scope["path"] in PROBES:
            await asyncio.sleep(min(PROBE_SECONDS, self._pace.delay_seconds))
        elif not await self._gets_turn():
            app = busy(f"too many requests: this one had no turn within {TURN_SECONDS:.0f} s")
        try:
            await app(scope, receive, send_with_headers)
        finally:
            self._charge_loop()

    async def _gets_turn(self) -> bool:
        """Wait until the requests before this one have kept their share; return whether that was soon enough."""
        try:
            async with asyncio.timeout(TURN_SECONDS), self._turn:
                while (delay := self._delay()) > 0:
                    await asyncio.sleep(delay)
        except TimeoutError:
            return False
        return True

    def _delay(self) -> float:
        self._charge_loop()
        return self._pace.delay_seconds

    def _charge_loop(self) -> None:
        """Count all that the server's thread has computed since the last request: connections, parsing, answers."""
        now = thread_seconds()
        self._pace.charge(now - self._charged)
        self._charged = now


def _header_bytes(scope: Scope) -> int:
    """Return the size of the request line and the headers."""
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return headers + len(scope.get("raw_path", b"")) + len(scope["query_string"])
