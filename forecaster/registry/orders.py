"""Orders of an operator: the checkpoint that is to serve after a promotion, a rollback or a publication by hand."""

from __future__ import annotations

from forecaster.core.checkpoint_ids import NO_CHECKPOINT, body_of
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import refuse_other_network
from forecaster.formats.models import ServeOrder
from forecaster.registry.registry import ModelRegistry


def promotion_order(registry: ModelRegistry, checkpoint_id: str, network: NetworkConfig, at: str) -> ServeOrder | None:
    """Return the order to serve a checkpoint; None if it serves already.

    Args:
        registry: content of the models topic.
        checkpoint_id: checkpoint to serve; `none` = no network.
        network: configuration that the settings ask for.
        at: present time, ISO 8601.

    Raises:
        CheckpointError: the registry does not hold the checkpoint, or its network does not fit.
    """
    champion = registry.serve.checkpoint if registry.serve else NO_CHECKPOINT
    refuse_unusable(registry, checkpoint_id, network)
    if champion == checkpoint_id:
        return None
    previous = serving_now(registry, network)
    previous = NO_CHECKPOINT if previous == checkpoint_id else previous
    return ServeOrder(checkpoint_id, previous, "operator", at, "promoted by hand")


def rollback_order(registry: ModelRegistry, network: NetworkConfig, at: str) -> ServeOrder:
    """Return the order to serve the last checkpoint that served with another body.

    Another readout of a bad body would be bad, too. If the registry knows no usable checkpoint with another body, the
    order names the checkpoint that served before.

    Args:
        registry: content of the models topic.
        network: configuration that the settings ask for.
        at: present time, ISO 8601.

    Raises:
        CheckpointError: no checkpoint served before, or it is not usable.
    """
    if registry.serve is None:
        raise CheckpointError("no checkpoint was ever promoted: there is nothing to go back to")
    champion = registry.serve.checkpoint
    others = (name for name in registry.superseded if body_of(name) != body_of(champion))
    target = next((name for name in others if _is_usable(registry, name, network)), registry.serve.previous)
    refuse_unusable(registry, target, network)
    return ServeOrder(target, champion, "operator", at, "rolled back by hand")


def serving_now(registry: ModelRegistry, network: NetworkConfig) -> str:
    """Return the checkpoint that workers serve now: the ordered one, the one before it, or `none`, the first usable."""
    named = () if registry.serve is None else (registry.serve.checkpoint, registry.serve.previous)
    return next((name for name in named if _is_usable(registry, name, network)), NO_CHECKPOINT)


def first_order(registry: ModelRegistry, checkpoint_id: str, at: str) -> ServeOrder | None:
    """Return the order to serve a newly published checkpoint, if no checkpoint has served before, else None."""
    if registry.serve is not None:
        return None
    return ServeOrder(checkpoint_id, NO_CHECKPOINT, "operator", at, "the first one that was published")


def refuse_unusable(registry: ModelRegistry, checkpoint_id: str, network: NetworkConfig) -> None:
    """Raise CheckpointError if the registry does not hold the checkpoint, or its network is not the given one."""
    if checkpoint_id == NO_CHECKPOINT:
        return
    published = registry.published(checkpoint_id)
    if published is None:
        raise unknown_checkpoint(registry, checkpoint_id)
    refuse_other_network(published.description.network, network, f"checkpoint {checkpoint_id}")


def unknown_checkpoint(registry: ModelRegistry, checkpoint_id: str) -> CheckpointError:
    """Return the error for a checkpoint that the registry does not hold."""
    reason = registry.why_unavailable(checkpoint_id)
    return CheckpointError(f"checkpoint {checkpoint_id}: {reason}; `forecaster models list` shows the checkpoints")


def _is_usable(registry: ModelRegistry, checkpoint_id: str, network: NetworkConfig) -> bool:
    try:
        refuse_unusable(registry, checkpoint_id, network)
    except CheckpointError:
        return False
    return True
