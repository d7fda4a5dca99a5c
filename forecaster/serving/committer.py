"""Commits of the worker's transactions, and the recovery of the producer after a failed one."""

from __future__ import annotations

import threading

from forecaster.broker.retry import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, retry
from forecaster.errors import BrokerUnavailable
from forecaster.records import Transaction
from forecaster.serving.counters import Counters, Stage
from forecaster.serving.dependencies import WorkerDependencies

MOST_DOUBLINGS = 10
"""Number of doublings after which the pause has reached its limit for certain."""


class Committer:
    """Commits transactions one after the other.

    Args:
        dependencies: the producer, the consumer and the clock.
        counters: take the durations and the failures.
        outage_deadline_seconds: time without a committed transaction after which the worker gives up.
        stop: ends every wait when it is set.
    """

    def __init__(
        self,
        dependencies: WorkerDependencies,
        counters: Counters,
        outage_deadline_seconds: float,
        stop: threading.Event,
    ) -> None:
        self._producer, self._consumer = dependencies.producer, dependencies.consumer
        self._clock = dependencies.clock
        self._counters = counters
        self._outage_deadline = outage_deadline_seconds
        self._stop = stop
        self._failures, self._failing_since = 0, 0.0

    def commit(self, transaction: Transaction) -> bool:
        """Return whether the transaction was committed as far as is known; call `recover` if it was not."""
        begin = self._clock()
        committed = self._producer.commit(transaction)
        self._counters.stages[Stage.TRANSACTION].add(self._clock() - begin)
        if committed:
            self._failures = 0
        return committed

    def recover(self) -> None:
        """Replace the producer after a failed transaction; if the one before failed, too, pause first.

        The group is asked first whether this process is still its member: of two processes with one identity, only
        the one that the group knows may fence the other.

        Raises:
            BrokerUnavailable: no transaction was committed for the outage deadline, or the broker did not answer.
            Fenced: another process has this identity.
        """
        self._counters.failed_transactions += 1
        self._failures += 1
        if self._failures == 1:
            self._failing_since = self._clock()
        if self._clock() - self._failing_since > self._outage_deadline:
            raise BrokerUnavailable(f"{self._failures} transactions in a row have failed: see the warnings before")
        doublings = min(self._failures - 1, MOST_DOUBLINGS)
        self._stop.wait(min(FIRST_WAIT_SECONDS * 2.0**doublings, LONGEST_WAIT_SECONDS) if doublings else 0.0)
        retry(self._consumer.confirm_membership, "confirming the group membership", self._outage_deadline, self._stop)
        self._producer.restart()
