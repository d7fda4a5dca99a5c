"""Checkpoints, and the model that forecasts from one: a row's forecasts are the same, bit by bit, in any batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from forecaster.core.checkpoint_ids import body_code
from forecaster.core.network.features import MEMBER_FEATURES, assemble, assemble_step, cross_inputs, to_tensors
from forecaster.core.network.local_readouts import GroupPlaces, LocalReadouts
from forecaster.core.network.network import FORECAST_CLIP, Network, NetworkConfig, centre, empty_network
from forecaster.core.series.step_inputs import StepInputs
from forecaster.errors import CheckpointError
from forecaster.records import F32, I64, Bools

TILE = 64
"""Rows of every matrix product: with another number, a row may be rounded differently. Waves are padded to tiles."""
COLUMNS = 16
"""Columns of the readout are padded to a multiple: in narrow products the rounding may depend on the row's place."""
BODY, READOUT, LOCAL = "body.", "readout", "own"
"""Names of weights in stored checkpoints: the prefix of those of the body, the shared readout, the local readouts."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained body and its readouts, with everything needed to use them.

    Attributes:
        id: name in every forecast; see `checkpoint_ids.body_of`.
        network: shape of the body.
        weights: weights of the body by name.
        readout: shared readout; (P + Z, J).
        facts: notes about the training, for people.
        local: readouts of single series; None = there are none.
    """

    id: str
    network: NetworkConfig
    weights: Mapping[str, Tensor]
    readout: Tensor
    facts: Mapping[str, Any]
    local: LocalReadouts | None = None

    def to_arrays(self) -> dict[str, F32]:
        """Return all weights by their stored names, as contiguous arrays."""
        tensors = {BODY + name: weight for name, weight in self.weights.items()} | {READOUT: self.readout}
        if self.local is not None:
            tensors[LOCAL] = self.local.weights
        return {name: tensor.detach().contiguous().numpy() for name, tensor in tensors.items()}

    @classmethod
    def from_arrays(
        cls,
        checkpoint_id: str,
        network: NetworkConfig,
        arrays: Mapping[str, F32],
        facts: Mapping[str, Any],
        places: GroupPlaces | None = None,
    ) -> Checkpoint:
        """Return a checkpoint whose weights share the memory of the arrays.

        Args:
            checkpoint_id: name of the checkpoint.
            network: shape of the body.
            arrays: weights by stored name, as 32-bit numbers; see `to_arrays`; writable.
            facts: notes about the training.
            places: the series with readouts of their own; None = there are none.

        Raises:
            CheckpointError: the weights do not fit the network or the series.
        """
        refuse_other_shapes({name: array.shape for name, array in arrays.items()}, network, places)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        readout, weights = tensors.pop(READOUT), tensors.pop(LOCAL, None)
        local = None
        if places is not None and weights is not None:
            member = np.array(places.member, np.int64)
            local = LocalReadouts(tuple(places.series_ids), member, places.members, weights)
        body = {name.removeprefix(BODY): tensor for name, tensor in tensors.items()}
        return cls(checkpoint_id, network, body, readout, facts, local)


def stored_shapes(network: NetworkConfig, places: GroupPlaces | None) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a checkpoint by its stored name, without making any array.

    Args:
        network: shape of the body, whose sizes are within limits.
        places: the series with readouts of their own; None = there are none.

    Raises:
        CheckpointError: the places are no places in a group.
    """
    shapes = {**_body_shapes(network), READOUT: (network.readout_size, len(network.horizons))}
    if places is None:
        return shapes
    names, members = places.series_ids, places.members
    if len(places.member) != len(names) or not all(0 <= place < members for place in places.member):
        raise CheckpointError("the readouts of single series do not fit the network: train it again")
    cross = members * MEMBER_FEATURES if members > 1 else 0
    return shapes | {LOCAL: (len(names), 2 * len(network.horizons), network.readout_size + cross)}


@lru_cache(maxsize=16)
def _body_shapes(network: NetworkConfig) -> dict[str, tuple[int, ...]]:
    return {BODY + name: tuple(weight.shape) for name, weight in empty_network(network).state_dict().items()}


def refuse_other_shapes(
    shapes: Mapping[str, tuple[int, ...]], network: NetworkConfig, places: GroupPlaces | None
) -> None:
    """Raise CheckpointError if arrays have other names or shapes than those of a checkpoint.

    Args:
        shapes: shape of each array by its stored name.
        network: shape of the body, whose sizes are within limits.
        places: the series with readouts of their own; None = there are none.
    """
    expected = stored_shapes(network, places)
    if shapes.get(LOCAL) != expected.get(LOCAL):
        raise CheckpointError("the readouts of single series do not fit the network: train it again")
    for name in sorted({*expected, *shapes}):
        if shapes.get(name) != expected.get(name):
            raise CheckpointError(
                f"weights and network of the checkpoint do not fit each other: {name[:100]!r} has the shape "
                f"{shapes.get(name)}, and {expected.get(name)} is needed (None = no such weight): train it again"
            )


@dataclass(frozen=True, slots=True)
class StepForecast:
    """Forecasts of B series, as (forecast - last value) / scale.

    A row whose network overflows makes no forecast: its heads and offsets are NaN, and its state is zero.

    Attributes:
        state: hidden state after the step, finite; (B, S).
        heads: forecast of the shared readout, then of the pooled and the cross readout of the series, if the checkpoint
            has local readouts; NaN for series without them; (B, 1 or 3, J).
        offsets: quantiles minus the centre, ascending along Q; (B, Q, J).
    """

    state: F32
    heads: F32
    offsets: F32


@dataclass(frozen=True, slots=True)
class ReadoutIndex:
    """The series of B rows, for local readouts.

    Attributes:
        local: index of each row's series among those with local readouts; -1 = it has none; (B,).
        record: record that each row's reading came in, ascending; (B,).
    """

    local: I64
    record: I64


class Model:
    """The forecasts of one checkpoint. It holds weights, and no state of any series.

    Args:
        checkpoint: body and readouts.

    Attributes:
        id: id of the checkpoint.
        body_code: number by which rows name its body.
        config: shape of the network.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.id = checkpoint.id
        self.body_code = body_code(checkpoint.id)
        self.config = checkpoint.network
        self._network = Network(checkpoint.network)
        self._network.load_state_dict(dict(checkpoint.weights))
        self._network.requires_grad_(requires_grad=False)
        self._readout = _widened(checkpoint.readout)
        self._local = checkpoint.local
        self._series: dict[str, int] = {}
        self._member = np.array([-1])
        if self._local is not None:
            self._series = {name: index for index, name in enumerate(self._local.series_ids)}
            self._member = np.append(self._local.member, -1)  # the index -1 of an unknown series finds the last one

    @property
    def has_local(self) -> bool:
        """True if some series have local readouts."""
        return self._local is not None

    @property
    def state_size(self) -> int:
        """S, the columns of a series' hidden state."""
        return self._network.state_size

    def readout_index(self, series_ids: Sequence[str]) -> I64:
        """Return the index of each series among those with local readouts; -1 = it has none; (N,)."""
        return np.array([self._series.get(name, -1) for name in series_ids], np.int64)

    def forecast(self, inputs: StepInputs, state: F32, index: ReadoutIndex | None = None) -> StepForecast:
        """Advance B series by one reading and forecast from there.

        Args:
            inputs: inputs of the step, numpy arrays; (B, ...).
            state: hidden state after the previous reading, not modified; (B, S).
            index: the series of the rows; None = only the shared readout forecasts.
        """
        batch, horizons = len(state), len(self.config.horizons)
        tiles = -(-batch // TILE)
        with torch.inference_mode():
            u, q = assemble(self.config.features, to_tensors(inputs))
            rows = [_padded(tensor, tiles * TILE) for tensor in (u, q, torch.from_numpy(state))]
            parts = [self._tile(*tile) for tile in zip(*(torch.split(tensor, TILE) for tensor in rows), strict=True)]
            end, z, base, shared, offsets = (torch.cat(part)[:batch] for part in zip(*parts, strict=True))
            heads = [shared[:, None, :horizons].numpy()]
            if index is not None and self._local is not None:
                cross = cross_inputs(inputs, index.record, self._member[index.local], self._local.members)
                x = torch.cat([q, z, torch.from_numpy(cross)], dim=1)
                local = self._local.forecast(x, index.local).reshape(batch, 2, horizons)
                heads.append(np.clip(base[:, None, :horizons].numpy() + local, -FORECAST_CLIP, FORECAST_CLIP))
        return _without_overflows(end.numpy(), np.concatenate(heads, axis=1), offsets.numpy())

    def warm(self, inputs: StepInputs, known: Bools) -> F32:
        """Return the hidden states of B series after T steps from zero, or zeros where they overflow; (B, S).

        Args:
            inputs: inputs of the steps, oldest first, numpy arrays; (T, B, ...).
            known: the valid steps; the others do not change the state; (T, B).
        """
        batch = known.shape[1]
        rows = -(-batch // TILE) * TILE
        with torch.inference_mode():
            u = assemble_step(self.config.features, to_tensors(inputs))
            order = torch.from_numpy(np.argsort(~known, axis=0, kind="stable"))
            u = u.gather(0, order.unsqueeze(-1).expand_as(u))  # the valid steps, then padding
            lengths = _padded(torch.from_numpy(known.sum(axis=0)).unsqueeze(1), rows)
            tiles = zip(torch.split(_padded(u.transpose(0, 1), rows), TILE), torch.split(lengths, TILE), strict=True)
            ends = [self._network.warm(tile.transpose(0, 1).contiguous(), count[:, 0]) for tile, count in tiles]
            warm: F32 = torch.cat(ends)[:batch].numpy()
        warm[~np.isfinite(warm).all(axis=1)] = 0.0
        return warm

    def _tile(self, u: Tensor, q: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return state, z, base, centre and offsets of one tile; base and centre have padded columns."""
        z, end = self._network.step(u, state)
        base = self._network.base(z)
        if isinstance(base, Tensor):
            base = functional.pad(base, (0, self._readout.shape[1] - base.shape[1]))
        else:
            base = z.new_full((len(z), self._readout.shape[1]), base)
        return end, z, base, centre(base, self._readout, q, z), self._network.offsets(z)


def _without_overflows(state: F32, heads: F32, offsets: F32) -> StepForecast:
    """Return the results of a step; rows with a number that is not finite make no forecast, and their state is zero.

    Args:
        state: hidden states, changed in place; (B, S).
        heads: forecasts of the readouts; NaN is allowed in all but the shared one; changed in place; (B, H, J).
        offsets: quantiles minus the centre, changed in place; (B, Q, J).
    """
    finite = (
        np.isfinite(state).all(axis=1) & np.isfinite(heads[:, 0]).all(axis=1) & np.isfinite(offsets).all(axis=(1, 2))
    )
    if not finite.all():
        state[~finite], heads[~finite], offsets[~finite] = 0.0, np.nan, np.nan
    return StepForecast(state, heads, offsets)


def _widened(readout: Tensor) -> Tensor:
    return functional.pad(readout, (0, -readout.shape[1] % COLUMNS)).contiguous()


def _padded(tensor: Tensor, rows: int) -> Tensor:
    padded = tensor.new_zeros(rows, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    return padded
