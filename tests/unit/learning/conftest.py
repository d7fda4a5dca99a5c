"""A training coordinator among fakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from coordinators import World

from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.learning.kinds import RunKind


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def leading(world: World) -> TrainingCoordinator:
    """An elected coordinator whose first training is under way."""
    world.assigned, world.readings = [0], 100
    coordinator = world.coordinator()
    coordinator.iterate()
    assert [child.kind for child in world.children] == [RunKind.TRAINING]
    return coordinator
