"""Structs of arrays: dataclasses whose fields are arrays with one row a series, or such dataclasses again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Struct = TypeVar("Struct")
Rows = NDArray[np.int64]


def arrays(struct: Any, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Yields each array with its dotted name, in the order of the fields."""
    for field in fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, np.ndarray):
            yield prefix + field.name, value
        else:
            yield from arrays(value, f"{prefix}{field.name}.")


def convert(struct: Struct, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Struct:
    """Returns a struct of the same shape whose arrays are `function` of these."""
    kind: Any = type(struct)
    values = (getattr(struct, field.name) for field in fields(kind))
    return kind(*(function(v) if isinstance(v, np.ndarray) else convert(v, function) for v in values))  # type: ignore[no-any-return]


def replaced(struct: Struct, values: Mapping[str, NDArray[Any]]) -> Struct:
    """Returns a struct of the same kind with a copy of the named array for each of its own."""
    names = iter([name for name, _ in arrays(struct)])
    return convert(struct, lambda _: values[next(names)].copy())


def take(struct: Struct, rows: Rows) -> Struct:
    """Returns a copy of the named rows, in that order."""
    return convert(struct, lambda array: array.take(rows, axis=0))


def first(struct: Struct, count: int) -> Struct:
    """Returns a view of the first `count` rows."""
    return convert(struct, lambda array: array[:count])


def put(struct: Any, rows: Rows, source: Any) -> None:
    """Makes the named rows of `struct` equal to the rows of `source`; `rows` are distinct."""
    for (_, target), (_, values) in zip(arrays(struct), arrays(source), strict=True):
        target[rows] = values


def concatenate(structs: Sequence[Struct]) -> Struct:
    """Returns the rows of all, one struct after the other; of a single one, itself."""
    if len(structs) == 1:
        return structs[0]
    columns = zip(*([array for _, array in arrays(struct)] for struct in structs), strict=True)
    joined = iter([np.concatenate(column) for column in columns])
    return convert(structs[0], lambda _: next(joined))


def bytes_per_row(struct: Any) -> int:
    """Returns what one row takes in memory."""
    return sum(array.itemsize * int(np.prod(array.shape[1:])) for _, array in arrays(struct))


def shift(ring: NDArray[Any], ticks: NDArray[np.int64]) -> None:
    """Makes column k of each row what was `ticks` columns before it; NaN enters from the left.

    Args:
        ring: newest first, changed in place; (B, W).
        ticks: by how much, at least 1; (B,).
    """
    uneven = np.flatnonzero(ticks != 1)
    moved = None
    if len(uneven):
        source = np.arange(ring.shape[1]) - ticks[uneven, None]
        moved = np.take_along_axis(ring[uneven], np.maximum(source, 0), axis=1)
        moved[source < 0] = np.nan
    ring[:, 1:] = ring[:, :-1]
    ring[:, 0] = np.nan
    if moved is not None:
        ring[uneven] = moved
