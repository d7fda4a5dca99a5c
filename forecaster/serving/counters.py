"""Counts and durations since the start of a worker: plain numbers, for logs and metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum

from forecaster.records import Decoded, Outcome, Outputs, PollResult
from forecaster.serving.score_totals import ScoreTotals
from forecaster.serving.state.restore import Restored

BUCKET_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets that durations are counted in; a last bucket has no bound."""


class Stage(StrEnum):
    """Stage of a batch whose duration is measured; a transaction of state alone counts as TRANSACTION, too."""

    DECODE = "decode"
    PREPARE = "take"  # label of a metric, which dashboards query
    ADVANCE = "advance"
    ENCODE = "encode"
    TRANSACTION = "transaction"
    ADOPT = "adopt"


@dataclass(slots=True)
class Durations:
    """Histogram of durations.

    Attributes:
        counts: number of durations by bucket; the last bucket has no bound.
        seconds: sum of all durations.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKET_SECONDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self.counts[bisect_left(BUCKET_SECONDS, seconds)] += 1
        self.seconds += seconds


@dataclass(slots=True)
class Counters:
    """Counts since the start of a worker.

    Attributes:
        records: records of committed batches; each is a dead letter, or holds readings with an outcome each.
        dead_letters: dead letters by reason.
        outcomes: readings by name of `Outcome`.
        masked: readings that the filters kept from the network.
        forecasts: published forecasts.
        network_overflows: forecasts made without the network because it overflowed, by checkpoint.
        transactions: committed transactions of batches.
        failed_transactions: failed transactions of any kind.
        transaction_failures: the same, by value of `FailureReason`.
        freed_series: series that lost their row because they were idle for too long.
        restores: restored partitions, by name of `Recovery`.
        replayed: readings that restores have replayed.
        missing: offsets of a compacted input at which restores have found no record any more.
        scores: scores of the forecasts whose truth has come.
        stages: durations of the stages of batches.
        restoring: durations of restores.
    """

    records: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    masked: int = 0
    forecasts: int = 0
    network_overflows: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    failed_transactions: int = 0
    transaction_failures: Counter[str] = field(default_factory=Counter)
    freed_series: int = 0
    restores: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    missing: int = 0
    scores: ScoreTotals = field(default_factory=ScoreTotals)
    stages: dict[Stage, Durations] = field(default_factory=lambda: {stage: Durations() for stage in Stage})
    restoring: Durations = field(default_factory=Durations)

    def add(self, polled: PollResult, decoded: Decoded, outputs: Outputs, forecasts: int) -> None:
        """Add a committed batch.

        Args:
            polled: its records.
            decoded: its readings and dead letters.
            outputs: what became of its readings.
            forecasts: number of forecasts that were published.
        """
        self.records += len(polled.records)
        self.transactions += 1
        self.forecasts += forecasts
        self.masked += int(outputs.masked.sum())
        self.dead_letters.update(letter.reason.value for letter in decoded.dead_letters)
        for outcome in Outcome:
            count = int((outputs.outcomes == outcome).sum())
            if count:
                self.outcomes[outcome.name.lower()] += count

    def add_restored(self, restored: Restored) -> None:
        """Add a restored partition."""
        self.restores[restored.plan.recovery.name.lower()] += 1
        self.missing += restored.missing
        self.replayed += restored.replayed
        self.restoring.add(restored.seconds)

    def copy(self) -> Counters:
        """Return a copy that later counts do not change."""
        return deepcopy(self)
