"""When bad records are too many: a bad deploy must not pass as a few dead letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from forecaster.records import DeadLetter, SourceRecord

WINDOW = 1_000
"""The ratio is that of so many last records of a partition."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_ratio` of the last 1,000 records of a partition, or `max_consecutive` of them, may be bad."""

    max_ratio: float = 0.5
    max_consecutive: int = 1_000


class DeadLetterGuard:
    """Counts good and bad records by partition."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._recent: dict[int, deque[bool]] = {}
        self._consecutive: dict[int, int] = {}

    def forget(self, partition: int) -> None:
        """A new owner of the partition counts afresh."""
        self._recent.pop(partition, None)
        self._consecutive.pop(partition, None)

    def count(self, records: Sequence[SourceRecord], dead_letters: Sequence[DeadLetter]) -> dict[int, str]:
        """Returns the partitions that are over a limit now, and which one.

        Args:
            records: of a committed batch, in the order of the log.
            dead_letters: the bad ones among them.
        """
        bad = {(letter.record.partition, letter.record.offset) for letter in dead_letters}
        for record in records:
            wrong = (record.partition, record.offset) in bad
            self._recent.setdefault(record.partition, deque(maxlen=WINDOW)).append(wrong)
            self._consecutive[record.partition] = self._consecutive.get(record.partition, 0) + 1 if wrong else 0
        return {partition: reason for partition in {key[0] for key in bad} if (reason := self._over(partition))}

    def _over(self, partition: int) -> str:
        recent, consecutive = self._recent[partition], self._consecutive[partition]
        if consecutive >= self._limits.max_consecutive:
            return f"{consecutive} bad records in a row"
        if len(recent) == WINDOW and sum(recent) > self._limits.max_ratio * WINDOW:
            return f"{sum(recent)} of the last {WINDOW} records are bad"
        return ""
