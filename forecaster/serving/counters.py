"""What became of everything since the start, and how long its parts took: plain numbers, for logs and metrics."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum

from forecaster.records import Decoded, Outcome, Outputs, PollResult
from forecaster.serving.publisher import ScoreTotals
from forecaster.serving.state.restore import Restored

BUCKET_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper ends of the buckets that durations are counted in; one more has no end."""


class Stage(StrEnum):
    """What takes time. A transaction is the last part of a batch, and may hold nothing but state."""

    DECODE = "decode"
    TAKE = "take"
    ADVANCE = "advance"
    ENCODE = "encode"
    TRANSACTION = "transaction"
    ADOPT = "adopt"


@dataclass(slots=True)
class Durations:
    """How often something took how long.

    Attributes:
        counts: by bucket, the last one without an end.
        seconds: sum of all.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKET_SECONDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BUCKET_SECONDS, seconds)] += 1
        self.seconds += seconds


@dataclass(slots=True)
class Counters:
    """Of each record a dead letter or readings, each with an outcome; and what else happened.

    Attributes:
        records: committed.
        dead_letters: by reason.
        outcomes: of readings, by name of `Outcome`.
        masked: readings that the filters kept from the network.
        forecasts: published.
        transactions: committed, those with a batch.
        failed_transactions: of any kind.
        freed_series: idle for too long.
        restores: partitions that became whole, by name of `Recovery`.
        replayed: readings that went in again for it.
        scores: of the forecasts that met their truth.
        stages: how long the parts of batches took.
        restoring: how long partitions took to become whole.
    """

    records: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    masked: int = 0
    forecasts: int = 0
    transactions: int = 0
    failed_transactions: int = 0
    freed_series: int = 0
    restores: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    scores: ScoreTotals = field(default_factory=ScoreTotals)
    stages: dict[Stage, Durations] = field(default_factory=lambda: {stage: Durations() for stage in Stage})
    restoring: Durations = field(default_factory=Durations)

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """What is done inside takes its time in this stage."""
        begin = time.perf_counter()
        yield
        self.stages[stage].add(time.perf_counter() - begin)

    def add(self, polled: PollResult, decoded: Decoded, outputs: Outputs, forecasts: int) -> None:
        """The counts include a committed batch, of which so many forecasts were published."""
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
        """The counts include a partition that became whole."""
        self.restores[restored.plan.recovery.name.lower()] += 1
        self.replayed += restored.replayed
        self.restoring.add(restored.seconds)

    def copy(self) -> Counters:
        """Returns what is so far; it stays as it is."""
        return deepcopy(self)
