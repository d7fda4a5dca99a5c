"""Exponential backoff as a value: growing pauses after failures in a row."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MOST_DOUBLINGS = 30
"""Further failures no longer grow the exponent, which would overflow after a thousand of them."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A pause after a failure, twice as long after each further one; after a success, start with a new value.

    Attributes:
        first_seconds: pause after the first failure.
        longest_seconds: longest pause.
        failures: number of failures since the last success.
        until: end of the present pause, on the clock that gave `now`.
    """

    first_seconds: float
    longest_seconds: float
    failures: int = 0
    until: float = -math.inf

    @property
    def pause_seconds(self) -> float:
        """Length of the present pause; 0 before the first failure."""
        if self.failures == 0:
            return 0.0
        return min(self.first_seconds * 2.0 ** min(self.failures - 1, MOST_DOUBLINGS), self.longest_seconds)

    def after_failure(self, now: float) -> Backoff:
        """Return the backoff after one more failure; its pause begins at `now`."""
        failed = replace(self, failures=self.failures + 1)
        return replace(failed, until=now + failed.pause_seconds)

    def lasts(self, now: float) -> bool:
        """Return whether the pause is not over yet."""
        return now < self.until
