"""The input topic while it is read: it can be deleted, and created again under the same name.

A topic that is created again has another id, and its offsets begin at 0 again. Everything that was restored for the
former topic is dropped, and restored again for the new one, as ON_LOST_INPUT says.
"""

from __future__ import annotations

import structlog

from forecaster.clock import Clock
from forecaster.errors import InputMissing
from forecaster.formats.sources import short_topic_id
from forecaster.serving.dependencies import Consumer
from forecaster.serving.state.store import StateStore

PAUSE_SECONDS = 1.0
"""Time between two restores of everything: brokers and clients learn of a new topic at different times."""
_log = structlog.get_logger()


class InputTopic:
    """Compares the input topic with the one that the open partitions were restored for.

    Args:
        store: knows which topic the open partitions were restored for.
        consumer: reads the topic.
        clock: seconds; for the deadline.
        outage_deadline_seconds: how long the worker waits for a missing topic before it ends.
    """

    def __init__(self, store: StateStore, consumer: Consumer, clock: Clock, outage_deadline_seconds: float) -> None:
        self._store, self._consumer, self._clock = store, consumer, clock
        self._deadline = outage_deadline_seconds
        self._missing_since: float | None = None
        self._not_before = clock()

    @property
    def short_id(self) -> str:
        """Short id of the topic that the open partitions were restored for."""
        return short_topic_id(self._store.input_id)

    def follow(self, newest_id: str | None) -> bool:
        """Return whether the worker may process the polled records and restore; for another topic, restore all again.

        Args:
            newest_id: id of the topic in the consumer's metadata; empty = it is missing, None = unknown.

        Raises:
            InputMissing: the topic has been missing for the outage deadline.
        """
        if newest_id is None:
            return True
        if not newest_id:
            self.note_missing()
            return False
        restored_id = self._store.input_id
        if self._missing_since is not None and (restored_id == newest_id or not self._store.has_unopened):
            self._missing_since = None
            _log.info("input_exists_again", input_id=short_topic_id(newest_id))
        if restored_id in ("", newest_id):
            return self._clock() >= self._not_before
        _log.warning(
            "input_created_again", restored_input_id=short_topic_id(restored_id), input_id=short_topic_id(newest_id)
        )
        self.restore_all_again()
        return False

    def restore_all_again(self) -> None:
        """Drop all assigned partitions and queue them to be restored: the restores read the topic's id again."""
        partition_numbers = [*self._store.partitions, *self._store.unopened]
        self._consumer.pause(partition_numbers)
        self._store.restore_again(partition_numbers)
        self._not_before = self._clock() + PAUSE_SECONDS

    def note_missing(self) -> None:
        """Note that the topic is missing: drop all assigned partitions, and restore them when it exists again.

        Raises:
            InputMissing: the topic has been missing for the outage deadline.
        """
        now = self._clock()
        if self._missing_since is None:
            self._missing_since = now
            _log.warning("input_missing", topic=self._store.input_topic, deadline_seconds=self._deadline)
        missing_seconds = now - self._missing_since
        if missing_seconds > self._deadline:
            raise InputMissing(
                f"topic {self._store.input_topic}: was deleted, and has been missing for {missing_seconds:.0f} s: "
                "create it again, or give this user the right to read it"
            )
        self.restore_all_again()
