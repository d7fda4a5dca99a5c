"""A training coordinator among fakes, and a champion."""

from __future__ import annotations

from pathlib import Path

import pytest
from coordinators import World
from trainings import NETWORK, OBSERVATION, seasonal_history

from forecaster.core.network.model import Checkpoint
from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.train import train_checkpoint
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


@pytest.fixture(scope="session")
def champion() -> Checkpoint:
    """A checkpoint trained on the first 400 hours."""
    return train_checkpoint(seasonal_history().first(800), OBSERVATION, NETWORK, TrainingConfig(passes=6, dropout=0.1))
