"""Errors of the HTTP interface, as JSON problem documents (RFC 9457), and their description for OpenAPI."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from forecaster.serving.inspect.monitor import WorkerBusy
from forecaster.web import views

CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True):
    """Reason why a request has no answer.

    Attributes:
        title: name of the status code.
        status: status code.
        error: what is wrong, and what to do.
    """

    title: str
    status: int
    error: str


def problem(status: int, error: str, headers: dict[str, str] | None = None) -> Response:
    """Return the response for an error."""
    body = msgspec.json.encode(Problem(HTTPStatus(status).phrase, status, error))
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, media_type=CONTENT_TYPE)


def busy(error: str) -> Response:
    """Return the response to a request that can succeed a moment later."""
    return problem(503, error, {"Retry-After": "1"})


def add_error_handlers(app: FastAPI) -> None:
    """Make the application answer every error with a problem document."""

    @app.exception_handler(views.NotFoundHere)
    async def not_found(_: Request, error: Exception) -> Response:
        return problem(404, str(error))

    @app.exception_handler(WorkerBusy)
    async def worker_busy(_: Request, error: Exception) -> Response:
        return busy(str(error))

    @app.exception_handler(RequestValidationError)
    async def wrong_parameters(_: Request, error: RequestValidationError) -> Response:
        return problem(422, "; ".join(_sentence(found) for found in error.errors()))

    @app.exception_handler(HTTPException)
    async def wrong_request(request: Request, error: HTTPException) -> Response:
        advice = {404: f"there is nothing at {request.url.path!r}", 405: "every request is a GET"}
        return problem(error.status_code, advice.get(error.status_code, error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return problem(500, f"{type(error).__name__}: this is a bug; the log has the traceback")


def _sentence(found: dict[str, Any]) -> str:
    """Return what is wrong with one parameter."""
    return f"{' '.join(map(str, found['loc']))}: {found['msg']}"
