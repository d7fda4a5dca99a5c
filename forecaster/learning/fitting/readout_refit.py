"""A new readout for the same body: solved from everything, published where it would not have done worse of late.

Hidden states belong to the body and stay; only the readout and the calibration of the intervals are new.

    begin ──── solve ──── chosen_ms ──── choose the ridge ──── judged_ms ──── champion's readout against new ──── end
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import Network
from forecaster.core.network.normal_equations import NormalEquations
from forecaster.core.series.state import ObservationConfig
from forecaster.formats.files import SeriesHistory
from forecaster.learning.data.batches import PaddedBatch, padded
from forecaster.learning.data.splits import LONGEST_SILENCE_MS
from forecaster.learning.fitting.local_readout_fit import solve_local_readouts
from forecaster.learning.fitting.readout_fit import best_ridge, calibrate, normal_equations
from forecaster.learning.fitting.train import SEEN_UNTIL, TrainingData, build_training_data

HELD_OUT = 0.15
"""Share of the time, at its end, that ridge and judgement rest on, and that the intervals are calibrated on."""
JUDGED = 0.075
"""Share of the time that the judgement takes at most: less where the champion's readout has seen a part of it."""
TOLERANCE = 0.02
"""A new readout may seem so much worse: a short stretch says little, and one solved from more is seldom worse in truth.

On air quality (of the UCI repository, re-solved each 168 hours) MASE is 1.749 with every new readout, and 1.756 with
those alone that seemed better.
"""
LEAST_TARGETS = 200
BATCH = 256


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A checkpoint with a new readout, and both errors on the newest stretch, which neither readout had seen."""

    checkpoint: Checkpoint
    error: float
    champion_error: float


def refresh_readout(history: SeriesHistory, observation: ObservationConfig, champion: Checkpoint) -> Refreshed | None:
    """Returns the champion with a readout solved from the history; None where that is worse, or too little is new.

    Args:
        history: all that is known.
        observation: what shapes the inputs.
        champion: whose body it is.

    Raises:
        UsageError: the history holds no finite features.
    """
    return refresh(build_training_data(history, observation, local=champion.local is not None), champion)


def refresh(data: TrainingData, champion: Checkpoint) -> Refreshed | None:
    """Returns the champion with a readout solved from the lessons, or None; see `refresh_readout`."""
    if not data.sequences:
        return None
    begin_ms, end_ms = int(data.history.timestamp_ms[0]), int(data.history.timestamp_ms[-1])
    judged_ms = max(end_ms + 1 - int(JUDGED * (end_ms - begin_ms)), _seen_ms(champion, end_ms) + 1)
    if judged_ms > end_ms:
        return None
    body = _Body(champion, data)
    early, chosen, judged = normal_equations(body.network, body.batches, [body.chosen_ms, judged_ms])
    ridge = best_ridge(champion.network, early, chosen)
    error = judged.squared_error(early.plus(chosen).solve(ridge))
    champion_error = judged.squared_error(champion.readout)
    if judged.count < LEAST_TARGETS or not error <= (1.0 + TOLERANCE) * champion_error:
        return None
    facts = {"error": error, "champion": champion.id, "champion_error": champion_error, "targets": judged.count}
    new = replace(body.solved([early, chosen, judged], ridge, facts), id=next_readout_id(champion.id))
    return Refreshed(new, error, champion_error)


def _seen_ms(champion: Checkpoint, end_ms: int) -> int:
    """Returns up to when the champion has learned; 0 where it says a time that only a wrong clock has told it."""
    seen_ms = int(champion.facts.get(SEEN_UNTIL, 0))
    return seen_ms if seen_ms <= end_ms + LONGEST_SILENCE_MS else 0


def resolved(data: TrainingData, champion: Checkpoint) -> Checkpoint:
    """Returns the champion as it would be had its readout been solved from these lessons and nothing else."""
    if not data.sequences:
        return champion
    body = _Body(champion, data)
    early, chosen = normal_equations(body.network, body.batches, [body.chosen_ms])
    return body.solved([early, chosen], best_ridge(champion.network, early, chosen), {})


def next_readout_id(checkpoint_id: str) -> str:
    """Returns `<body>.<n + 1>-<4 hex>`; a body's first readout has no n.

    After a rollback the same n comes again; the end of the id tells the two apart.
    """
    body, _, readout = checkpoint_id.partition(".")
    return f"{body}.{int(readout.partition('-')[0] or 0) + 1}-{secrets.token_hex(2)}"


class _Body:
    """The champion's network, and the lessons in batches of it."""

    def __init__(self, champion: Checkpoint, data: TrainingData) -> None:
        self.network = Network(champion.network)
        self.network.load_state_dict(dict(champion.weights))
        self.network.requires_grad_(requires_grad=False)
        self.batches: list[PaddedBatch] = padded(data.sequences, champion.network, BATCH)
        begin_ms, self._end_ms = int(data.history.timestamp_ms[0]), int(data.history.timestamp_ms[-1])
        self.chosen_ms = self._end_ms + 1 - int(HELD_OUT * (self._end_ms - begin_ms))
        self._champion, self._members = champion, data.members

    def solved(self, parts: Sequence[NormalEquations], ridge: Tensor, facts: dict[str, object]) -> Checkpoint:
        """Returns the champion with the readout of all parts, calibrated on what the first one does not hold."""
        calibrate(self.network, self.batches, parts[0].solve(ridge), self.chosen_ms)
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.plus(part)
        weights = {name: weight.clone() for name, weight in self.network.state_dict().items()}
        local = solve_local_readouts(self.network, self.batches, self._members, self.chosen_ms)
        known = {**self._champion.facts, SEEN_UNTIL: self._end_ms, "readout": facts}
        return replace(self._champion, weights=weights, readout=whole.solve(ridge), facts=known, local=local)
