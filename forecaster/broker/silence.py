"""Whether the brokers that a client knows still answer; the client itself reports no outage."""

from __future__ import annotations

from typing import Protocol

from forecaster.backoff import Backoff
from forecaster.clock import Clock

PROBE_SECONDS = 10.0
"""Time without records after which a broker is asked for something, to tell an idle topic from an outage."""
ANSWER_SECONDS = 5.0
"""Time without an answer after which the brokers count as silent."""
RENEW_SECONDS = 15.0
"""Time without an answer after which the client is replaced: the brokers may have other addresses now (KIP-899)."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 10.0
"""Pauses between attempts to replace the client."""
REPEAT_SECONDS = 2.0
"""Pause before an unanswered question is asked again."""
LONGEST_STEP_SECONDS = 15.0


class AttendedClock:
    """A clock that stops while nobody reads it: between two reads it advances by `LONGEST_STEP_SECONDS` at most.

    A process that was stopped, or busy with something else, has not waited for an answer meanwhile.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_at, self._now = clock(), 0.0

    def __call__(self) -> float:
        """Return the seconds for which the clock has run."""
        now = self._clock()
        self._now += min(now - self._looked_at, LONGEST_STEP_SECONDS)
        self._looked_at = now
        return self._now


class Asked(Protocol):
    """A `tolerant_connections.Question`."""

    @property
    def is_answered(self) -> bool:
        """Whether a broker has answered."""

    @property
    def is_lost(self) -> bool:
        """Whether the question has failed without an answer."""


class Asking(Protocol):
    """A client that asks for metadata: a `TolerantConsumer`."""

    def ask(self) -> Asked:
        """Ask any known broker for something; return at once."""

    def hurry(self) -> None:
        """Cut the pauses before the next attempts to connect."""


class SilenceWatch:
    """Knows how long the brokers of a client have been silent, and when the client must be replaced.

    Nothing here waits for an answer: each look asks, or sees whether the last question was answered.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._attended = clock, AttendedClock(clock)
        self._question: Asked | None = None
        self._has_failed = False
        self._asked_at = self._repeated_at = 0.0
        self.record_answer()

    @property
    def has_answer(self) -> bool:
        """Whether the brokers answer, as far as is known."""
        return self._question is None or self._attended() - self._asked_at < ANSWER_SECONDS

    @property
    def silent_seconds(self) -> float:
        """Time since the last answer."""
        return self._clock() - self._answered_at

    @property
    def is_renewal_due(self) -> bool:
        """Whether the client must be replaced now: the silence is long, and no pause after a failed attempt runs."""
        now = self._attended()
        is_long = self._has_failed or now - self._asked_at >= RENEW_SECONDS
        return self._question is not None and is_long and not self._pause.lasts(now)

    def look(self, client: Asking, *, has_failed: bool = False) -> None:
        """Ask the brokers of a client if they have said nothing for a while; note their answer.

        Args:
            client: the present client.
            has_failed: a request of the client has failed, and replacing it costs little: do not wait.
        """
        now = self._attended()
        self._has_failed |= has_failed
        if self._question is None:
            if now - self._heard_at <= PROBE_SECONDS and not has_failed:
                return
            self._question, self._asked_at, self._repeated_at = client.ask(), now, now
        if self._question.is_answered:
            self.record_answer()
        elif now - self._repeated_at >= REPEAT_SECONDS:
            self._repeated_at = now
            client.hurry()
            if self._question.is_lost:
                self._question = client.ask()

    def record_answer(self) -> None:
        """Note that a broker has answered, or delivered records."""
        self._question, self._answered_at, self._heard_at = None, self._clock(), self._attended()
        self._has_failed = False
        self._pause = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)

    def record_attempt(self, client: Asking | None) -> None:
        """Note an attempt to replace the client.

        Args:
            client: the new client, whose brokers are asked now; None = the attempt failed.
        """
        self._pause = self._pause.after_failure(self._attended())
        if client is not None:
            self._question = client.ask()
