"""The interfaces that the worker needs from the rest of the process; tests implement them with fakes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from forecaster.clock import Clock, WallClock, epoch_ms, monotonic
from forecaster.formats.state_log import StateLog
from forecaster.interfaces import Producer, RecordDecoder
from forecaster.records import PollResult
from forecaster.serving.state.store import StateStore


class Consumer(Protocol):
    """A `GroupConsumer` of the input topic."""

    def poll(self, *, wait: bool, max_records: int | None = None) -> PollResult:
        """Return new records, and what happened to the assignment; wait for a moment if there are none."""

    def resume(self, partitions: Collection[int]) -> None:
        """Let the partitions deliver records."""

    def pause(self, partitions: Collection[int]) -> None:
        """Let the partitions deliver nothing until they are resumed."""

    def seek(self, offsets: dict[int, int]) -> None:
        """Continue at these offsets, by partition."""

    def confirm_membership(self) -> None:
        """Return if no other process has taken this member's identity; raise Fenced otherwise."""

    def read_from(self, topic_id: str) -> None:
        """Read only from the topic with this id, and drop what was fetched from another one."""

    def committed(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the consumer group's committed offset of each partition that has one."""

    def ends(self) -> dict[int, int]:
        """Return the end of the log of each partition, as the last fetch reported it."""

    def readable_ends(self) -> dict[int, int]:
        """Return the ends of what can be read now: an open transaction keeps back all records behind it."""

    def next_offset(self, partition: int) -> int | None:
        """Return the offset that is fetched next; None = not known just now."""


class Watch(Protocol):
    """A `topic_watch.TopicWatch`."""

    @property
    def problem(self) -> str:
        """What is wrong with the topics, for people; empty = nothing."""

    def look(self) -> Mapping[int, StateLog]:
        """Look at the topics now, and return what `look_if_due` does; raise TransientBrokerError without an answer."""

    def look_if_due(self) -> Mapping[int, StateLog]:
        """Return the logs of the state topic by partition as they are now; empty = it was not time to look."""


@dataclass(frozen=True, slots=True)
class WorkerDependencies:
    """Objects that a worker calls.

    Attributes:
        decoder: decodes the records of the input.
        consumer: this process in the consumer group.
        producer: writes transactions.
        store: owns the partitions and their rows.
        check_topics: called when partitions are assigned; raises TopicError if topics that exist do not fit.
        topic_watch: checks the topics from time to time, and creates output topics that are missing.
        clock: for deadlines and durations.
        wall_clock: for the age of readings, and the time of a status.
    """

    decoder: RecordDecoder
    consumer: Consumer
    producer: Producer
    store: StateStore
    check_topics: Callable[[], object]
    topic_watch: Watch
    clock: Clock = monotonic
    wall_clock: WallClock = epoch_ms
