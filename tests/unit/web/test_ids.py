"""Every series can be asked for, whatever characters its id has, and no id changes an answer's headers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from importlib.resources import files
from urllib.parse import quote

import pytest
from daemons import free_port
from setups import running_service

from forecaster.web.server import serving_http

IDS = [
    "line\nbreak",
    "ends with a line break\n",
    "ends with a line break",
    "carriage\r\nSet-Cookie: a=b",
    "tab\tand escape\x1b[2J and delete\x7f and C1 \x9b",
    "/begins/and//ends/with/slashes/",
    "a/../b/./c",
    "percent %2F %0A 100 %",
    "quotes \" ' ` <script>alert(1)</script>",
    "question?limit=1&search=x#fragment;y",
    "  spaces  ",
    "Außen/温度/🌡/\u202eesrever",
    "long-" * 100,
    "ß" * 512,
    "+plus+",
    "...",
]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Serve a worker that has a series of each id; return the port."""
    number = free_port()
    with running_service(IDS, hours=3) as service, serving_http(service, "127.0.0.1", number):
        yield number


def get(port: int, path: str) -> tuple[int, dict[str, str], dict[str, object]]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request("GET", path)
        answer = link.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        link.close()


@pytest.mark.parametrize("path", ["series", "forecasts"])
@pytest.mark.parametrize("name", IDS, ids=lambda name: ascii(name)[:30])
def test_a_series_is_found_by_its_id(port: int, path: str, name: str) -> None:
    status, _, answer = get(port, f"/api/v1/{path}/{quote(name, safe='')}")
    assert status == 200
    assert answer["series_id"] == name


@pytest.mark.parametrize("name", IDS, ids=lambda name: ascii(name)[:30])
def test_a_series_is_found_by_a_search(port: int, name: str) -> None:
    _, _, answer = get(port, f"/api/v1/series?search={quote(name, safe='')}")
    assert name in answer["series"]  # type: ignore[operator]


@pytest.mark.parametrize("name", IDS, ids=lambda name: ascii(name)[:30])
def test_a_wrong_id_changes_no_header_and_its_error_is_printable(port: int, name: str) -> None:
    status, headers, answer = get(port, f"/api/v1/series/{quote(name + '-x', safe='')}")
    assert status == 404
    assert set(headers) == set(get(port, "/api/v1/series/nobody")[1])
    assert str(answer["error"]).isprintable()


def test_the_page_gives_every_option_its_id_as_a_value() -> None:
    """Without one, a browser takes the text with its spaces collapsed."""
    script = files("forecaster.web").joinpath("page", "page.js").read_text()
    assert "new Option(shown(name), name)" in script
    assert "new Option(name)" not in script
