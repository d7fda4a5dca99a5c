"""The HTTP interface: health, metrics, the read-only API under /api/v1 and the live page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from forecaster import __version__
from forecaster.serving.inspect.monitor import Answer, WorkerBusy, WorkerView
from forecaster.web import metrics, views
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
SeriesId = Annotated[str, Path(max_length=1024, description="Id of the series: the key of its forecasts.")]


def build_app(service: Service) -> FastAPI:
    """Return the HTTP application; all its requests are read-only."""
    app = FastAPI(
        title="forecaster", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )
    _add_headers_and_errors(app)
    _add_health(app, service)
    _add_api(app, service)
    _add_page(app)
    return app


def _add_headers_and_errors(app: FastAPI) -> None:
    @app.middleware("http")
    async def add_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(SECURITY_HEADERS)
        return response

    @app.exception_handler(views.NotFoundHere)
    def not_found(_: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 404)

    @app.exception_handler(WorkerBusy)
    def worker_busy(_: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 503)


def _add_health(app: FastAPI, service: Service) -> None:
    encode_metrics = metrics.metrics_encoder(service)

    @app.get("/livez")
    def livez() -> Response:
        """Answer 200 while the loop makes progress; waiting for a broker counts as progress."""
        liveness = service.liveness
        text = "ok" if liveness.is_alive else f"the loop has made no progress for {liveness.silent_seconds:.0f} s"
        return _text(text, 200 if liveness.is_alive else 503)

    @app.get("/readyz")
    def readyz() -> Response:
        """Answer 200 if the process does its work; otherwise 503 with the reason."""
        return _text(service.unready or "ok", 503 if service.unready else 200)

    @app.get("/metrics")
    def scrape() -> Response:
        """Return all metrics in the text format of Prometheus."""
        return Response(encode_metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _add_api(app: FastAPI, service: Service) -> None:
    @app.get("/api/v1/status")
    def status() -> Response:
        """Return an overview of the process."""
        return _json(views.overview(service))

    @app.get("/api/v1/partitions")
    def partitions() -> Response:
        """Return the partitions of this worker."""
        return _json(views.partitions(service.worker))

    @app.get("/api/v1/series")
    def series(
        search: Annotated[str, Query(max_length=1024)] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
        order: views.SeriesOrder = views.SeriesOrder.NAME,
    ) -> Response:
        """Return the series of this worker whose id contains a text, by name or the busiest first."""
        return _json(views.series_page(_ask(service, views.series_counts), search, limit, order))

    @app.get("/api/v1/series/{series_id:path}")
    def explain(series_id: SeriesId) -> Response:
        """Return everything that the worker holds of a series, as `forecaster explain` prints it."""
        return _json(_ask(service, lambda view: views.explanation(view, series_id, service)))

    @app.get("/api/v1/forecasts/{series_id:path}")
    def forecasts(series_id: SeriesId) -> Response:
        """Return the newest forecast of a series, and the readings before it."""
        return _json(_ask(service, lambda view: views.forecast(view, series_id)))

    @app.get("/api/v1/models")
    def models() -> Response:
        """Return the checkpoints, the newest decisions, and the checkpoint that serves."""
        return _json(_ask(service, lambda view: views.models(view, service)))


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return _file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        if name == "plotly.js":
            return Response(_plotly(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})
        return _file(name) if name in PAGE_TYPES else _json({"error": f"there is no page {name!r}"}, 404)


def _ask(service: Service, question: Callable[[WorkerView], Answer]) -> Answer:
    """Return the worker's answer to a question.

    Raises:
        NotFoundHere: this process has no worker.
        WorkerBusy: the worker has not started yet, or did not answer in time.
    """
    if service.role == "trainer":
        raise views.NotFoundHere("this process is a trainer and has no series: ask a worker")
    if service.monitor is None:
        raise WorkerBusy("the worker has not started yet")
    return service.monitor.ask(question)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, {"Cache-Control": "no-store"}, media_type="application/json")


def _text(text: str, status: int) -> Response:
    return Response(text + "\n", status, {"Cache-Control": "no-store"}, media_type="text/plain")


def _file(name: str) -> Response:
    return Response(files("forecaster.web").joinpath("page", name).read_bytes(), media_type=PAGE_TYPES[name])


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script.encode()
