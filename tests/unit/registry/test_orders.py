"""An operator's order names a usable checkpoint; a rollback goes back to another body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from builders import pipeline_config, random_checkpoint

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.errors import CheckpointError
from forecaster.formats.models import ServeOrder, publication, serve_message
from forecaster.registry.orders import first_order, promotion_order, rollback_order
from forecaster.registry.registry import ModelRegistry

NOW = "2025-01-01T00:00:00+00:00"
CHECKPOINT = random_checkpoint(pipeline_config(), seed=0)
NETWORK = CHECKPOINT.network


def registry_of(published: Sequence[str], served: Sequence[str] = (), before: str = NO_CHECKPOINT) -> ModelRegistry:
    """Return a registry of checkpoints; those in `served` have served in this order, the first one after `before`."""
    registry = ModelRegistry()
    messages = [message for name in published for message in publication(replace(CHECKPOINT, id=name))]
    for name, previous in zip(served, (before, *served), strict=False):
        messages.append(serve_message(ServeOrder(name, previous, "trainer", NOW, "")))
    for message in messages:
        registry.add(message.key, message.value, 0)
    return registry


def test_a_promotion_replaces_the_champion() -> None:
    order = promotion_order(registry_of(["a", "b"], ["a"]), "b", NETWORK, NOW)
    assert order == ServeOrder("b", "a", "operator", NOW, "promoted by hand")


def test_a_promotion_of_the_champion_is_no_order() -> None:
    assert promotion_order(registry_of(["a"], ["a"]), "a", NETWORK, NOW) is None


def test_a_promotion_to_no_network_is_possible() -> None:
    order = promotion_order(registry_of(["a"], ["a"]), NO_CHECKPOINT, NETWORK, NOW)
    assert order is not None
    assert (order.checkpoint, order.previous) == (NO_CHECKPOINT, "a")


def test_a_checkpoint_that_is_unknown_or_does_not_fit_is_not_promoted() -> None:
    registry = registry_of(["a", "b"], ["a"])
    with pytest.raises(CheckpointError, match="checkpoint nobody: it is not on the topic"):
        promotion_order(registry, "nobody", NETWORK, NOW)
    with pytest.raises(CheckpointError, match="FORECASTER_FORECAST__HORIZON"):
        promotion_order(registry, "b", replace(NETWORK, horizons=(1, 99)), NOW)


def test_a_rollback_passes_over_readouts_of_the_same_body() -> None:
    order = rollback_order(registry_of(["a", "b", "b.1-0000"], ["a", "b", "b.1-0000"]), NETWORK, NOW)
    assert order == ServeOrder("a", "b.1-0000", "operator", NOW, "rolled back by hand")


def test_a_rollback_passes_over_bodies_that_are_gone() -> None:
    order = rollback_order(registry_of(["a", "c"], ["a", "b", "c"]), NETWORK, NOW)
    assert order.checkpoint == "a"


def test_a_rollback_without_another_body_returns_to_the_readout_before() -> None:
    registry = registry_of(["a", "a.1-0000"], ["a.1-0000"], before="a")
    assert rollback_order(registry, NETWORK, NOW).checkpoint == "a"


def test_a_rollback_needs_a_checkpoint_that_served_before() -> None:
    with pytest.raises(CheckpointError, match="there is nothing to go back to"):
        rollback_order(registry_of(["a"]), NETWORK, NOW)
    with pytest.raises(CheckpointError, match="checkpoint a: it is not on the topic"):
        rollback_order(registry_of(["b"], ["b"], before="a"), NETWORK, NOW)


def test_only_the_first_published_checkpoint_serves() -> None:
    assert first_order(registry_of(["a"]), "a", NOW) == ServeOrder(
        "a", NO_CHECKPOINT, "operator", NOW, "the first one that was published"
    )
    assert first_order(registry_of(["a", "b"], ["a"]), "b", NOW) is None
