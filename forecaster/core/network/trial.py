"""A trial of a checkpoint before it may serve: finite weights, and a network that does not overflow on extreme inputs.

Nearly all inputs of a network are clipped, so that a few rows at the limits show what the weights can do. They prove
nothing about a body whose state can grow for ever (`relu`): `Model.forecast` therefore watches every step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from forecaster.core.network.features import READOUT_LAG_CLIP, assemble, to_tensors
from forecaster.core.network.model import LOCAL, TILE, Checkpoint
from forecaster.core.network.network import Network, empty_network, unclipped_centre
from forecaster.core.series.scaling import LEVELS
from forecaster.core.series.step_inputs import GROUP_CLIP, GROUP_FEATURES, StepInputs, calendar
from forecaster.errors import CheckpointError

STEPS = 4
"""Number of steps of the trial, each from the state of the one before."""
FAR = 1e30
"""Distance of some of the values from the last one, in scales: far beyond all clips."""
_WEEK_MS = 7 * 86_400_000


def refuse_untrustworthy(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if a weight is not finite, or the network overflows in the trial.

    Weights of local readouts may be NaN: those of a series whose equations have no solution make no forecast.
    """
    for name, array in checkpoint.to_arrays().items():
        values = array if name != LOCAL else array[~np.isnan(array)]
        if not np.isfinite(values).all():
            raise CheckpointError(f"the weights {name!r} hold numbers that are not finite: train it again")
    network = empty_network(checkpoint.network)
    network.load_state_dict(dict(checkpoint.weights), assign=True)
    with torch.inference_mode():
        if not _stays_finite(network, checkpoint.readout):
            raise CheckpointError("the network overflows: its forecasts are not finite for ordinary inputs")


def _stays_finite(network: Network, readout: Tensor) -> bool:
    """Return whether states, features and forecasts are finite after every step of the trial."""
    features = network.config.features
    u, q = assemble(features, to_tensors(_extreme_inputs(features.context)))
    state = u.new_zeros(TILE, network.state_size)
    for _ in range(STEPS):
        z, state = network.step(u, state)
        results = [z, state, network.offsets(z), unclipped_centre(network.base(z), readout, q, z)]
        if not all(torch.isfinite(result).all() for result in results):
            return False
    return True


def _extreme_inputs(context: int) -> StepInputs:
    """Return the inputs of a tile of rows: ordinary ones, some without a past, and many at their limits."""
    rng = np.random.default_rng(0)
    past = rng.normal(size=(TILE, context)).cumsum(axis=1)
    signs = rng.choice([-1.0, 1.0], size=(TILE, context))
    past[8:24] = signs[8:24] * READOUT_LAG_CLIP
    past[24:] = signs[24:] * FAR
    past[24:32], past[32:40] = FAR, -FAR
    past[:2, 1:] = np.nan
    past[:, 0] = 0.0
    levels = rng.choice([-1.0, 0.0, 1.0], size=(TILE, LEVELS)) * np.where(np.arange(TILE) < 24, 1.0, FAR)[:, None]
    return StepInputs(
        context=past.astype(np.float32),
        last=np.zeros(TILE, np.float32),
        scale=(np.arange(TILE) > 0).astype(np.float32),
        levels=levels.astype(np.float32),
        calendar=calendar(rng.integers(0, _WEEK_MS, TILE)),
        masked=(np.arange(TILE) % 3 == 0).astype(np.float32),
        gap=rng.choice([0.0, 0.5, 1.0], size=TILE).astype(np.float32),
        group=(rng.choice([-1.0, 0.0, 1.0], size=(TILE, GROUP_FEATURES)) * GROUP_CLIP).astype(np.float32),
    )
