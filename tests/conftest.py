"""What every test starts from: one torch thread, as the worker has, and logs that no other test has configured."""

from collections.abc import Iterator

import pytest
import structlog
import torch

torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return 0, no further processes, for tests by name and for suites that share a broker; else let xdist decide."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return None if whole and "not kafka" in config.option.markexpr else 0


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that a test runs configures the logs of the whole process, to a stream that ends with the test."""
    yield
    structlog.reset_defaults()
