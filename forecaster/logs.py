"""Log lines: JSON in a container, readable text on a terminal; always on standard error, and never with a secret."""

from __future__ import annotations

import copy
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog

from forecaster.clock import Clock, monotonic
from forecaster.printable import printable
from forecaster.redaction import HIDDEN, KNOWN_SECRETS, SECRET_MESSAGE, RedactedStream, without_secrets

REPEAT_SECONDS = 60.0
"""A message of another library is repeated after this time at the earliest."""
REMEMBERED_MESSAGES = 1_000
STACKS = frozenset({"exception", "stack"})
"""Keys whose values have several lines."""


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


class SecretFormatter(structlog.stdlib.ProcessorFormatter):
    """Formats the records of other libraries, without the options, messages and bytes in their arguments.

    Bytes that the Kafka client sends hold the login, for example a proof from which a weak password can be guessed.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; one whose arguments cannot be written says so."""
        record = copy.copy(record)  # a record belongs to all handlers
        try:
            if isinstance(record.args, Mapping):
                record.args = _without_secrets(record.args)
            elif record.args:
                record.args = tuple(map(_without_secrets, record.args))
            return super().format(record)
        except Exception as error:  # the standard library would print the arguments
            record.msg, record.args = f"{record.msg} (arguments that cannot be written: {type(error).__name__})", ()
            return super().format(record)


def hide_secrets(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Return an event without the known secrets of this process; the last processor before the rendering."""
    return {KNOWN_SECRETS.hide(name): KNOWN_SECRETS.hide_in(value) for name, value in event.items()}


def escape_controls(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Return an event whose texts cannot command a terminal or forge a line; only stacks keep their lines."""
    return {
        name: printable(value, keep="\n\t" if name in STACKS else "") if isinstance(value, str) else value
        for name, value in event.items()
    }


@contextmanager
def secrets_hidden_in_output() -> Iterator[None]:
    """Hide the known secrets in everything that this process prints while the context is open: tables, tracebacks."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = RedactedStream(sys.stdout), RedactedStream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def configure_logs(level: str, form: Literal["auto", "json", "text"], clock: Clock = monotonic) -> None:
    """Make structlog and the loggers of the standard library write one line for each event.

    The Kafka client writes errors only, and each of them once in a minute; at DEBUG, everything is written.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        form: form of a line; `auto` is `text` on a terminal, otherwise `json`.
        clock: seconds; for the messages of other libraries that repeat themselves.
    """
    stream = getattr(sys.stderr, "stream", sys.stderr)  # hidden in a rendered line, a secret could cost its JSON syntax
    is_text = form == "text" or (form == "auto" and stream.isatty())
    renderer = structlog.dev.ConsoleRenderer() if is_text else structlog.processors.JSONRenderer()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    escapes = [escape_controls] if is_text else []  # JSON escapes them itself
    last: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, hide_secrets, *escapes, renderer]
    structlog.configure(
        processors=[*shared[1:], *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(SecretFormatter(processors=[remove_meta, *last], foreign_pre_chain=shared))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)  # at INFO it writes a line for every job
    logging.getLogger("kafka").setLevel(logging.DEBUG if level == "DEBUG" else logging.ERROR)
    if level != "DEBUG":
        handler.addFilter(RepeatFilter(clock))


def _without_secrets(argument: Any) -> Any:
    """Return an argument of a log line, or what may be written of it."""
    if isinstance(argument, Mapping):
        return {name: _without_secrets(part) for name, part in without_secrets(argument).items()}
    if type(argument) in (list, tuple, set):
        return [_without_secrets(part) for part in argument]
    if isinstance(argument, bytes | bytearray | memoryview):
        return f"({len(argument)} bytes)"
    name = type(argument).__name__
    return f"{name}{HIDDEN}" if SECRET_MESSAGE.search(name) else argument
