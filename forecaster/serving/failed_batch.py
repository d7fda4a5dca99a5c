"""A batch whose transaction failed: the committed offset of each partition decides what becomes of its part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resolution:
    """What becomes of each partition's part of the batch; every partition is in one of the three.

    Attributes:
        adopted: end of the part, by partition: it was committed, so its rows are adopted.
        dropped: beginning of the part, by partition: it was not committed, and is read again from there.
        restoring: partitions that are restored, because another process has committed another offset, or Kafka has
            lost the committed one.
    """

    adopted: dict[int, int]
    dropped: dict[int, int]
    restoring: list[int]

    @property
    def is_committed(self) -> bool:
        """Whether the transaction was committed in full."""
        return not self.dropped and not self.restoring


def resolve(begin: Mapping[int, int], end: Mapping[int, int], committed: Mapping[int, int]) -> Resolution:
    """Return what becomes of a batch whose transaction failed.

    If the committed offset of a partition is the end of its part, the part is adopted: the broker has committed the
    transaction without saying so. If it is the beginning or earlier, the part is dropped. Otherwise the partition is
    restored.

    Args:
        begin: offset of the first record, of each partition of the batch.
        end: offset after the batch, of the same partitions.
        committed: committed offset of each partition that has one. Of a partition of a new group without a commit, it
            is the offset at which the group begins.
    """
    adopted = {number: offset for number, offset in end.items() if committed.get(number) == offset}
    dropped = {
        number: offset
        for number, offset in begin.items()
        if number not in adopted and number in committed and committed[number] <= offset
    }
    return Resolution(adopted, dropped, [number for number in end if number not in {**adopted, **dropped}])
