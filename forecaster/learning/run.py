"""One run of the trainer, in the child process: from the history and the champion to files that say what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import ForecasterError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.files import SeriesHistory
from forecaster.learning.fitting.challenge import challenge
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.readout_refit import refresh
from forecaster.learning.fitting.train import TrainingData, build_training_data
from forecaster.learning.schedule import RunKind
from forecaster.pipeline import PipelineConfig

FILE = "result.json"


class RunResult(msgspec.Struct, frozen=True):
    """What came of a run.

    Attributes:
        checkpoint: id of the challenger, whose folder lies beside it; empty = there is none.
        promoted: it is to serve.
        challenger_loss: on the stretch that decides; None = not known.
        champion_loss: on the same.
        scored: so many forecasts, or targets of a readout, were compared.
        reason: for people.
    """

    checkpoint: str
    promoted: bool
    challenger_loss: float | None
    champion_loss: float | None
    scored: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What is learned: what is forecast, from what, by which network, how it is trained."""

    pipeline: PipelineConfig
    network: NetworkConfig
    training: TrainingConfig


NOTHING = RunResult(
    checkpoint="",
    promoted=False,
    challenger_loss=None,
    champion_loss=None,
    scored=0,
    reason="no better readout on the newest stretch",
)


def run_training(
    config: RunConfig,
    work: RunKind,
    read: Callable[[], SeriesHistory],
    champion: Checkpoint | None,
    folder: Path,
) -> None:
    """What came of the run lies in the folder, the challenger beside it.

    Args:
        config: what is learned.
        work: a new body, or a new readout of the champion's.
        read: gives the history.
        champion: what serves; None = before any training.
        folder: made here.

    Raises:
        UsageError: the history holds nothing to learn from.
    """
    data = build_training_data(read(), config.pipeline.observation, local=config.training.local)
    challenger, result = _trained(config, data, champion) if work == RunKind.TRAINING else _resolved(data, champion)
    folder.mkdir(parents=True)
    if challenger is not None:
        write_checkpoint(challenger, folder)
    (folder / FILE).write_bytes(msgspec.json.encode(result))


def read_result(folder: Path) -> RunResult:
    """Returns what a run has left in the folder; raises ForecasterError where that cannot be read."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=RunResult)
    except (OSError, msgspec.DecodeError) as error:
        raise ForecasterError(f"{folder / FILE}: the trainer's child has left nothing readable: {error}") from error


def _trained(config: RunConfig, data: TrainingData, champion: Checkpoint | None) -> tuple[Checkpoint, RunResult]:
    made = challenge(data, config.pipeline, config.network, config.training, champion)
    verdict = made.verdict
    result = RunResult(
        checkpoint=made.challenger.id,
        promoted=verdict.promote,
        challenger_loss=_finite(verdict.challenger_loss),
        champion_loss=_finite(verdict.champion_loss),
        scored=verdict.scored,
        reason=verdict.reason,
    )
    return made.challenger, result


def _resolved(data: TrainingData, champion: Checkpoint | None) -> tuple[Checkpoint | None, RunResult]:
    refreshed = None if champion is None else refresh(data, champion)
    if refreshed is None:
        return None, NOTHING
    facts = refreshed.checkpoint.facts["readout"]
    result = RunResult(
        checkpoint=refreshed.checkpoint.id,
        promoted=True,
        challenger_loss=_finite(refreshed.error),
        champion_loss=_finite(refreshed.champion_error),
        scored=int(facts["targets"]),
        reason=f"squared errors of the newest stretch: {refreshed.error:.5g}, {refreshed.champion_error:.5g} before",
    )
    return refreshed.checkpoint, result


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
