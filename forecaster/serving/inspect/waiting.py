"""Records that wait: how long a partition with unread records has had no commit."""

from __future__ import annotations

from collections.abc import Iterable

from forecaster.clock import Clock
from forecaster.serving.inspect.status import PartitionState, PartitionStatus


class WaitingRecords:
    """Measures for how long records have waited in each serving partition without a commit.

    Records behind the last stable offset do not count: nobody can read them before their transaction ends.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[int, tuple[int, float]] = {}

    def seconds(self, partitions: Iterable[PartitionStatus]) -> dict[int, float]:
        """Return the time of each serving partition in which records wait.

        Args:
            partitions: all assigned partitions, now.
        """
        now, before, self._since = self._clock(), self._since, {}
        for status in partitions:
            if status.state is PartitionState.SERVING and status.position is not None and status.has_readable:
                position, since = before.get(status.partition, (status.position, now))
                self._since[status.partition] = (status.position, since if position == status.position else now)
        return {number: now - since for number, (_, since) in self._since.items()}
