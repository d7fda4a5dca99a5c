"""A learner in a world of plain objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from coordinators import World

from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.learning.schedule import RunKind


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def leading(world: World) -> TrainingCoordinator:
    """A learner whose first training is under way."""
    world.opened, world.readings = [0], 100
    coordinator = world.coordinator()
    coordinator.iterate()
    assert [child.work for child in world.children] == [RunKind.TRAINING]
    return coordinator
