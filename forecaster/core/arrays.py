"""Structs of arrays: dataclasses whose fields are arrays with one row a series, or such dataclasses again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from forecaster.records import I64

Struct = TypeVar("Struct")


def arrays(struct: Any, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each array with its dotted name, in the order of the fields."""
    for field in fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, np.ndarray):
            yield prefix + field.name, value
        else:
            yield from arrays(value, f"{prefix}{field.name}.")


def convert(struct: Struct, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Struct:
    """Return a struct of the same type with `function` applied to each array."""
    kind: Any = type(struct)
    values = (getattr(struct, field.name) for field in fields(kind))
    return kind(*(function(v) if isinstance(v, np.ndarray) else convert(v, function) for v in values))  # type: ignore[no-any-return]


def replaced(struct: Struct, values: Mapping[str, NDArray[Any]]) -> Struct:
    """Return a struct of the same type with copies of the arrays in `values`, which has one for each dotted name."""
    names = iter([name for name, _ in arrays(struct)])
    return convert(struct, lambda _: values[next(names)].copy())


def take(struct: Struct, rows: I64) -> Struct:
    """Return a copy of the given rows, in their order."""
    return convert(struct, lambda array: array.take(rows, axis=0))


def first(struct: Struct, count: int) -> Struct:
    """Return a view of the first `count` rows."""
    return convert(struct, lambda array: array[:count])


def put(struct: Any, rows: I64, source: Any) -> None:
    """Overwrite the given rows of `struct`, which are distinct, by the rows of `source`."""
    for (_, target), (_, values) in zip(arrays(struct), arrays(source), strict=True):
        target[rows] = values


def concatenate(structs: Sequence[Struct]) -> Struct:
    """Return the rows of all structs, one struct after the other; a single struct is returned itself."""
    if len(structs) == 1:
        return structs[0]
    columns = zip(*([array for _, array in arrays(struct)] for struct in structs), strict=True)
    joined = iter([np.concatenate(column) for column in columns])
    return convert(structs[0], lambda _: next(joined))


def bytes_per_row(struct: Any) -> int:
    """Return the memory of one row, in bytes."""
    return sum(array.itemsize * int(np.prod(array.shape[1:])) for _, array in arrays(struct))


def shift(ring: NDArray[Any], ticks: I64) -> None:
    """Move the columns of each row by `ticks` places to the right, in place; NaN enters from the left.

    Args:
        ring: values by tick, newest first; (B, W).
        ticks: at least 1; (B,).
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
