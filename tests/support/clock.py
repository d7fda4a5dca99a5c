"""A clock that a test sets."""

from __future__ import annotations


class FakeClock:
    """A `forecaster.clock.Clock` that stands still between calls of `advance`.

    Attributes:
        now: the present time, seconds.
    """

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
