"""Commits of the worker's transactions, and the recovery of the producer after a failed one."""

from __future__ import annotations

import threading

from forecaster.backoff import Backoff
from forecaster.broker.retry import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, retry
from forecaster.errors import BrokerUnavailable
from forecaster.records import Transaction
from forecaster.serving.counters import Counters, Stage
from forecaster.serving.dependencies import WorkerDependencies

_NO_FAILURE = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)


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
        self._backoff, self._failing_since = _NO_FAILURE, 0.0

    def commit(self, transaction: Transaction) -> bool:
        """Return whether the transaction was committed as far as is known; call `recover` if it was not."""
        begin = self._clock()
        committed = self._producer.commit(transaction)
        self._counters.stages[Stage.TRANSACTION].add(self._clock() - begin)
        if committed:
            self._backoff = _NO_FAILURE
        return committed

    def recover(self) -> None:
        """Replace the producer after a failed transaction; if the one before failed, too, pause first.

        The consumer group is asked first whether this process is still its member: of two processes with one identity,
        only the one that the group knows may fence the other.

        Raises:
            BrokerUnavailable: no transaction was committed for the outage deadline, or the broker did not answer.
            Fenced: another process has this identity.
        """
        self._counters.failed_transactions += 1
        now = self._clock()
        self._backoff = self._backoff.after_failure(now)
        failures = self._backoff.failures
        if failures == 1:
            self._failing_since = now
        if now - self._failing_since > self._outage_deadline:
            raise BrokerUnavailable(f"{failures} transactions in a row have failed: see the warnings before")
        self._stop.wait(self._backoff.pause_seconds if failures > 1 else 0.0)
        retry(self._consumer.confirm_membership, "confirming the group membership", self._outage_deadline, self._stop)
        self._producer.restart()
