"""Logs: JSON in a container, readable on a terminal; always on standard error."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Literal

import structlog

SELDOM_SECONDS, MOST_WORDS = 60.0, 1_000


class Seldom(logging.Filter):
    """Lets the same words through once in a while, whatever their numbers: in an outage the client repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether the record is written."""
        words, now = re.sub(r"\d+", "", record.getMessage()), time.monotonic()
        if now - self._said.get(words, -SELDOM_SECONDS) < SELDOM_SECONDS:
            return False
        if len(self._said) >= MOST_WORDS:
            self._said.clear()
        self._said[words] = now
        return True


def configure_logs(level: str, form: Literal["auto", "json", "text"]) -> None:
    """structlog and the standard library's loggers write one line an event.

    Args:
        level: DEBUG, INFO, WARNING or ERROR; the Kafka client speaks of errors, and seldom; at DEBUG of everything.
        form: `auto` is `text` on a terminal, else `json`.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared[1:], structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)  # it tells of every job
    logging.getLogger("kafka").setLevel(logging.DEBUG if level == "DEBUG" else logging.ERROR)
    if level != "DEBUG":
        handler.addFilter(Seldom())
