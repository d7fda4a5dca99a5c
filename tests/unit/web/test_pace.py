"""Requests take no more than their share of the processor, and probes pass the others."""

from __future__ import annotations

import asyncio
import time

import pytest
from clock import FakeClock
from starlette.types import Message, Receive, Scope, Send

from forecaster.web import admission
from forecaster.web.admission import Admission
from forecaster.web.connections import MOST_HEADER_BYTES
from forecaster.web.pace import Pace


def test_requests_take_no_more_than_their_share() -> None:
    clock = FakeClock()
    pace, taken = Pace(clock, share=0.1, burst=0.2), 0.0
    begin = clock()
    while clock() - begin < 100:
        if not pace.delay_seconds:
            pace.charge(0.01)
            taken += 0.01
        clock.advance(0.005)
    assert taken == pytest.approx(100 * 0.1 + 0.2, rel=0.02)


def test_after_the_delay_the_next_request_may_come() -> None:
    clock = FakeClock()
    pace = Pace(clock, share=0.1, burst=0.2)
    pace.charge(0.5)
    assert pace.delay_seconds == pytest.approx(3.0)
    clock.advance(pace.delay_seconds)
    assert pace.delay_seconds == pytest.approx(0.0)


def test_a_quiet_time_is_saved_up_to_the_burst_only() -> None:
    clock = FakeClock()
    pace = Pace(clock, share=0.1, burst=0.2)
    clock.advance(1_000)
    pace.charge(0.2)
    assert pace.delay_seconds == 0.0
    pace.charge(0.1)
    assert pace.delay_seconds == pytest.approx(1.0)


def test_the_time_of_a_block_is_charged_also_if_it_fails() -> None:
    pace = Pace(FakeClock(), share=0.1, burst=0.0)

    def compute(seconds: float) -> None:
        begin = time.thread_time()
        with pace.charging():
            while time.thread_time() - begin < seconds:
                sum(range(1_000))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compute(0.02)
    assert pace.delay_seconds >= 0.1


class World:
    """An application behind its admission, which answers at once."""

    def __init__(self) -> None:
        self.pace = Pace(FakeClock(), share=0.1, burst=0.2)  # its time stands still: a debt stays
        self.answered: list[str] = []
        self.admission = Admission(self._app, self.pace, {"X-Of-All": "1"})

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI wants it
        self.answered.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def get(self, path: str, query: bytes = b"") -> tuple[int, dict[bytes, bytes]]:
        """Return status and headers of the answer."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "path": path, "raw_path": path.encode(), "query_string": query, "headers": []}
        await self.admission({**scope, "method": "GET"}, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"])


def test_a_request_without_its_turn_is_refused_and_a_probe_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "TURN_SECONDS", 0.1)
    world = World()

    async def scenario() -> None:
        assert (await world.get("/api/v1/status"))[0] == 200
        world.pace.charge(10.0)
        status, headers = await world.get("/api/v1/status")
        assert (status, headers[b"retry-after"]) == (503, b"1")
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await world.get(path))[0] == 200

    asyncio.run(scenario())
    assert world.answered == ["/api/v1/status", "/livez", "/readyz", "/metrics"]


def test_a_probe_is_not_behind_the_requests_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "TURN_SECONDS", 1.0)
    world = World()

    async def scenario() -> None:
        world.pace.charge(10.0)
        waiting = [asyncio.create_task(world.get(f"/api/v1/series/{number}")) for number in range(100)]
        await asyncio.sleep(0)
        assert (await world.get("/livez"))[0] == 200
        assert not any(task.done() for task in waiting)
        assert {status for status, _ in await asyncio.gather(*waiting)} == {503}

    asyncio.run(scenario())
    assert world.answered == ["/livez"]


def test_every_answer_has_the_headers_also_a_refusal() -> None:
    world = World()

    async def scenario() -> None:
        for query, expected in ((b"", 200), (b"a" * MOST_HEADER_BYTES, 431)):
            status, headers = await world.get("/api/v1/status", query)
            assert status == expected
            assert headers[b"x-of-all"] == b"1"

    asyncio.run(scenario())
