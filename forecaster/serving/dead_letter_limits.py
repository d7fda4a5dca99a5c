"""Limits of bad records: a sender that is broken must not go unnoticed among the dead letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from forecaster.records import DeadLetter, SourceRecord

WINDOW = 1_000
"""Number of last records of a partition that the ratio is taken of."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of bad records, by partition.

    Attributes:
        max_ratio: largest share of bad records among the last 1,000.
        max_consecutive: number of bad records in a row that is too many.
    """

    max_ratio: float = 0.5
    max_consecutive: int = 1_000


class DeadLetterGuard:
    """Counts good and bad records by partition, and reports partitions above a limit."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._recent: dict[int, deque[bool]] = {}
        self._consecutive: dict[int, int] = {}

    def forget(self, partition: int) -> None:
        """Forget the counts of a partition that was revoked."""
        self._recent.pop(partition, None)
        self._consecutive.pop(partition, None)

    def count(self, records: Sequence[SourceRecord], dead_letters: Sequence[DeadLetter]) -> dict[int, str]:
        """Count the records of a batch; return the partitions that are above a limit now, each with the reason.

        Args:
            records: records of a committed batch, in the order of the log.
            dead_letters: the bad ones among them.
        """
        bad = {(letter.record.partition, letter.record.offset) for letter in dead_letters}
        for record in records:
            is_bad = (record.partition, record.offset) in bad
            self._recent.setdefault(record.partition, deque(maxlen=WINDOW)).append(is_bad)
            self._consecutive[record.partition] = self._consecutive.get(record.partition, 0) + 1 if is_bad else 0
        return {partition: reason for partition in {key[0] for key in bad} if (reason := self._reason(partition))}

    def _reason(self, partition: int) -> str:
        """Return why a partition is above a limit; empty = it is not."""
        recent, consecutive = self._recent[partition], self._consecutive[partition]
        if consecutive >= self._limits.max_consecutive:
            return f"{consecutive} bad records in a row"
        if len(recent) == WINDOW and sum(recent) > self._limits.max_ratio * WINDOW:
            return f"{sum(recent)} of the last {WINDOW} records are bad"
        return ""
