"""Faults of a daemon: it sends itself a signal at a named point of its work, or publishes wrong forecasts.

A point is a sequence of calls: it is reached before the last of them, once those before it have been made.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from kafka import KafkaProducer

from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.records import Message
from forecaster.serving import worker
from forecaster.serving.publisher import Publisher
from forecaster.serving.state import partition
from forecaster.serving.state.replay import Replayer
from forecaster.serving.state.store import StateStore

Call = tuple[Any, str]
SEND_OFFSETS: Call = (KafkaProducer, "send_offsets_to_transaction")
COMMIT: Call = (KafkaProducer, "commit_transaction")
ADOPT: Call = (StateStore, "adopt")
COMPUTE: Call = (worker.Worker, "_compute")
NEW_SWAP: Call = (partition, "new_swap")
POINTS: dict[str, Sequence[Call]] = {
    "after-poll": [COMPUTE],
    "mid-compute": [(worker, "advance")],
    "mid-transaction": [SEND_OFFSETS],
    "before-commit": [COMMIT],
    "after-commit": [ADOPT],
    "mid-restore": [(Replayer, "_replay_chunk")],
    "mid-state-write": [(worker.Worker, "_state_transaction"), COMMIT],
    "mid-swap": [NEW_SWAP, COMMIT],
    "after-swap": [NEW_SWAP, ADOPT, COMPUTE],
    "mid-promotion": [(TrainingCoordinator, "_publish")],
}
BREAKS = ("lose", "double", "change")
"""Ways in which a broken worker treats a forecast."""
BROKEN_EVERY = 5
"""Batches of a broken worker from one wrong forecast to the next."""


def install(fault: str) -> None:
    """Prepare this process for a fault.

    Args:
        fault: `<point>:<signal>:<times>`: the signal comes when the point is reached for the n-th time. Or one of
            BREAKS.
    """
    if fault in BREAKS:
        _break_publisher(fault)
        return
    point, name, times = fault.split(":")
    _Fault(point, signal.Signals[name], int(times)).install()


class _Fault:
    def __init__(self, point: str, number: signal.Signals, times: int) -> None:
        self._point, self._number, self._left = point, number, times
        self._calls = POINTS[point]
        self._made = 0

    def install(self) -> None:
        for place, (owner, name) in enumerate(self._calls):
            setattr(owner, name, self._watched(getattr(owner, name), place))

    def _watched(self, call: Callable[..., Any], place: int) -> Callable[..., Any]:
        @wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:
            if place == self._made:
                self._reach(arguments)
            return call(*arguments, **options)

        return watched

    def _reach(self, arguments: Sequence[Any]) -> None:
        self._made = (self._made + 1) % len(self._calls)
        if self._made:
            return
        self._left -= 1
        if self._left:
            return
        if arguments and isinstance(arguments[0], KafkaProducer):
            arguments[0].flush()  # the broker has the records of an open transaction
        sys.stderr.write(f"fault at {self._point}\n")
        sys.stderr.flush()
        os.kill(os.getpid(), self._number)


def _break_publisher(how: str) -> None:
    batches = itertools.count(1)
    original = Publisher.messages

    def messages(self: Publisher, *arguments: Any) -> dict[str, list[Message]]:
        made = original(self, *arguments)
        forecasts = next(made[topic] for topic in made if topic.endswith(".forecasts"))
        if forecasts and next(batches) % BROKEN_EVERY == 1:
            last = forecasts.pop()
            forecasts += {"lose": [], "double": [last, last], "change": [last._replace(value=b"{}")]}[how]
        return made

    Publisher.messages = messages  # type: ignore[method-assign]
