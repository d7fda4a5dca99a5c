"""Requests of these tests have time on a slow machine; the tests of time-outs set their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forecaster.serving.inspect import monitor


@pytest.fixture(scope="session", autouse=True)
def _patient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "ANSWER_SECONDS", 30.0)
        yield
