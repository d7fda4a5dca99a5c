"""Local readouts: two readouts for each single series, in addition to the shared one.

    (1) pooled: W_c = (½ A_c + ½ Ā + Λ)⁻¹ (½ B_c + ½ B̄)       A, B: normal equations of series c; Ā, B̄: means over all
    (2) cross:  W_c = (A_c + Λ)⁻¹ B_c                            over features of the whole group

(1) shrinks each series half-way towards the fleet; (2) also sees the other series of the group. Ridge regression: Hoerl
and Kennard, 1970. The horizons of a series share normal equations in bands, so that the memory does not grow with the
number of horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from forecaster.records import F32, I64

BANDS = (1, 6, 24, 48, 96, 192, 384, 768)
"""Horizons between neighbouring limits share normal equations: a row counts if the targets of all are known."""
MAX_BYTES = 512 * 1024**2
"""Local readouts are solved only for fleets whose normal equations fit in this memory."""


class GroupPlaces(NamedTuple):
    """C series, the place of each in its group, and the number of series of the largest group."""

    series_ids: Sequence[str]
    member: Sequence[int]
    members: int


@dataclass(frozen=True, slots=True, eq=False)
class LocalReadouts:
    """The local readouts of C series.

    Attributes:
        series_ids: the series; C.
        member: place of each series in its group; (C,).
        members: number of series of the largest group; 1 = no series sees another.
        weights: weights of both readouts, pooled first; X cross features; (C, 2 J, P + Z + X).
    """

    series_ids: tuple[str, ...]
    member: I64
    members: int
    weights: Tensor

    def forecast(self, x: Tensor, local: I64) -> F32:
        """Return the forecasts of both readouts, row by row, so that no row can depend on another.

        Args:
            x: features of readout, body and group; (B, P + Z + X).
            local: index of each row's series among the C; -1 = no local readouts; (B,).

        Returns:
            Forecasts minus the last value, in scales; NaN without local readouts; (B, 2 J).
        """
        forecasts = x.new_full((len(x), self.weights.shape[1]), torch.nan)
        for row, series in enumerate(local.tolist()):
            if series >= 0:
                torch.mv(self.weights[series], x[row], out=forecasts[row])
        values: F32 = forecasts.numpy()
        return values


def bands(horizons: Sequence[int]) -> list[slice]:
    """Return the slice of the horizons that each band covers; empty bands are left out."""
    ends = [int(np.searchsorted(horizons, limit, side="right")) for limit in BANDS] + [len(horizons)]
    begins = [0, *ends[:-1]]
    return [slice(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]


class LocalNormalEquations:
    """Normal equations of C series, each by bands of horizons.

    Args:
        series: number of series, C.
        features: number of features, K.
        horizons: ticks ahead, ascending; J.
    """

    def __init__(self, series: int, features: int, horizons: Sequence[int]) -> None:
        self._bands = bands(horizons)
        self.a = torch.zeros(series, len(self._bands), features, features, dtype=torch.float64)
        self.b = torch.zeros(series, features, len(horizons), dtype=torch.float64)

    @staticmethod
    def bytes_needed(series: int, features: int, horizons: Sequence[int]) -> int:
        """Return the memory that such equations take, in bytes."""
        return 8 * series * features * (features * len(bands(horizons)) + len(horizons))

    def add(self, series: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add rows to the sums.

        Args:
            series: series of each row, 0 .. C - 1; (N,).
            x: features; (N, K).
            y: targets; NaN where there is none; (N, J).
            weight: weight of each row; (N,).
        """
        known = ~torch.isnan(y)
        for series_index in sorted(set(series.tolist())):
            of_series = series == series_index
            for place, band in enumerate(self._bands):
                rows = of_series & known[:, band].all(dim=1)
                features = x[rows].double()
                weighted = features * weight[rows].double().unsqueeze(1)
                self.a[series_index, place] += weighted.T @ features
                self.b[series_index, :, band] += weighted.T @ y[rows, band].double()

    def plus(self, other: LocalNormalEquations) -> LocalNormalEquations:
        """Return the sums over the rows of both."""
        total = object.__new__(LocalNormalEquations)
        total._bands, total.a, total.b = self._bands, self.a + other.a, self.b + other.b
        return total

    def pooled(self, ridge: Tensor) -> Tensor:
        """Return (1) over the first len(ridge) features; NaN if it has no solution; (C, P + Z, J)."""
        size = len(ridge)
        a, b = self.a[:, :, :size, :size], self.b[:, :size]
        return self._solved(0.5 * (a + a.mean(dim=0)), 0.5 * (b + b.mean(dim=0)), ridge)

    def cross(self, ridge: Tensor) -> Tensor:
        """Return (2) over all features; NaN if it has no solution; (C, K, J)."""
        return self._solved(self.a, self.b, ridge)

    def error(self, weights: Tensor) -> float:
        """Return the sum of squared errors over all rows and series, minus that of a zero forecast.

        Args:
            weights: weights of the first features; (C, P + Z, J) or (C, K, J).
        """
        size, total = weights.shape[1], 0.0
        for band_index, band in enumerate(self._bands):
            w = weights[:, :, band].double()
            total += float((w * (self.a[:, band_index, :size, :size] @ w - 2.0 * self.b[:, :size, band])).sum())
        return total

    def _solved(self, a: Tensor, b: Tensor, ridge: Tensor) -> Tensor:
        solved = torch.empty_like(b)
        for band_index, band in enumerate(self._bands):
            factor, failed = torch.linalg.cholesky_ex(a[:, band_index] + torch.diag(ridge.double()))
            part = torch.cholesky_solve(b[:, :, band], factor)
            part[failed > 0] = torch.nan
            solved[:, :, band] = part
        return solved
