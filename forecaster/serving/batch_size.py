"""The size of a micro-batch: as many records as the worker computes in about TARGET_SECONDS.

Short batches publish forecasts and answer HTTP questions sooner; long ones spread the fixed cost of a transaction over
more readings. The results do not depend on the size.
"""

from __future__ import annotations

from dataclasses import dataclass

TARGET_SECONDS = 0.2
MIN_RECORDS = 64
MAX_CHANGE = 2.0
"""The limit changes at most by this factor after a batch, so that one slow batch says little."""


@dataclass(frozen=True, slots=True)
class BatchLimit:
    """Number of records that the next batch may have; `max_poll_records` of the consumer is a limit besides."""

    records: int = MIN_RECORDS

    def after(self, records: int, seconds: float) -> BatchLimit:
        """Return the limit that follows a batch.

        A batch below the limit lowers it when it was slow, but never raises it: more records were not tried. The time
        for the transaction is left out: with a slow broker, smaller batches would only mean more transactions.

        Args:
            records: of the batch, at least one.
            seconds: time to compute it, from the first record decoded to the last forecast encoded.
        """
        if seconds <= TARGET_SECONDS and records < self.records:
            return self
        wanted = records * TARGET_SECONDS / max(seconds, 1e-9)
        changed = min(max(wanted, self.records / MAX_CHANGE), self.records * MAX_CHANGE)
        return BatchLimit(max(MIN_RECORDS, round(changed)))
