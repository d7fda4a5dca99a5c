"""Commits of the worker's transactions, and the recovery of the producer after a failed one."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from forecaster.backoff import Backoff
from forecaster.broker.retry import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, retry
from forecaster.errors import BrokerUnavailable
from forecaster.records import FailureReason, Transaction
from forecaster.serving.counters import Counters, Stage
from forecaster.serving.dependencies import WorkerDependencies
from forecaster.serving.transaction_limit import LONG_SECONDS, Attempt, TransactionLimit

_NO_FAILURE = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)


@dataclass(frozen=True, slots=True)
class FailureStatus:
    """Failed transactions since the last one that was committed, or since nothing was left to commit.

    Attributes:
        in_a_row: number of them.
        since: when the first of them failed, on the committer's clock; None = there is none.
        reason: why the last of them failed; empty = none did.
    """

    in_a_row: int = 0
    since: float | None = None
    reason: str = ""


class Committer:
    """Commits transactions one after the other.

    Args:
        dependencies: the producer, the consumer, the store and the clock.
        counters: take the durations and the failures.
        outage_deadline_seconds: time without a committed transaction after which the worker gives up.
        stop: ends every wait when it is set.

    Attributes:
        failures: failed transactions since the last one that was committed, or since nothing was left to commit.
        limit: largest size of the next transaction.
    """

    def __init__(
        self,
        dependencies: WorkerDependencies,
        counters: Counters,
        outage_deadline_seconds: float,
        stop: threading.Event,
    ) -> None:
        self._producer, self._consumer = dependencies.producer, dependencies.consumer
        self._clock, self._store = dependencies.clock, dependencies.store
        self._counters = counters
        self._outage_deadline = outage_deadline_seconds
        self._stop = stop
        self._backoff = _NO_FAILURE
        self._has_tried = False
        self.failures, self.limit = FailureStatus(), TransactionLimit()

    def commit(self, transaction: Transaction, records: int = 0) -> bool:
        """Return whether the transaction was committed as far as is known; call `recover` if it was not.

        Args:
            transaction: the transaction.
            records: number of input records that it is the result of; 0 = it has state alone.
        """
        begin, self._has_tried = self._clock(), True
        committed = self._producer.commit(transaction)
        seconds = self._clock() - begin
        self._counters.stages[Stage.TRANSACTION].add(seconds)
        self._limit_size(transaction, records, seconds, committed=committed)
        if committed:
            self._backoff, self.failures = _NO_FAILURE, FailureStatus()
        else:
            self._count_failure()
        return committed

    def recover(self) -> None:
        """Replace the producer after a failed transaction; if the one before failed, too, pause first.

        Raises:
            BrokerUnavailable: no transaction was committed for the outage deadline, or the broker did not answer.
            Fenced: another process has this identity.
        """
        now = self._clock()
        self._backoff = self._backoff.after_failure(now)
        failures = self.failures
        if failures.since is not None and now - failures.since > self._outage_deadline:
            raise BrokerUnavailable(
                f"{failures.in_a_row} transactions in a row have failed; the last one: {failures.reason}"
            )
        self._stop.wait(self._backoff.pause_seconds if failures.in_a_row > 1 else 0.0)
        self.replace_producer()

    def replace_producer(self) -> None:
        """Replace the producer without counting a failure, as when the brokers have other addresses.

        The consumer group is asked first whether this process is still its member: of two processes with one identity,
        only the one that the group knows may fence the other.

        Raises:
            BrokerUnavailable: the broker did not answer for the outage deadline.
            Fenced: another process has this identity.
        """
        retry(self._consumer.confirm_membership, "confirming the group membership", self._outage_deadline, self._stop)
        self._producer.restart()

    def end_row_of_failures(self) -> None:
        """Forget the failures if nothing is left to commit; call it after each poll and what follows from it.

        A transaction that failed may have been committed all the same, or its partitions may have been revoked. Then
        nothing repeats it, and the next commit may be far away.
        """
        has_tried, self._has_tried = self._has_tried, False
        if self.failures.in_a_row and not has_tried and not self._store.has_work(self._consumer.readable_ends()):
            self._backoff, self.failures = _NO_FAILURE, FailureStatus()

    def _limit_size(self, transaction: Transaction, records: int, seconds: float, *, committed: bool) -> None:
        """Set the largest size of the next transaction."""
        in_time = committed or self._producer.failure.reason is not FailureReason.TIMEOUT
        if in_time and seconds <= LONG_SECONDS and not self.limit.is_limited:
            return
        attempt = Attempt(transaction.size, records, seconds, in_time)
        self.limit = self.limit.after(attempt, self._clock())
        self._store.limit_writes(self.limit.state_bytes)

    def _count_failure(self) -> None:
        failure, before = self._producer.failure, self.failures
        since = self._clock() if before.since is None else before.since
        self.failures = FailureStatus(before.in_a_row + 1, since, str(failure))
        self._counters.failed_transactions += 1
        self._counters.transaction_failures[failure.reason.value] += 1
