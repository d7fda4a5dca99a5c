"""What every test starts from: one torch thread, as the worker has, and logs that nobody has set up."""

from collections.abc import Iterator

import pytest
import structlog
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _logs_of_its_own() -> Iterator[None]:
    """A command that a test runs in this process sets up logs, to a stream that is closed after it."""
    yield
    structlog.reset_defaults()
