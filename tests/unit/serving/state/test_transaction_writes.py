"""The bytes that the blocks of a transaction may have: shared by the partitions in turn, and tried when too few."""

from __future__ import annotations

from typing import Any

import pytest
from clock import FakeClock

from forecaster.records import Message
from forecaster.serving.state.partition import PartitionBatch
from forecaster.serving.state.transaction_writes import TransactionWrites
from forecaster.serving.state.writes import StateWrites

BLOCK = 100
BATCH = PartitionBatch(readings=1, end=1, checkout=None, refused_offset=-1)


class FakePartition:
    """A partition with one dirty block, which it writes when the budget allows."""

    def __init__(self, number: int, *, is_overdue: bool = True) -> None:
        self.number = number
        self._is_overdue = is_overdue

    def is_overdue(self) -> bool:
        return self._is_overdue

    def batch_writes(self, _batch: PartitionBatch, _swaps: list[Any], budget: int) -> StateWrites:
        return block() if budget >= BLOCK else StateWrites(0, [], [], [], None, [])

    def next_writes(self, budget: int, *, at_least_one: bool = True) -> StateWrites | None:
        return block() if budget >= BLOCK or at_least_one else None


def block() -> StateWrites:
    return StateWrites(0, [0], [], [], None, [Message(0, b"key", bytes(BLOCK), [])])


def partitions(count: int) -> Any:
    return {number: FakePartition(number) for number in range(count)}


def limited(size: int, clock: FakeClock | None = None) -> TransactionWrites:
    writes = TransactionWrites(clock or FakeClock())
    writes.limit(size)
    return writes


def test_each_partition_of_a_batch_is_first_in_its_turn() -> None:
    writes, three = limited(BLOCK), partitions(3)
    written = []
    for _ in range(6):
        of_batch = writes.of_batch(three, dict.fromkeys(three, BATCH), {number: [] for number in three})
        assert set(of_batch) == set(three)
        written += [number for number, of_partition in of_batch.items() if of_partition.written]
    assert sorted(written) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("size", "count"), [(BLOCK - 1, 0), (BLOCK, 1), (2 * BLOCK, 2), (5 * BLOCK, 3)])
def test_overdue_partitions_share_the_bytes_of_one_transaction(size: int, count: int) -> None:
    overdue = limited(size).overdue(partitions(3).values(), may_try=False)
    assert len(overdue) == count


def test_a_block_that_is_too_large_is_tried_after_growing_pauses_until_one_is_stored() -> None:
    clock, some = FakeClock(), partitions(2).values()
    writes = limited(0, clock)
    tries = []
    for second in range(400):
        if writes.overdue(some, may_try=True):
            tries.append(second)
        clock.advance(1.0)
    assert tries == [0, 60, 180]
    writes.record_stored(block())
    assert list(writes.overdue(some, may_try=True)) == [0]


def test_nothing_is_tried_of_partitions_that_can_wait() -> None:
    current: Any = [FakePartition(0, is_overdue=False)]
    assert limited(0).overdue(current, may_try=True) == {}
    assert limited(BLOCK).overdue(current, may_try=True) == {}


def test_state_is_flushed_however_few_bytes_a_transaction_may_have() -> None:
    assert list(limited(0).next_of_any(partitions(2).values())) == [0]
    assert limited(0).next_of_any([]) == {}
