"""Refits: a new readout for the champion's body, which is accepted unless it is worse on the newest readings.

Hidden states belong to the body and stay; only the readout and the calibration of the quantiles are new.

    begin ──── fit ──── ridge_ms ──── choose the ridge ──── compare_ms ──── compare with the champion ──── end
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import Network
from forecaster.core.network.normal_equations import NormalEquations
from forecaster.formats.checkpoints import SEEN_UNTIL
from forecaster.learning.data.batches import PaddedBatch, padded_batches
from forecaster.learning.data.splits import MAX_SILENCE_MS
from forecaster.learning.data.training_data import TrainingData
from forecaster.learning.fitting.local_readout_fit import solve_local_readouts
from forecaster.learning.fitting.readout_fit import build_normal_equations, calibrate_quantiles, choose_ridge

HELD_OUT = 0.15
"""Share of the time, at its end, that chooses the ridge, compares the readouts and calibrates the quantiles."""
COMPARED = 0.075
"""Share of the time, at its end, that compares the readouts; less if the champion's readout has seen a part of it."""
TOLERANCE = 0.02
"""A new readout may be worse by this share: the comparison is short, and more data seldom makes a readout worse.

On the air-quality set of the UCI repository, with a new readout each 168 hours, MASE is 1.749 if every new readout is
accepted, and 1.756 if only those that seem better are accepted.
"""
MIN_TARGETS = 200
"""Number of compared targets below which the champion's readout stays."""
BATCH = 256
"""Sequences that are computed at a time."""


@dataclass(frozen=True, slots=True)
class ReadoutRefit:
    """Result of a refit, and the errors of both readouts on the newest readings, which neither of them had seen.

    Attributes:
        checkpoint: champion with the new readout, and an id of its own; None = the champion's readout stays.
        reason: explanation for people.
        error: mean squared error of the new readout; NaN = not compared.
        champion_error: mean squared error of the champion's readout; NaN = not compared.
        targets: number of compared targets.
    """

    checkpoint: Checkpoint | None
    reason: str
    error: float = math.nan
    champion_error: float = math.nan
    targets: int = 0


def refit_readout(data: TrainingData, champion: Checkpoint) -> ReadoutRefit:
    """Return the champion with a readout fitted to the data, or the reason why its own readout stays.

    It stays if the mean squared error of the new readout is not finite, or larger by more than `TOLERANCE`, or if fewer
    than `MIN_TARGETS` targets are newer than those that the champion's readout has seen.

    Args:
        data: all readings up to now.
        champion: checkpoint that serves.

    Raises:
        UsageError: the data holds no finite features.
    """
    if not data.sequences:
        return ReadoutRefit(None, "no series has two readings in a row")
    begin_ms, end_ms = int(data.history.timestamp_ms[0]), int(data.history.timestamp_ms[-1])
    compare_ms = max(end_ms + 1 - int(COMPARED * (end_ms - begin_ms)), _seen_until_ms(champion, end_ms) + 1)
    if compare_ms > end_ms:
        return ReadoutRefit(None, "no reading is newer than those that the champion's readout has seen")
    body = _FrozenBody(champion, data)
    fitting, choosing, comparing = build_normal_equations(body.network, body.batches, [body.ridge_ms, compare_ms])
    ridge = choose_ridge(champion.network, fitting, choosing)
    error = comparing.squared_error(fitting.plus(choosing).solve(ridge))
    champion_error, targets = comparing.squared_error(champion.readout), comparing.count
    if targets < MIN_TARGETS:
        reason = f"only {targets} targets could be compared; {MIN_TARGETS} are needed"
        return ReadoutRefit(None, reason, error, champion_error, targets)
    reason = f"squared error on the newest readings: {error:.5g}, {champion_error:.5g} before"
    if not error <= (1.0 + TOLERANCE) * champion_error:
        return ReadoutRefit(None, f"{reason}: worse by more than {TOLERANCE:.0%}", error, champion_error, targets)
    facts = {"error": error, "champion": champion.id, "champion_error": champion_error, "targets": targets}
    checkpoint = body.with_readout([fitting, choosing, comparing], ridge, facts)
    checkpoint = replace(checkpoint, id=next_readout_id(champion.id))
    return ReadoutRefit(checkpoint, reason, error, champion_error, targets)


def _seen_until_ms(champion: Checkpoint, end_ms: int) -> int:
    """Return up to when the champion has learned; 0 if it names a time that only a wrong clock can have stamped."""
    seen_ms = int(champion.facts.get(SEEN_UNTIL, 0))
    return seen_ms if seen_ms <= end_ms + MAX_SILENCE_MS else 0


def with_refitted_readout(data: TrainingData, champion: Checkpoint) -> Checkpoint:
    """Return the champion with a readout that is fitted to this data alone, and is not compared; its id stays."""
    if not data.sequences:
        return champion
    body = _FrozenBody(champion, data)
    fitting, choosing = build_normal_equations(body.network, body.batches, [body.ridge_ms])
    return body.with_readout([fitting, choosing], choose_ridge(champion.network, fitting, choosing), {})


def next_readout_id(checkpoint_id: str) -> str:
    """Return `<body>.<n + 1>-<4 hex digits>`; the id of a body's first readout has no n.

    After a rollback the same n comes again; the digits tell the two readouts apart.
    """
    body, _, readout = checkpoint_id.partition(".")
    number = readout.partition("-")[0]
    next_number = int(number) + 1 if re.fullmatch("[0-9]{1,9}", number) else 1  # an operator may choose any id
    return f"{body}.{next_number}-{secrets.token_hex(2)}"


class _FrozenBody:
    """The champion's network, and the data in batches for it.

    Attributes:
        network: network of the champion, without gradients.
        batches: all sequences.
        ridge_ms: first time whose targets choose the ridge and calibrate the quantiles, epoch ms.
    """

    def __init__(self, champion: Checkpoint, data: TrainingData) -> None:
        self.network = Network(champion.network)
        self.network.load_state_dict(dict(champion.weights))
        self.network.requires_grad_(requires_grad=False)
        self.batches: list[PaddedBatch] = padded_batches(data.sequences, champion.network, BATCH)
        begin_ms, self._end_ms = int(data.history.timestamp_ms[0]), int(data.history.timestamp_ms[-1])
        self.ridge_ms = self._end_ms + 1 - int(HELD_OUT * (self._end_ms - begin_ms))
        self._champion, self._groups = champion, data.groups

    def with_readout(self, parts: Sequence[NormalEquations], ridge: Tensor, facts: dict[str, object]) -> Checkpoint:
        """Return the champion with the readout of all parts; the readout of the first part calibrates the quantiles."""
        calibrate_quantiles(self.network, self.batches, parts[0].solve(ridge), self.ridge_ms)
        total = parts[0]
        for part in parts[1:]:
            total = total.plus(part)
        weights = {name: weight.clone() for name, weight in self.network.state_dict().items()}
        local = solve_local_readouts(self.network, self.batches, self._groups, self.ridge_ms)
        all_facts = {**self._champion.facts, SEEN_UNTIL: self._end_ms, "readout": facts}
        return replace(self._champion, weights=weights, readout=total.solve(ridge), facts=all_facts, local=local)
