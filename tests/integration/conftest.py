"""Brokers: the embedded one in every run; a real Apache Kafka where there is one, and always in CI."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from containers import running_kafka
from daemons import SHARED_BROKER

from forecaster.broker.embedded import EmbeddedBroker

PORT = 19392


@pytest.fixture(scope="session")
def embedded() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        yield broker.address


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Kafka: one that is named, one on this machine, or one in a container."""
    if named := os.environ.get("FORECASTER_TEST_BOOTSTRAP"):
        yield named
    elif SHARED_BROKER.is_file():
        folder = tmp_path_factory.mktemp("kafka")
        subprocess.run([SHARED_BROKER, "start", folder, str(PORT)], check=True, timeout=120)
        yield f"127.0.0.1:{PORT}"
        subprocess.run([SHARED_BROKER, "stop", folder], check=False, timeout=60)
    else:
        yield from _container()


def _container() -> Iterator[str]:
    with ExitStack() as stack:
        try:
            address, _ = stack.enter_context(running_kafka())
        except Exception as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no real Kafka, no Docker: {error}")
        yield address


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.fixture
def topic() -> str:
    """A fresh name for every test."""
    return f"readings-{uuid.uuid4().hex[:8]}"
