"""A checkpoint whose weights or forecasts are not finite never serves, and an overflow later on harms no row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import (
    Serving,
    growing_checkpoint,
    hourly,
    pipeline_config,
    random_checkpoint,
    readings,
    with_local_readouts,
)

from forecaster.core.arrays import arrays
from forecaster.core.network.model import Model
from forecaster.core.network.trial import refuse_untrustworthy
from forecaster.core.rewarm import rewarm
from forecaster.errors import CheckpointError
from forecaster.records import Outputs

CONFIG = pipeline_config()
NETWORKS: list[dict[str, object]] = [
    {"cell": "gru"},
    {"cell": "lstm", "layers": 2},
    {"cell": "rnn", "nonlinearity": "relu", "convolution": 3},
    {"cell": "gru", "decoder": "recurrent"},
    {"cell": "rnn", "carries_state": False},
]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_ordinary_networks_pass(network: dict[str, object]) -> None:
    refuse_untrustworthy(random_checkpoint(CONFIG, **network))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_single_weight_that_is_not_finite_is_refused(network: dict[str, object], value: float) -> None:
    checkpoint = random_checkpoint(CONFIG, **network)  # type: ignore[arg-type]
    for name in ("readout", *checkpoint.weights):
        changed = {**checkpoint.weights, "readout": checkpoint.readout}
        changed[name] = changed[name].clone()
        changed[name].view(-1)[-1] = value
        readout = changed.pop("readout")
        with pytest.raises(CheckpointError, match=f"{name}.* not finite"):
            refuse_untrustworthy(replace(checkpoint, weights=changed, readout=readout))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_finite_weights_that_overflow_inside_are_refused(network: dict[str, object]) -> None:
    checkpoint = random_checkpoint(CONFIG, **network)  # type: ignore[arg-type]
    huge = {name: weight * 1e30 for name, weight in checkpoint.weights.items()}
    with pytest.raises(CheckpointError, match="overflows"):
        refuse_untrustworthy(replace(checkpoint, weights=huge))


def test_local_readouts_without_a_solution_pass_but_infinite_ones_do_not() -> None:
    checkpoint = with_local_readouts(random_checkpoint(CONFIG), [["a", "b"]])
    assert checkpoint.local is not None
    checkpoint.local.weights[0] = torch.nan
    refuse_untrustworthy(checkpoint)
    checkpoint.local.weights[1, 0, 0] = torch.inf
    with pytest.raises(CheckpointError, match="own"):
        refuse_untrustworthy(checkpoint)


def rows_of(outputs: list[Outputs]) -> list[bytes]:
    return [
        point.tobytes() + quantiles.tobytes() + checkpoint.encode()
        for output in outputs
        for point, quantiles, checkpoint in zip(
            output.forecasts.point, output.forecasts.quantiles, output.forecasts.checkpoint, strict=True
        )
    ]


def test_a_reading_whose_network_overflows_is_forecast_without_it_in_any_batches() -> None:
    """The forecast names no checkpoint, no row ever holds a number that is not finite, and a replay does the same."""
    refuse_untrustworthy(growing_checkpoint(CONFIG))  # it passes the trial
    stream = readings([row for hour in range(40) for row in hourly([float(hour % 7)], "a", hour)])
    at_once, one_by_one = (Serving(CONFIG, Model(growing_checkpoint(CONFIG))) for _ in range(2))
    all_at_once = at_once.feed(stream)
    parts = [one_by_one.feed(stream.among(np.arange(40) == number)) for number in range(40)]
    assert rows_of([all_at_once]) == rows_of(parts)
    assert set(all_at_once.forecasts.checkpoint) == {"none", "random-0"}
    assert np.isfinite(all_at_once.forecasts.point).all()
    assert np.isfinite(all_at_once.forecasts.quantiles).all()
    for serving in (at_once, one_by_one):
        state = serving.partitions[0].table.state
        assert serving.state_config.shape.invalid(state) == ""
    states = [dict(arrays(serving.partitions[0].table.state)) for serving in (at_once, one_by_one)]
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])


def test_a_context_that_overflows_the_network_leaves_an_empty_hidden_state() -> None:
    serving = Serving(CONFIG, Model(random_checkpoint(CONFIG, seed=5)))
    serving.feed(readings(hourly([float(hour % 5) for hour in range(30)])))
    state = serving.partitions[0].table.state
    assert state.hidden.any()
    weights = {**growing_checkpoint(CONFIG).weights, "cells.0.weight_hidden": 1e5 * torch.eye(16)}
    model = Model(replace(growing_checkpoint(CONFIG), weights=weights))
    rewarm(model, state, np.arange(1))
    assert (state.body[0], state.hidden[0].tolist()) == (model.body_code, [0.0] * 16)
