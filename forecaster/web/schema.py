"""The OpenAPI document: FastAPI describes the requests, and this module their answers, from the types of the views."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from forecaster.serving.inspect.explanation import Explanation
from forecaster.serving.inspect.latest_forecast import LatestForecast
from forecaster.web.problems import CONTENT_TYPE, Problem
from forecaster.web.views import ModelsView, Overview, PartitionView, SeriesPage

ANSWERS: dict[str, Any] = {
    "/api/v1/status": Overview,
    "/api/v1/partitions": list[PartitionView],
    "/api/v1/series": SeriesPage,
    "/api/v1/series/{series_id}": Explanation,
    "/api/v1/forecasts/{series_id}": LatestForecast,
    "/api/v1/models": ModelsView,
}
"""Type of the answer of each path, as JSON."""
TEXTS = {
    "/livez": {"200": "The loop makes progress.", "503": "It does not; the text says for how long."},
    "/readyz": {"200": "The process does its work.", "503": "It does not; the text says why."},
    "/metrics": {"200": "All metrics."},
}
"""Answers that are text, by path and status."""
ERRORS = {
    "404": "This process does not have it.",
    "422": "A parameter is wrong.",
    "431": "The request line and the headers are too long.",
    "500": "A bug; the log has the traceback.",
    "503": "The worker is busy, or there are too many requests: ask again later.",
}
"""Errors of all paths below /api/v1."""


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the application, with every answer and every error."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    types = [*ANSWERS.values(), Problem]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    *answers, problem = schemas
    errors = {status: _response(text, CONTENT_TYPE, problem) for status, text in ERRORS.items()}
    for path, schema in zip(ANSWERS, answers, strict=True):
        operation = document["paths"][path]["get"]
        operation["responses"] = {"200": _response("The answer.", "application/json", schema), **errors}
    for path, texts in TEXTS.items():
        operation = document["paths"][path]["get"]
        text = {"type": "string"}
        operation["responses"] = {status: _response(words, "text/plain", text) for status, words in texts.items()}
    document["components"] = {"schemas": components}
    return document


def _response(description: str, content_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": schema}}}
