"""A learner in a world of plain objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from learners import World

from forecaster.learning.coordinator import Learner
from forecaster.learning.schedule import Work


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def leading(world: World) -> Learner:
    """A learner whose first training is under way."""
    world.opened, world.readings = [0], 100
    learner = world.learner()
    learner.iterate()
    assert [child.work for child in world.children] == [Work.TRAINING]
    return learner
