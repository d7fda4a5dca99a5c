"""Text of others, such as a series id, made safe to show on a terminal and in a log."""

from __future__ import annotations

import re

_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that JSON leaves as they are and that a terminal may obey: controls, and marks that reorder a line."""


def printable(text: str, keep: str = "") -> str:
    r"""Return the text with every character that is not printable as an escape, as `repr` writes it: \n, \x1b, \u202e.

    Args:
        text: any text.
        keep: characters that stay as they are although they are not printable.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


def printable_json(document: str) -> str:
    """Return an equal JSON document, indented or not, that holds no character that a terminal obeys."""
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", document)
