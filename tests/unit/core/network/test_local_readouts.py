"""Local readouts are exact, shrink half-way towards the fleet, and depend on no other row of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from forecaster.core.network.features import MEMBER_FEATURES, cross_inputs
from forecaster.core.network.local_readouts import LocalNormalEquations, LocalReadouts, bands
from forecaster.core.series.step_inputs import StepInputs

HORIZONS = (1, 2, 3, 7, 8)


def filled(rows: int = 60, series: int = 3) -> tuple[LocalNormalEquations, list[tuple[Tensor, Tensor, Tensor]]]:
    """Return the equations of some series, and the rows of each: features, targets, weights."""
    torch.manual_seed(0)
    equations = LocalNormalEquations(series, 4, HORIZONS)
    x, y = torch.randn(series, rows, 4), torch.randn(series, rows, len(HORIZONS))
    weight = torch.rand(series, rows) + 0.5
    y[:, -7:, 3:] = torch.nan  # targets at longer horizons are not known yet
    for begin in range(0, rows, 25):
        part = slice(begin, begin + 25)
        names = torch.arange(series).unsqueeze(1).expand(series, x[:, part].shape[1])
        equations.add(names.reshape(-1), x[:, part].flatten(0, 1), y[:, part].flatten(0, 1), weight[:, part].flatten())
    return equations, [(x[number], y[number], weight[number]) for number in range(series)]


def test_horizons_are_divided_into_bands() -> None:
    assert bands(range(1, 49)) == [slice(0, 1), slice(1, 6), slice(6, 24), slice(24, 48)]
    assert bands(HORIZONS) == [slice(0, 1), slice(1, 3), slice(3, 5)]
    assert bands((24,)) == [slice(0, 1)]
    assert bands((1_024,)) == [slice(0, 1)]


def test_the_cross_readout_is_a_ridge_regression_of_one_series() -> None:
    equations, rows = filled()
    weights = equations.cross(torch.full((4,), 2.0))
    for number, (x, y, weight) in enumerate(rows):
        for column in range(len(HORIZONS)):
            known = ~y[:, column].isnan()
            a = (x[known] * weight[known, None]).double().T @ x[known].double() + 2.0 * torch.eye(4)
            b = (x[known] * weight[known, None]).double().T @ y[known, column].double()
            torch.testing.assert_close(weights[number, :, column], torch.linalg.solve(a, b))


def test_the_pooled_readout_averages_the_series_and_the_fleet() -> None:
    """Half of its normal equations are the series' own, half are the mean over the fleet."""
    equations, _ = filled()
    weights = equations.pooled(torch.full((3,), 2.0))
    a, b = equations.a[:, :, :3, :3], equations.b[:, :3]
    for number in range(3):
        half = 0.5 * (a[number, 0] + a[:, 0].mean(dim=0)) + 2.0 * torch.eye(3)
        torch.testing.assert_close(
            weights[number, :, 0], torch.linalg.solve(half, 0.5 * (b[number, :, 0] + b[:, :, 0].mean(dim=0)))
        )


def test_the_error_is_the_sum_over_the_rows() -> None:
    equations, rows = filled()
    weights = torch.randn(3, 4, len(HORIZONS))
    total = 0.0
    for number, (x, y, weight) in enumerate(rows):
        known = ~y.isnan()
        squared = torch.where(known, (y - x @ weights[number]).square() - y.square(), 0.0)
        total += float((weight.unsqueeze(1) * squared).sum())
    assert equations.error(weights) == pytest.approx(total, rel=1e-4)


def test_local_forecasts_are_the_same_bits_in_any_batch() -> None:
    """Series without local readouts have NaN."""
    torch.manual_seed(1)
    readouts = LocalReadouts(tuple("abcde"), np.zeros(5, np.int64), 1, torch.randn(5, 48, 101))
    x, local = torch.randn(200, 101), np.random.default_rng(2).integers(-1, 5, 200)
    together = readouts.forecast(x, local)
    for row in range(200):
        np.testing.assert_array_equal(readouts.forecast(x[row : row + 1], local[row : row + 1])[0], together[row])
    assert (np.isnan(together).all(axis=1) == (local < 0)).all()


def test_cross_inputs_hold_the_other_series_in_their_places() -> None:
    context = np.array([[5, 4, 3, 2], [10, 8, 6, 4], [1, 1, 1, 1]], np.float32)
    nothing = np.zeros(3, np.float32)
    inputs = StepInputs(
        context=context,
        last=context[:, 0],
        scale=np.array([1, 2, 0], np.float32),
        levels=np.repeat(context[:, :1] + 1.0, 3, axis=1),
        calendar=nothing,
        masked=nothing,
        gap=nothing,
        group=None,
    )
    seen = cross_inputs(inputs, np.array([0, 0, 1]), np.array([1, 0, 0]), 3).reshape(3, 3, MEMBER_FEATURES)
    np.testing.assert_allclose(seen[0, 0], [-1.0, -2.0, -3.0, 0.5])
    np.testing.assert_allclose(seen[1, 1], [-1.0, -2.0, -3.0, 1.0])
    assert not seen[0, 1:].any()
    assert not seen[2].any(), "alone in its record, and it has never varied"
    assert cross_inputs(inputs, np.array([0, 0, 1]), np.array([1, 0, 0]), 1).shape == (3, 0)
