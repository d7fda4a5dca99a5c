"""Ids that resemble a wrong one, by a comparison that is cheap however long the ids are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nlargest

COMPARED_CHARACTERS = 64
"""Characters at the beginning and at the end of an id that are compared; the middle of a longer id is not."""
MOST_PIECES = 16
"""Number of pieces of the wrong id that are looked for in every other id."""
LEAST_SHARE = 0.4
"""Share of the pieces that a similar id has at least."""


def similar_ids(wrong: str, names: Iterable[str], count: int) -> list[str]:
    """Return the ids that resemble a wrong one, the most similar first; upper and lower case count as equal.

    An id is the more similar, the more short pieces of the wrong id it contains; of two that contain equally many,
    the one whose length is nearer comes first.

    Args:
        wrong: the wrong id.
        names: ids to choose from; an empty one is skipped.
        count: number of ids to return at most.
    """
    pieces = _pieces(_compared(wrong))
    return [name for (share, _), name in nlargest(count, _scored(wrong, pieces, names)) if share >= LEAST_SHARE]


def _scored(wrong: str, pieces: list[str], names: Iterable[str]) -> Iterator[tuple[tuple[float, int], str]]:
    """Yield each id with the share of the pieces that it contains, and how near its length is."""
    for name in filter(None, names):
        text = _compared(name)
        yield (sum(piece in text for piece in pieces) / len(pieces), -abs(len(name) - len(wrong))), name


def _compared(name: str) -> str:
    """Return the part of an id that is compared, without upper case."""
    is_short = len(name) <= 2 * COMPARED_CHARACTERS
    return (name if is_short else name[:COMPARED_CHARACTERS] + name[-COMPARED_CHARACTERS:]).casefold()


def _pieces(text: str) -> list[str]:
    """Return pieces of two or three characters, evenly spread over the text; a short text is one piece."""
    size = 2 if len(text) <= 8 else 3
    begins = range(max(1, len(text) - size + 1))
    return [text[begin : begin + size] for begin in begins[:: -(-len(begins) // MOST_PIECES)]]
