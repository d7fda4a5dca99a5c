"""Which partitions are ours, which of them are whole and serve, and what each transaction writes of their state."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping

from forecaster.broker.consumer import Polled
from forecaster.records import Decoded, Integers
from forecaster.serving.partition import Changes
from forecaster.serving.partitions import Checkout, Partitions
from forecaster.serving.restore import Restored, Restorer

BLOCK_BYTES_PER_TRANSACTION = 1_500_000
SLICE_SECONDS = 0.02
"""So long a restore holds up the partitions that serve ..."""
LONG_SLICE_SECONDS = 0.5
"""... and where none does, the next poll."""


class StateKeeper:
    """Partitions are restored, served, written and forgotten here.

    Args:
        partitions: those that serve; none yet.
        restorer: of those that shall.
    """

    def __init__(self, partitions: Partitions, restorer: Restorer) -> None:
        self.partitions = partitions
        self._restorer = restorer
        self._turn = 0

    @property
    def restoring(self) -> bool:
        """Some partition of ours is not whole yet."""
        return len(self._restorer) > 0

    def follow(self, closed: Collection[int], opened: Collection[int]) -> None:
        """Partitions that are not ours any more, or anew, are forgotten; those opened are to be restored."""
        self._restorer.cancel(closed)
        for number in {*closed, *opened}:
            self.partitions.close(number)
        self._restorer.add(opened)

    def restore(self) -> Restored | None:
        """A slice of the restoring has been done; returns a partition that became whole by it."""
        return self._restorer.work(SLICE_SECONDS if len(self.partitions) else LONG_SLICE_SECONDS)

    def log_start(self, number: int) -> int:
        """Returns the first offset of a partition's input."""
        return self._restorer.log_start(number)

    def changes(self, polled: Polled, decoded: Decoded, checkout: Checkout, numbers: Integers) -> dict[int, Changes]:
        """Returns what a batch's transaction writes of the state as it is before the batch, by partition.

        Args:
            polled: the batch's records.
            decoded: its readings.
            checkout: the rows that they touch.
            numbers: the partition of each reading; (N,).
        """
        budget = BLOCK_BYTES_PER_TRANSACTION
        found: dict[int, Changes] = {}
        for number in self._in_turn(polled.end):
            part = checkout.parts.get(number)
            refused = part.refused if part is not None else -1
            offset = polled.records[int(decoded.readings.records[refused])].offset if refused >= 0 else -1
            readings = int((numbers == number).sum())
            changes = self.partitions[number].changes(readings, polled.end[number], part, offset, budget)
            budget -= changes.size
            found[number] = changes
        return found

    def overdue(self, but: Container[int] = ()) -> dict[int, Changes]:
        """Returns changes of partitions that have had nothing to do for long, and were not written since."""
        budget = BLOCK_BYTES_PER_TRANSACTION
        found: dict[int, Changes] = {}
        for partition in self.partitions:
            if budget > 0 and partition.number not in but and partition.overdue():
                changes = partition.flush(budget)
                if changes is not None:
                    budget -= changes.size
                    found[partition.number] = changes
        return found

    def dirty(self) -> dict[int, Changes]:
        """Returns changes of one partition that has something to write; empty = none has."""
        for partition in self.partitions:
            changes = partition.flush(BLOCK_BYTES_PER_TRANSACTION)
            if changes is not None:
                return {partition.number: changes}
        return {}

    def committed(self, changes: Mapping[int, Changes], checkout: Checkout, ends: Mapping[int, int]) -> None:
        """The topic holds the changes, and the rows of the partitions in `ends` hold the batch."""
        self.written({number: one for number, one in changes.items() if number in ends})
        self.partitions.adopt(checkout, ends, ends)
        for number in ends:
            self.partitions[number].free(changes[number].freed, ends[number])

    def written(self, changes: Mapping[int, Changes]) -> None:
        """The topic holds the changes."""
        for number, one in changes.items():
            self.partitions[number].committed(one)

    def _in_turn(self, numbers: Collection[int]) -> list[int]:
        """Returns the partitions, each time beginning with another: the budget reaches all of them in turn."""
        ordered = sorted(numbers)
        self._turn = (self._turn + 1) % len(ordered)
        return ordered[self._turn :] + ordered[: self._turn]
