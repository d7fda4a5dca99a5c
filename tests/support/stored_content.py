"""Mutations of the records of the state topic and of the models topic whose hashes are right."""

from __future__ import annotations

import hashlib
import json
import random
import resource
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

DOSE, FULL = 250, 10_000
"""Mutations that a test tries by default, and that its slow form tries."""
MAX_GROWTH_BYTES = 200 * 2**20
"""Memory that mutated records may take in addition to what right ones take."""
ABSURD_NUMBERS = (
    *(-1, 0, 1, 2, 7, 255, 30_001, -(2**31), 2**31, 2**53, 2**62, 2**63 - 1, -(2**63), 2**64 - 1),
    *(-0.5, 0.0, 1e-320, 1e30, -1e36, 1e300, float("inf"), float("-inf"), float("nan")),
)
ABSURD_TEXTS = (
    "",
    "none",
    "none.1",
    "a\nb",
    "\x00\x1b[2J",
    "../../etc",
    "é" * 2000,
    "float64",
    "object",
    "complex128",
    "<U8",
)
ABSURD_VALUES: tuple[Any, ...] = (
    *ABSURD_NUMBERS,
    *ABSURD_TEXTS,
    None,
    True,
    False,
    b"",
    b"\xff" * 64,
    [],
    {},
    [[]],
    {"a": {}},
)


class Mutator:
    """Changes decoded records at random places.

    Args:
        seed: the same seed makes the same changes.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def changed(self, body: Any, changes: int = 0) -> Any:
        """Return a deep copy of a decoded record with one change, or a few."""
        copy = msgspec.msgpack.decode(msgspec.msgpack.encode(body))
        for _ in range(changes or self.dice.choice([1, 1, 1, 2, 4])):
            copy = self._once(copy)
        return copy

    def damaged(self, content: bytes) -> bytes:
        """Return bytes with a cut, a repetition, or other bytes in some places."""
        dice = self.dice
        at = dice.randrange(len(content) + 1)
        change = dice.randrange(4)
        if change == 0:
            return content[:at]
        if change == 1:
            return content[:at] + dice.randbytes(dice.choice([1, 2, 8])) + content[at:]
        if change == 2:
            return content[:at] + content[at // 2 :]
        content = bytearray(content)
        for _ in range(dice.choice([1, 1, 3, 20])):
            content[dice.randrange(len(content))] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        return bytes(content)

    def nested(self, opening: bytes) -> bytes:
        """Return containers in containers, deeper than any decoder follows."""
        return opening * self.dice.choice([10, 100, 900, 100_000])

    def _once(self, body: Any) -> Any:
        places = list(_places(body))
        parent, key = self.dice.choice(places)
        old = parent[key]
        parent[key] = self._instead(old)
        if isinstance(parent, dict) and self.dice.random() < 0.1:
            parent[self.dice.choice(["extra", "", "hidden", key])] = parent.pop(key)
        if isinstance(parent, list) and self.dice.random() < 0.2:
            self.dice.choice([lambda: parent.pop(), lambda: parent.append(old), lambda: self.dice.shuffle(parent)])()
        return body

    def _instead(self, old: Any) -> Any:
        dice = self.dice
        if isinstance(old, bytes) and dice.random() < 0.8:
            return self._other_numbers(old)
        if type(old) is int and dice.random() < 0.7:
            whole = [number for number in ABSURD_NUMBERS if isinstance(number, int)]
            return min(max(dice.choice([old + 1, old - 1, -old, old * 1000, *whole]), -(2**63)), 2**64 - 1)
        if isinstance(old, list) and old and dice.random() < 0.5:
            return dice.choice([old[:-1], old + old, old[::-1], old * 50, [dice.choice(ABSURD_VALUES)] * len(old)])
        return dice.choice(ABSURD_VALUES)

    def _other_numbers(self, data: bytes) -> bytes:
        """Return an array's bytes with another number in some places."""
        dice = self.dice
        patterns = (
            b"\x00",
            b"\xff",
            b"\x00\x7c",
            b"\x00\x7e",
            b"\x00\x00\x80\x7f",
            b"\x00\x00\xc0\x7f",
            dice.randbytes(8),
        )
        patterns += (b"\x00\x00\x00\x00\x00\x00\xf0\x7f", b"\x00\x00\x00\x00\x00\x00\xf8\x7f", b"\x00" * 7 + b"\x80")
        pattern = dice.choice(patterns)
        if dice.random() < 0.3:
            return (pattern * (len(data) // len(pattern) + 1))[: len(data)]
        changed = bytearray(data)
        for _ in range(dice.choice([1, 1, 5])):
            at = dice.randrange(len(data) // 8 + 1) * 8
            changed[at : at + len(pattern)] = pattern[: max(0, len(data) - at)]
        return bytes(changed)


def _places(body: Any) -> Any:
    """Yield every (container, key) below a decoded record."""
    if isinstance(body, dict | list):
        keys: Sequence[Any] = list(body) if isinstance(body, dict) else range(len(body))
        for key in keys:
            yield body, key
            yield from _places(body[key])


def hashed(body: bytes) -> bytes:
    """Return a value of the state topic with the right hash."""
    return hashlib.blake2b(body, digest_size=16).digest() + body


def as_json(body: Any) -> bytes:
    """Return JSON, in which numbers that are not finite are written as other software would."""
    return json.dumps(
        body, default=lambda value: value.decode("latin-1") if isinstance(value, bytes) else repr(value)
    ).encode("utf-8", "surrogatepass")


def chosen(dice: random.Random, weighted: Sequence[tuple[int, Callable[[], Any]]]) -> Any:
    """Return the result of one of the functions, chosen by weight."""
    return dice.choices([function for _, function in weighted], [weight for weight, _ in weighted])[0]()


def peak_bytes() -> int:
    """Return the most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
