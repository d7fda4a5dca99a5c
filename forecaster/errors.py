"""The errors that decide how the process continues or ends.

    ForecasterError
    ├── BadRecord                 the record becomes a dead letter; the other records are processed
    ├── TransientBrokerError      the request is repeated, after a pause
    └── FatalError                the process ends with the documented exit code
        ├── UsageError            2: wrong usage, file or settings
        ├── BrokerUnavailable     3: unreachable or refused past the deadline
        ├── TopicError            4: a topic is missing or does not fit
        │   └── InputMissing      4: the input does not exist; a running worker waits for it up to the deadline
        ├── CheckpointError       5: a checkpoint cannot be used
        ├── StateError            5: stored state cannot be used, or input that it needs is gone
        ├── TooManyBadRecords     6: bad records reached a limit, and ON_LIMIT is `stop`
        ├── NoProgress            7: the watchdog saw no progress for too long
        └── Fenced                8: another process has the same identity

Any other exception is a bug and ends the process with exit code 1: the orchestrator restarts it.
A message says what is wrong, where (topic, partition, offset, variable or file), and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class ForecasterError(Exception):
    """Root of the tree; raised itself where no subclass fits."""

    exit_code: ClassVar[int] = 1


class BadRecord(ForecasterError):
    """A record of the input cannot be decoded.

    Args:
        reason: a value of `records.Reason`, for counters and the header of the dead letter.
        detail: explanation for a person: what is wrong, and what is expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class TransientBrokerError(ForecasterError):
    """The broker failed a request, or did not answer in time; the same request can succeed later."""


class FatalError(ForecasterError):
    """The process must end, with `exit_code`."""


class UsageError(FatalError):
    """Wrong usage, file or settings."""

    exit_code = 2


class BrokerUnavailable(FatalError):
    """The broker was unreachable, or refused this client, past the deadline."""

    exit_code = 3


class TopicError(FatalError):
    """A topic is missing, or has a wrong partition count or setting."""

    exit_code = 4


class InputMissing(TopicError):
    """The input topic does not exist."""


class CheckpointError(FatalError):
    """A checkpoint cannot be used."""

    exit_code = 5


class StateError(FatalError):
    """Stored state cannot be used, or input that it needs is gone."""

    exit_code = 5


class TooManyBadRecords(FatalError):
    """Bad records reached a limit of a partition, and FORECASTER_DEAD_LETTERS__ON_LIMIT is `stop`."""

    exit_code = 6


class NoProgress(FatalError):
    """The loop made no progress for too long."""

    exit_code = 7


class Fenced(FatalError):
    """Another process runs with the same identity."""

    exit_code = 8
