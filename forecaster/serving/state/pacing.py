"""The pace of writing: which dirty blocks the transaction of a batch writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecaster.clock import Clock
from forecaster.serving.state.blocks import Blocks
from forecaster.serving.state.config import NAME_BYTES, StateConfig

READINGS_PER_SERIES = 10
SMALLEST_REPLAY_LIMIT = 100_000
YOUNGEST = 0.25
"""Smallest age of a block that is written again, as a share of the replay limit."""


class WritePacer:
    """Spreads the writing of blocks evenly, and keeps every block younger than the replay limit.

    The age of a block is the number of offsets since it became dirty. Every batch earns credit, in bytes; a block older
    than YOUNGEST is written when the credit covers it, and at the replay limit in any case.

    Args:
        config: how the rows are kept.
        clock: measures how long a block has been dirty.
    """

    def __init__(self, config: StateConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._row_bytes = config.row_bytes + NAME_BYTES
        self._credit = 0.0

    def due(self, blocks: Blocks, position: int, readings: int, series: int, budget: int) -> list[int]:
        """Return the blocks that the transaction of a batch writes.

        Args:
            blocks: blocks of the partition.
            position: offset of the first reading of the batch.
            readings: number of readings in the batch.
            series: number of series with a row.
            budget: bytes that blocks may take.
        """
        limit = self._config.replay_limit or max(SMALLEST_REPLAY_LIMIT, READINGS_PER_SERIES * series)
        self._credit += readings * series * self._row_bytes / (limit * (1.0 - YOUNGEST))
        self._credit = min(self._credit, 2.0 * budget)
        latest = self._clock() - self._config.snapshot_seconds
        due: list[int] = []
        for number in blocks.dirty():
            block = blocks[number]
            size = self.size(blocks, number)
            is_overdue = block.dirty_at <= latest
            age = position - block.dirty_since
            is_old = age >= limit or (age >= YOUNGEST * limit and self._credit >= size)
            if not (is_overdue or is_old) or budget < size:
                break
            self._credit = max(0.0, self._credit - size)
            budget -= size
            due.append(number)
        return due

    def within(self, blocks: Blocks, numbers: Sequence[int], budget: int) -> list[int]:
        """Return the first of these blocks, as many as the budget allows, but at least one."""
        sizes = np.cumsum([self.size(blocks, number) for number in numbers])
        return list(numbers[: max(1, int(np.searchsorted(sizes, budget, side="right")))]) if numbers else []

    def size(self, blocks: Blocks, number: int) -> int:
        """Return the bytes that a block takes."""
        return len(blocks[number].rows) * self._row_bytes

    def any_overdue(self, blocks: Blocks) -> bool:
        """Return whether a block has been dirty for longer than the snapshot interval."""
        latest = self._clock() - self._config.snapshot_seconds
        return any(blocks[number].dirty_at <= latest for number in blocks.dirty())
