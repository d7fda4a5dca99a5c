"""The way of the open partitions to the champion: when their swaps may begin, and re-warming before the readings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import structlog

from forecaster.core.checkpoint_ids import NO_CHECKPOINT, NO_NETWORK
from forecaster.core.rewarm import rewarm
from forecaster.errors import TransientBrokerError
from forecaster.formats.state import Swap
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.swaps import Checkpoints, can_serve

_log = structlog.get_logger()


class ChampionSwaps:
    """Lets the open partitions change to the champion, as soon as it can serve.

    Args:
        checkpoints: the models, and which of them is the champion.
        hidden: largest number of columns of a hidden state that the rows have space for.
    """

    def __init__(self, checkpoints: Checkpoints, hidden: int) -> None:
        self._checkpoints = checkpoints
        self._hidden = hidden
        self._refused = ""

    def of_batch(self, partitions: Mapping[int, Partition], numbers: Collection[int]) -> dict[int, list[Swap]]:
        """Return the swaps of each partition of a batch, with a new one to the champion if it can begin.

        Args:
            partitions: open partitions, by number.
            numbers: partitions of the batch.
        """
        champion = self._checkpoints.champion
        if self._can_serve(champion):
            return {number: partitions[number].swaps_with(champion) for number in numbers}
        return {number: partitions[number].floor.swaps for number in numbers}

    def rewarm_next_slot(self, partitions: Iterable[Partition]) -> None:
        """Re-warm a slot of rows that switch to another body, of the first partition that has one."""
        for partition in partitions:
            rows = partition.rows_to_rewarm()
            if not len(rows):
                continue
            checkpoint, state = partition.floor.swaps[-1].checkpoint, partition.table.state
            model = self._checkpoints.model(checkpoint)
            code = NO_NETWORK if model is None else model.body_code
            if model is not None or checkpoint == NO_CHECKPOINT:
                rewarm(model, state, rows[state.body[rows] != code])
            return

    def _can_serve(self, champion: str) -> bool:
        """Return whether swaps to the champion can begin; log the reason once if they cannot."""
        reason = "it cannot be read, or its hidden state is larger than the rows have space for until a restart"
        try:
            can = can_serve(self._checkpoints, champion, self._hidden)
        except TransientBrokerError as error:
            can, reason = False, str(error)
        if not can and self._refused != champion:
            _log.warning("champion_not_served", checkpoint=champion, reason=reason)
        self._refused = "" if can else champion
        return can
