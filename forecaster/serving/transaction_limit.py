"""The size of a transaction: what the broker takes within the time that a transaction may last.

A transaction exceeds its time if a quota of the broker or a slow link lets its bytes through too slowly. The next one
has half the bytes, down to a single record, and larger ones are tried again when transactions are quick. The forecasts
do not depend on the size.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from forecaster.backoff import Backoff

LONG_SECONDS = 9.0
"""A transaction that takes longer would fail with twice the bytes: the broker aborts it after 15 s."""
SHORT_SECONDS = 4.5
"""A transaction that takes less time may have twice the bytes."""
UNLIMITED = 16_777_216
"""More bytes than any transaction has."""
NO_FAILURE = Backoff(10.0, 600.0)
STATE_SHARE = 0.25
"""Share of the bytes that blocks of state may take; the results of readings have the rest, even if blocks must wait."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A transaction that was tried.

    Attributes:
        size: bytes of its records.
        records: number of input records that it is the result of; 0 = it has state alone.
        seconds: time that it took.
        in_time: whether it was committed, or failed for another reason than time.
    """

    size: int
    records: int
    seconds: float
    in_time: bool


@dataclass(frozen=True, slots=True)
class TransactionLimit:
    """Largest size of the next transaction.

    Attributes:
        size: bytes of its records.
        record_size: bytes that one input record has needed lately; 0 = not known.
        failed: bytes of the last transaction that exceeded its time; 0 = none has.
        is_falling: whether the last transaction exceeded its time.
        growth: pause before a size that has failed is tried again; it grows with each such try that fails.
    """

    size: int = UNLIMITED
    record_size: float = 0.0
    failed: int = 0
    is_falling: bool = False
    growth: Backoff = NO_FAILURE

    @property
    def is_limited(self) -> bool:
        """Whether the size limits transactions."""
        return self.size < UNLIMITED

    @property
    def records(self) -> int:
        """Number of input records that a batch may have."""
        if not self.is_limited or not self.record_size:
            return sys.maxsize
        return max(1, int(self.size * (1.0 - STATE_SHARE) / self.record_size))

    @property
    def state_bytes(self) -> int:
        """Bytes that blocks of state may take."""
        return int(self.size * STATE_SHARE) if self.is_limited else sys.maxsize

    def after(self, attempt: Attempt, now: float) -> TransactionLimit:
        """Return the limit that follows a transaction.

        Args:
            attempt: the transaction.
            now: time of a clock, seconds.
        """
        record_size = attempt.size / attempt.records if attempt.records else self.record_size
        if not attempt.in_time:
            growth = self.growth.after_failure(now)
            if self.is_falling:  # still the same try
                growth = replace(self.growth, until=now + self.growth.pause_seconds)
            return TransactionLimit(self._half(attempt), record_size, attempt.size, is_falling=True, growth=growth)
        size = self.size
        if attempt.seconds > LONG_SECONDS:
            size = self._half(attempt)
        elif self.is_limited and attempt.seconds < SHORT_SECONDS and self._may_grow(attempt, now):
            size = 2 * max(self.size, attempt.size)
        if size >= UNLIMITED:
            return TransactionLimit()
        return replace(self, size=size, record_size=record_size, is_falling=False)

    def _half(self, attempt: Attempt) -> int:
        return max(1, min(self.size, attempt.size) // 2)

    def _may_grow(self, attempt: Attempt, now: float) -> bool:
        """Return whether twice the bytes may be tried: none as large has failed, or its pause is over."""
        is_near = 2 * attempt.size >= self.size
        return not self.growth.lasts(now) or (is_near and 2 * max(self.size, attempt.size) < self.failed)
