"""Weights of checkpoints as bytes; their claims are checked before memory is allocated for them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from forecaster.core.network.local_readouts import GroupPlaces
from forecaster.core.network.model import refuse_other_shapes
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import CheckpointError
from forecaster.records import F32

LIMITS = {"hidden_size": (16, 1024), "layers": (1, 8), "convolution": (0, 64)}
"""Smallest and largest values of a network's shape, as in the settings."""
CONTEXT_LIMITS = (2, 4096)
MAX_HORIZON = 1024
MAX_LEVELS = 999
METADATA = "__metadata__"
"""Entry of the header that describes no array."""
_LENGTH_BYTES = 8


class _ArrayHeader(msgspec.Struct, frozen=True):
    """Entry of one array in the header of the format safetensors: its type, its shape, and its place in the data."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def refuse_absurd_network(network: NetworkConfig) -> None:
    """Raise CheckpointError for a network that the settings cannot ask for: nothing of its size must be allocated."""
    limits = {**LIMITS, "context": CONTEXT_LIMITS}
    for name, (low, high) in limits.items():
        value = network.features.context if name == "context" else getattr(network, name)
        if not low <= value <= high:
            raise CheckpointError(f"its network has {name} {value}: it must be between {low} and {high}")
    horizons, levels = network.horizons, network.quantile_levels
    if not _ascends(horizons) or horizons[0] < 1 or horizons[-1] > MAX_HORIZON:
        raise CheckpointError(f"its horizons do not ascend from 1 to at most {MAX_HORIZON}")
    if not _ascends(levels) or not 0.0 < levels[0] <= levels[-1] < 1.0 or len(levels) > MAX_LEVELS:
        raise CheckpointError(f"its quantile levels do not ascend between 0 and 1, at most {MAX_LEVELS} of them")


def read_weights(content: bytes, network: NetworkConfig, places: GroupPlaces | None) -> dict[str, F32]:
    """Return the arrays of weights in the format safetensors, as writable copies.

    Args:
        content: length of the header, header as JSON, data.
        network: shape of the body, which `refuse_absurd_network` has accepted.
        places: the series with local readouts; None = there are none.

    Raises:
        CheckpointError: the content is not in the format, or holds other arrays than 32-bit floats of that network.
    """
    headers, data = _headers(content)
    for name, header in headers.items():
        if header.dtype != "F32":
            raise CheckpointError(
                f"the weights {name!r:.100} are of type {header.dtype!r:.20}, and 32-bit floats are needed"
            )
    refuse_other_shapes({name: tuple(header.shape) for name, header in headers.items()}, network, places)
    arrays: dict[str, F32] = {}
    for name, header in headers.items():
        begin, end = header.data_offsets
        if not 0 <= begin <= end <= len(data) or end - begin != 4 * math.prod(header.shape):
            raise CheckpointError(f"the weights {name!r} are not where their header says")
        arrays[name] = np.frombuffer(data[begin:end], "<f4").reshape(header.shape).astype(np.float32)
    if sum(array.nbytes for array in arrays.values()) != len(data):
        raise CheckpointError("the weights hold other data than their header describes")
    return arrays


def _headers(content: bytes) -> tuple[dict[str, _ArrayHeader], memoryview]:
    """Return the header of each array by its name, and the data of all of them."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or length > len(content) - _LENGTH_BYTES:
        raise CheckpointError("the weights are not in the format safetensors: they end within their header")
    view = memoryview(content)
    try:
        body: dict[str, Any] = msgspec.json.decode(view[_LENGTH_BYTES : _LENGTH_BYTES + length], type=dict[str, Any])
        body.pop(METADATA, None)
        headers = msgspec.convert(body, dict[str, _ArrayHeader])
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise CheckpointError(f"the weights are not in the format safetensors: {error!s:.200}") from error
    return headers, view[_LENGTH_BYTES + length :]


def _ascends(numbers: tuple[float, ...]) -> bool:
    """Return whether there are numbers, each larger than the one before."""
    return bool(numbers) and all(before < after for before, after in pairwise(numbers))
