"""The start of every test: one torch thread, as in the worker, and logs that no other test has configured."""

import logging
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
def restored_logs() -> Iterator[None]:
    """Undo what a command in this process does to the logs: it writes them to a stream that ends with the test."""
    loggers = [logging.getLogger(name) for name in ("", "kafka", "apscheduler")]
    levels, handlers = [logger.level for logger in loggers], list(loggers[0].handlers)
    yield
    structlog.reset_defaults()
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    loggers[0].handlers[:] = [handler for handler in loggers[0].handlers if handler in handlers]
