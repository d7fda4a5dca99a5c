"""Every error the daemon raises on purpose, sorted by what it does about it.

    ForecasterError
    ├── BadRecord                 to the dead letters with its reason; its neighbours go on
    ├── TransientBrokerError      back off and retry the batch
    └── FatalError                end with the documented exit code
        ├── UsageError            2: wrong usage, file or settings
        ├── BrokerUnavailable     3: unreachable or refused past the deadline
        ├── TopicError            4: a topic is missing or does not fit
        ├── CheckpointError       5: a checkpoint cannot be used
        ├── StateError            5: stored state cannot be used, or input that it needs is gone
        ├── TooManyBadRecords     6: dead letters over their limits with ON_LIMIT=stop
        ├── NoProgress            7: the watchdog saw no progress for too long
        └── Fenced                8: another process has the same identity

Anything else is a bug and ends the process with exit code 1: the orchestrator restarts it.
Messages say what was wrong, where (topic, partition, offset, variable or file), and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class ForecasterError(Exception):
    """Root of the tree; raised itself where no more is known than what went wrong."""

    exit_code: ClassVar[int] = 1


class BadRecord(ForecasterError):
    """A record that cannot become readings.

    Args:
        reason: one of the fixed words of `records.Reason`, for counters and the dead letter's header.
        detail: what exactly was wrong, for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class TransientBrokerError(ForecasterError):
    """The broker did not do what was asked this time; asking again can help."""


class FatalError(ForecasterError):
    """The process ends with `exit_code`."""


class UsageError(FatalError):
    """Wrong usage, file or settings."""

    exit_code = 2


class BrokerUnavailable(FatalError):
    """The broker was unreachable, or refused us, past the deadline."""

    exit_code = 3


class TopicError(FatalError):
    """A topic is missing or does not fit."""

    exit_code = 4


class CheckpointError(FatalError):
    """A checkpoint cannot be used."""

    exit_code = 5


class StateError(FatalError):
    """Stored state cannot be used, or input that it needs is gone."""

    exit_code = 5


class TooManyBadRecords(FatalError):
    """Dead letters passed their limits and ON_LIMIT is `stop`."""

    exit_code = 6


class NoProgress(FatalError):
    """The loop made no progress for too long."""

    exit_code = 7


class Fenced(FatalError):
    """Another process runs with the same identity."""

    exit_code = 8
