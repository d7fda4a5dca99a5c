"""A daemon with a fault: it kills or stops itself at a point of its work, and writes that to standard error.

FORECASTER_TEST_FAULT is `<point>:<signal>:<times>`: the daemon sends itself the signal when it reaches the point for
the n-th time.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from kafka import KafkaProducer

from forecaster.cli.commands import main
from forecaster.formats.readings import Decoder
from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.serving.state.replay import Replayer
from forecaster.serving.state.store import StateStore

POINTS = {
    "after-poll": (Decoder, "decode"),
    "mid-transaction": (KafkaProducer, "send_offsets_to_transaction"),
    "after-commit": (StateStore, "adopt"),
    "mid-restore": (Replayer, "_replay_chunk"),
    "mid-promotion": (TrainingCoordinator, "_publish"),
}
point, name, times = os.environ["FORECASTER_TEST_FAULT"].split(":")
owner, method = POINTS[point]
original = getattr(owner, method)
left = int(times)


def faulty(self: Any, *arguments: Any) -> Any:
    global left
    left -= 1
    if left == 0:
        if point == "mid-transaction":
            self.flush()  # the broker has the records of an open transaction
        sys.stderr.write(f"fault at {point}\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.Signals[name])
    return original(self, *arguments)


setattr(owner, method, faulty)
sys.argv = ["forecaster", "run"]
main()
