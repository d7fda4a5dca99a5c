"""Log lines: JSON in a container, readable text on a terminal; always on standard error."""

from __future__ import annotations

import logging
import re
import sys
from typing import Literal

import structlog

from forecaster.clock import Clock, monotonic

REPEAT_SECONDS = 60.0
"""A message of another library is repeated after this time at the earliest."""
REMEMBERED_MESSAGES = 1_000


class RepeatFilter(logging.Filter):
    """Drops messages that were written a moment ago: in an outage, the Kafka client repeats itself many times a second.

    Messages that differ in numbers only count as the same.

    Args:
        clock: seconds; decides when a message is written again.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._written_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be written."""
        message, now = re.sub(r"\d+", "", record.getMessage()), self._clock()
        if now - self._written_at.get(message, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        if len(self._written_at) >= REMEMBERED_MESSAGES:
            self._written_at.clear()
        self._written_at[message] = now
        return True


def configure_logs(level: str, form: Literal["auto", "json", "text"], clock: Clock = monotonic) -> None:
    """Make structlog and the loggers of the standard library write one line for each event.

    The Kafka client writes errors only, and each of them once in a minute; at DEBUG, everything is written.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        form: form of a line; `auto` is `text` on a terminal, otherwise `json`.
        clock: seconds; for the messages of other libraries that repeat themselves.
    """
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if is_text else structlog.processors.JSONRenderer()
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
    logging.getLogger("apscheduler").setLevel(logging.WARNING)  # at INFO it writes a line for every job
    logging.getLogger("kafka").setLevel(logging.DEBUG if level == "DEBUG" else logging.ERROR)
    if level != "DEBUG":
        handler.addFilter(RepeatFilter(clock))
