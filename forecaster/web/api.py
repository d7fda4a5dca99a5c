"""The HTTP interface: health, metrics, the read-only API under /api/v1 and the live page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import FastAPI, Path, Query, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Receive, Scope, Send

from forecaster import __version__
from forecaster.clock import Clock, monotonic
from forecaster.serving.inspect.monitor import WorkerView
from forecaster.web import schema, views
from forecaster.web.admission import Admission
from forecaster.web.metrics import metrics_encoder
from forecaster.web.pace import Pace
from forecaster.web.problems import add_error_handlers, problem
from forecaster.web.questions import Cached, Questions
from forecaster.web.service import Service

MAX_LISTED = 1_000
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:",
}
"""Headers of every answer. The page loads nothing from elsewhere. The charts write inline styles."""
PAGE_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
CHUNK_BYTES = 65_536
"""A large file is sent in pieces, so that a client that does not read it costs no memory."""
SeriesId = Annotated[
    str, Path(min_length=1, max_length=2048, description="Id of the series, percent-encoded: the key of its forecasts.")
]
Value = TypeVar("Value")


class SeriesIdConvertor(Convertor[str]):
    """Takes the rest of a path as a series id, whatever its characters: also slashes and line breaks."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        """Return the id."""
        return value

    def to_string(self, value: str) -> str:
        """Return the id."""
        return value


register_url_convertor("series_id", SeriesIdConvertor())


def build_app(service: Service, pace: Pace | None = None, clock: Clock = monotonic) -> FastAPI:
    """Return the HTTP application; all its requests are read-only.

    Args:
        service: the daemon that is shown.
        pace: the share of the processor that requests may take.
        clock: for the age of answers that are used again.
    """
    app = _bare_app(pace := pace or Pace(clock))
    encoded = Cached(metrics_encoder(service), clock)
    _add_health(app, service, encoded)
    work = Work(pace)
    _add_api(app, service, work, Questions(service, pace, clock))
    _add_page(app, work)
    app.openapi = cache(lambda: schema.openapi_document(app))  # type: ignore[method-assign]
    return app


def build_probes(service: Service, pace: Pace, clock: Clock = monotonic) -> FastAPI:
    """Return an application with nothing but health and metrics, for a port of its own."""
    app = _bare_app(pace, openapi_url=None)
    _add_health(app, service, Cached(metrics_encoder(service), clock))
    return app


class Work:
    """Computes in one thread what would keep the thread of the server from answering probes.

    Args:
        pace: counts the time.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace, self._threads = pace, ThreadPoolExecutor(1, "http work")

    async def do(self, compute: Callable[[], Value]) -> Value:
        """Return what the function returns."""

        def counted() -> Value:
            with self._pace.charging():
                return compute()

        return await asyncio.get_running_loop().run_in_executor(self._threads, counted)


class LargeFile(Response):
    """File that is sent in pieces; the next one when the client has read enough of those before."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI wants it
        """Send the file."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for begin in range(0, len(self.body), CHUNK_BYTES):
            piece = self.body[begin : begin + CHUNK_BYTES]
            more = begin + CHUNK_BYTES < len(self.body)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


def _bare_app(pace: Pace, openapi_url: str | None = "/api/v1/openapi.json") -> FastAPI:
    app = FastAPI(
        title="forecaster",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=openapi_url,
        redirect_slashes=False,  # its redirects would go to whatever Host the client names
    )
    app.add_middleware(Admission, pace=pace, headers=SECURITY_HEADERS)
    add_error_handlers(app)
    return app


def _add_health(app: FastAPI, service: Service, encoded: Cached[bytes]) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        """Answer 200 while the loop makes progress; waiting for a broker counts as progress."""
        liveness = service.liveness
        text = "ok" if liveness.is_alive else f"the loop has made no progress for {liveness.silent_seconds:.0f} s"
        return _text(text, 200 if liveness.is_alive else 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        """Answer 200 if the process does its work; otherwise 503 with the reason."""
        unready = service.unready
        return _text(unready or "ok", 503 if unready else 200)

    @app.get("/metrics")
    async def scrape() -> Response:
        """Return all metrics in the text format of Prometheus; they are computed once a second at most."""
        return Response(encoded.get(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _add_api(app: FastAPI, service: Service, work: Work, questions: Questions) -> None:
    @app.get("/api/v1/status")
    async def status() -> Response:
        """Return an overview of the process."""
        return _json(views.overview(service))

    @app.get("/api/v1/partitions")
    async def partitions() -> Response:
        """Return the partitions of this worker."""
        return _json(views.partitions(service.worker))

    @app.get("/api/v1/series")
    async def series(
        search: Annotated[str, Query(max_length=1024)] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
        order: views.SeriesOrder = views.SeriesOrder.NAME,
    ) -> Response:
        """Return the series of this worker whose id contains a text, by name or the busiest first."""
        counts = await questions.ask_shared(views.series_counts)
        return _json(await work.do(lambda: views.series_page(counts, search, limit, order)))

    @app.get("/api/v1/series/{series_id:series_id}")
    async def explain(series_id: SeriesId) -> Response:
        """Return everything that the worker holds of a series, as `forecaster explain` prints it."""
        return _json(await questions.ask(lambda view: views.explanation(view, series_id, service)))

    @app.get("/api/v1/forecasts/{series_id:series_id}")
    async def forecasts(series_id: SeriesId) -> Response:
        """Return the newest forecast of a series, and the readings before it."""
        return _json(await questions.ask(lambda view: views.forecast(view, series_id)))

    def list_models(view: WorkerView) -> views.ModelsView:
        return views.models(view, service)

    @app.get("/api/v1/models")
    async def models() -> Response:
        """Return the checkpoints, the newest decisions, and the checkpoint that serves."""
        return _json(await questions.ask_shared(list_models))


def _add_page(app: FastAPI, work: Work) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name == "plotly.js":
            script = await work.do(_plotly)
            return LargeFile(script, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})
        return _file(name) if name in PAGE_TYPES else problem(404, f"there is no page {name!r}")


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), 200, {"Cache-Control": "no-store"}, media_type="application/json")


def _text(text: str, status: int) -> Response:
    return Response(text + "\n", status, {"Cache-Control": "no-store"}, media_type="text/plain")


def _file(name: str) -> Response:
    return Response(_content(name), media_type=PAGE_TYPES[name])


@cache
def _content(name: str) -> bytes:
    return files("forecaster.web").joinpath("page", name).read_bytes()


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script.encode()
