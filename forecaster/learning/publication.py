"""Publication of a run on the models topic: its decision, and the checkpoint that it promotes."""

from __future__ import annotations

from pathlib import Path

from forecaster.formats.checkpoints import read_checkpoint
from forecaster.formats.models import TRAINING, Decision, ServeOrder, decision_message, publication, serve_message
from forecaster.learning.kinds import RunKind
from forecaster.learning.run import RunResult
from forecaster.records import Message
from forecaster.registry.registry import ModelRegistry

BODIES_KEPT = 5
"""Number of newest bodies that stay on the models topic."""


def decision_of(result: RunResult, kind: RunKind, champion: str, at: str) -> Decision:
    """Return the decision that a run has come to.

    Args:
        result: result of the run; it names a checkpoint.
        kind: kind of the run.
        champion: id of the checkpoint that the challenger was compared with.
        at: present time, ISO 8601.
    """
    return Decision(
        checkpoint=result.checkpoint,
        champion=champion,
        promoted=result.promoted,
        challenger_loss=result.challenger_loss,
        champion_loss=result.champion_loss,
        scored=result.scored,
        reason=result.reason,
        at=at,
        work=kind.value,
    )


def decision_messages(decision: Decision, registry: ModelRegistry, folder: Path, superseded_ms: int) -> list[Message]:
    """Return the records of a decision, in the order in which they must be written.

    A promotion writes the checkpoint, the decision, the order to serve it, and tombstones of checkpoints that no longer
    need to be kept. A training answers the drift reports of the workers, so their tombstones come last.

    Args:
        decision: decision of the run.
        registry: content of the models topic.
        folder: folder that holds the checkpoint, in a folder named by its id.
        superseded_ms: time that a checkpoint stays on the topic after it has served.

    Raises:
        CheckpointError: the promoted checkpoint cannot be read.
    """
    answered = registry.drift_tombstones() if decision.work == TRAINING else []
    if not decision.promoted:
        return [decision_message(decision), *answered]
    checkpoint = read_checkpoint(folder / decision.checkpoint)
    serve = ServeOrder(decision.checkpoint, decision.champion, "trainer", decision.at, decision.reason)
    cleanup = registry.cleanup_tombstones(BODIES_KEPT, superseded_ms)
    return [*publication(checkpoint), decision_message(decision), serve_message(serve), *cleanup, *answered]
