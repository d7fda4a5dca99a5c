"""The size of a micro-batch: the number of records that the worker computes in about TARGET_SECONDS.

Short batches publish forecasts and answer HTTP questions sooner; long ones spread the fixed cost of a transaction over
more readings. The forecasts do not depend on the size.
"""

from __future__ import annotations

from dataclasses import dataclass

TARGET_SECONDS = 0.2
MIN_RECORDS = 64
MAX_CHANGE = 2.0
"""Largest factor by which the limit changes after one batch, so that a single slow batch matters little."""


@dataclass(frozen=True, slots=True)
class BatchLimit:
    """Number of records that the next batch may have; the consumer's `max_poll_records` limits it, too."""

    records: int = MIN_RECORDS

    def after(self, records: int, seconds: float) -> BatchLimit:
        """Return the limit that follows a batch.

        A batch below the limit lowers it if it was slow, but never raises it, because more records were not tried.
        The time of the transaction does not count: with a slow broker, smaller batches would only mean more
        transactions.

        Args:
            records: number of records in the batch, at least one.
            seconds: time to compute it, from decoding its records to encoding its forecasts.
        """
        if seconds <= TARGET_SECONDS and records < self.records:
            return self
        wanted = records * TARGET_SECONDS / max(seconds, 1e-9)
        changed = min(max(wanted, self.records / MAX_CHANGE), self.records * MAX_CHANGE)
        return BatchLimit(max(MIN_RECORDS, round(changed)))
