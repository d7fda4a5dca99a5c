"""The OpenAPI document describes what the server answers, also to requests that nobody would write by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from daemons import free_port
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection
from setups import running_service

from forecaster.web.api import build_app
from forecaster.web.server import serving_http
from forecaster.web.service import Service

PATHS = (
    "/livez",
    "/readyz",
    "/metrics",
    "/api/v1/status",
    "/api/v1/partitions",
    "/api/v1/series",
    "/api/v1/series/{series_id}",
    "/api/v1/forecasts/{series_id}",
    "/api/v1/models",
)
IDS = ("pump", "site/1", "line\nbreak")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Return a daemon whose worker has served some hours and answers questions."""
    with running_service(IDS, hours=30) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[Any]:
    """Return the OpenAPI document of a running server."""
    port = free_port()
    with serving_http(service, "127.0.0.1", port):
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/api/v1/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_as_the_document_says(api: Any, path: str, mode: GenerationMode) -> None:
    """No request makes the server fail; wrong parameters are a client's error."""
    operation = api[path]["GET"]

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        answer = case.call(timeout=20)
        is_long = answer.status_code == 431  # a refusal of wrong parameters that the check does not know
        case.validate_response(answer, excluded_checks=[negative_data_rejection] if is_long else None)

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "the path has parameters, and so valid requests"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/status", 200),
        ("/api/v1/partitions", 200),
        ("/api/v1/series", 200),
        ("/api/v1/series?order=busiest&limit=2", 200),
        ("/api/v1/series/site%2F1", 200),
        ("/api/v1/forecasts/pump", 200),
        ("/api/v1/models", 200),
        ("/api/v1/series/nobody", 404),
        ("/api/v1/series?limit=0", 422),
        ("/api/v1/series?limit=many", 422),
        ("/api/v1/series?order=oldest", 422),
        ("/api/v1/series?search=" + "a" * 2_000, 422),
    ],
)
def test_an_answer_fits_its_schema(service: Service, path: str, status: int) -> None:
    """Errors are problem documents with the status and a text."""
    http = TestClient(build_app(service))
    document = http.get("/api/v1/openapi.json").json()
    answer = http.get(path)
    assert answer.status_code == status
    bare = path.partition("?")[0]
    parts = bare.split("/")
    template = "/".join([*parts[:4], "{series_id}"] if len(parts) > 4 else parts)
    described = document["paths"][template]["get"]["responses"][str(status)]["content"]
    content_type = answer.headers["content-type"]
    schema = {**described[content_type]["schema"], "components": document["components"]}
    jsonschema_rs.validate(schema, answer.json())
    if status != 200:
        assert content_type == "application/problem+json"
        assert answer.json()["status"] == status
        assert answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/series/", 404),
        ("POST", "/api/v1/status", 405),
        ("HEAD", "/livez", 405),
    ],
)
def test_an_error_outside_of_the_api_is_a_problem_document(
    service: Service, method: str, path: str, status: int
) -> None:
    answer = TestClient(build_app(service)).request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["allow"] == "GET"


def test_every_path_and_every_error_is_described(service: Service) -> None:
    paths = build_app(service).openapi()["paths"]
    assert {"/livez", "/readyz", "/metrics"} <= set(paths)
    for path, operations in paths.items():
        for status, response in operations["get"]["responses"].items():
            (schema,) = [content["schema"] for content in response["content"].values()]
            assert schema, (path, status)
    for path in paths:
        if path.startswith("/api/"):
            assert {"200", "404", "422", "431", "500", "503"} == set(paths[path]["get"]["responses"]), path
