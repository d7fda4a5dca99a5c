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

MOST_LISTED = 1_000
POLICY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:",
}
"""The page loads nothing from elsewhere; the charts write their own styles."""
TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
SeriesId = Annotated[str, Path(max_length=1024, description="Id of the series, as its forecasts are keyed.")]


def build_app(service: Service) -> FastAPI:
    """Returns the application; it reads, and changes nothing."""
    app = FastAPI(
        title="forecaster", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )
    _policy(app)
    _health(app, service)
    _api(app, service)
    _page(app)
    return app


def _policy(app: FastAPI) -> None:
    @app.middleware("http")
    async def safe(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        response.headers.update(POLICY)
        return response

    @app.exception_handler(views.NotHere)
    def not_here(_: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 404)

    @app.exception_handler(WorkerBusy)
    def unanswered(_: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 503)


def _health(app: FastAPI, service: Service) -> None:
    exposition = metrics.exposition(service)

    @app.get("/livez")
    def livez() -> Response:
        """The loop turns; waiting for a broker counts."""
        loop = service.liveness
        text = "ok" if loop.is_alive else f"the loop has been silent for {loop.silent_seconds:.0f} s"
        return _text(text, 200 if loop.is_alive else 503)

    @app.get("/readyz")
    def readyz() -> Response:
        """Joined, restored, no partition held."""
        return _text(service.unready or "ok", 503 if service.unready else 200)

    @app.get("/metrics")
    def scrape() -> Response:
        """What Prometheus scrapes."""
        return Response(exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _api(app: FastAPI, service: Service) -> None:
    @app.get("/api/v1/status")
    def status() -> Response:
        """The daemon at a glance."""
        return _json(views.overview(service))

    @app.get("/api/v1/partitions")
    def partitions() -> Response:
        """The partitions of this worker."""
        return _json(views.partitions(service.worker))

    @app.get("/api/v1/series")
    def series(
        search: Annotated[str, Query(max_length=1024)] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
        order: views.SeriesOrder = views.SeriesOrder.NAME,
    ) -> Response:
        """The series of this worker whose id holds a text, by name or the busiest first."""
        return _json(views.series_page(_ask(service, views.series_counts), search, limit, order))

    @app.get("/api/v1/series/{series_id:path}")
    def one_series(series_id: SeriesId) -> Response:
        """All that is carried for a series, as `forecaster explain` shows it."""
        return _json(_ask(service, lambda view: views.explanation(view, series_id, service)))

    @app.get("/api/v1/forecasts/{series_id:path}")
    def forecasts(series_id: SeriesId) -> Response:
        """The newest forecast of a series, and the readings before it."""
        return _json(_ask(service, lambda view: views.forecast(view, series_id)))

    @app.get("/api/v1/models")
    def models() -> Response:
        """The checkpoints, the newest decisions, and what is served."""
        return _json(_ask(service, lambda view: views.models(view, service)))


def _page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return _file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        if name == "plotly.js":
            return Response(_plotly(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})
        return _file(name) if name in TYPES else _json({"error": f"there is no page {name!r}"}, 404)


def _ask(service: Service, question: Callable[[WorkerView], Answer]) -> Answer:
    """Returns the worker's answer."""
    if service.role == "trainer":
        raise views.NotHere("this process is a trainer, and has no series: ask a worker")
    if service.monitor is None:
        raise WorkerBusy("the worker has not started yet")
    return service.monitor.ask(question)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, {"Cache-Control": "no-store"}, media_type="application/json")


def _text(text: str, status: int) -> Response:
    return Response(text + "\n", status, {"Cache-Control": "no-store"}, media_type="text/plain")


def _file(name: str) -> Response:
    return Response(files("forecaster.web").joinpath("page", name).read_bytes(), media_type=TYPES[name])


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script.encode()
