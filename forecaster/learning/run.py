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
from forecaster.formats.files import History
from forecaster.learning.fitting.challenge import challenge
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.readout_refit import refresh
from forecaster.learning.fitting.train import Lessons, observed
from forecaster.learning.schedule import Work
from forecaster.pipeline import PipelineConfig

FILE = "lesson.json"


class Lesson(msgspec.Struct, frozen=True):
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
class LessonConfig:
    """What is learned: what is forecast, from what, by which network, how it is trained."""

    pipeline: PipelineConfig
    network: NetworkConfig
    training: TrainingConfig


NOTHING = Lesson(
    checkpoint="",
    promoted=False,
    challenger_loss=None,
    champion_loss=None,
    scored=0,
    reason="no better readout on the newest stretch",
)


def learn(
    config: LessonConfig,
    work: Work,
    read: Callable[[], History],
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
    lessons = observed(read(), config.pipeline.observation, own=config.training.own)
    challenger, lesson = _trained(config, lessons, champion) if work == Work.TRAINING else _resolved(lessons, champion)
    folder.mkdir(parents=True)
    if challenger is not None:
        write_checkpoint(challenger, folder)
    (folder / FILE).write_bytes(msgspec.json.encode(lesson))


def read_lesson(folder: Path) -> Lesson:
    """Returns what a run has left in the folder; raises ForecasterError where that cannot be read."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Lesson)
    except (OSError, msgspec.DecodeError) as error:
        raise ForecasterError(f"{folder / FILE}: the trainer's child has left nothing readable: {error}") from error


def _trained(config: LessonConfig, lessons: Lessons, champion: Checkpoint | None) -> tuple[Checkpoint, Lesson]:
    made = challenge(lessons, config.pipeline, config.network, config.training, champion)
    verdict = made.verdict
    lesson = Lesson(
        checkpoint=made.challenger.id,
        promoted=verdict.promote,
        challenger_loss=_finite(verdict.challenger_loss),
        champion_loss=_finite(verdict.champion_loss),
        scored=verdict.scored,
        reason=verdict.reason,
    )
    return made.challenger, lesson


def _resolved(lessons: Lessons, champion: Checkpoint | None) -> tuple[Checkpoint | None, Lesson]:
    refreshed = None if champion is None else refresh(lessons, champion)
    if refreshed is None:
        return None, NOTHING
    facts = refreshed.checkpoint.facts["readout"]
    lesson = Lesson(
        checkpoint=refreshed.checkpoint.id,
        promoted=True,
        challenger_loss=_finite(refreshed.error),
        champion_loss=_finite(refreshed.champion_error),
        scored=int(facts["targets"]),
        reason=f"squared errors of the newest stretch: {refreshed.error:.5g}, {refreshed.champion_error:.5g} before",
    )
    return refreshed.checkpoint, lesson


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
