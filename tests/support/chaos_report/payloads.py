"""Records that no producer should send: random bytes, mutations of good records, and records that are nearly right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from builders import HOUR_MS, START_MS, pipeline_config, random_model
from fakes import INPUT, FakeClient, FakeKafka
from setups import setup

from chaos_report.readings import Record
from chaos_report.table import Row
from forecaster.serving.dead_letter_limits import Limits

SERIES = 500
BATCH = 2_000
WARM_UP_BATCHES = 25
NO_LIMITS = Limits(max_ratio=1.0, max_consecutive=10**9)
ODD_VALUES: list[Any] = [
    None, True, "", "1", "NaN", [], [1], {}, 0, -0.0, 1e30, -1e30, 1.1e30, 1e-320, 2**63, -(2**64), 10**40
]  # fmt: skip
ODD_STAMPS: list[Any] = [
    None, False, "", "yesterday", "2025-01-01", "2025-01-01T00:00:00Z", "2025-02-30T00:00:00Z", "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59+14:00", -1, 0, 1, 0.5, 1e300, 253_402_300_799_999, 253_402_300_800_000, 2**63, [], {}
]  # fmt: skip
ODD_IDS: list[Any] = [
    None, "", " ", "a/b", "ä", "\n", "\u0000", "\u202e", "\U0001f600", "x" * 1_024, "x" * 1_025, 7, -7, 2**70, 1.5,
    True, [], {}
]  # fmt: skip
ODD_KEYS = [None, b"", b"\xff\xfe", b"\x00", b"k" * 1_025, b"pump-1"]
ODD_TEXTS = [
    b"", b" ", b"null", b"[]", b"{}", b'"text"', b"1", b"{", b'{"value": 1', b'{"value": NaN}', b'{"value": 1e999}',
    b'{"value": 1, "value": 2}', b"[" * 20_000, b'{"value": "\\ud800"}', b'\xef\xbb\xbf{"value": 1}',
    b'{"value": ' + b"1" * 5_000 + b"}", b'{"value": 1, "text": "' + b"x" * 70_000 + b'"}'
]  # fmt: skip


class Payloads:
    """A stream of records; the same one for the same seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._number = 0

    def next(self) -> Record:
        """Return key and value of the next record."""
        dice, self._number = self._dice, self._number + 1
        key, body = self._good()
        kind = dice.randrange(10)
        if kind == 0:
            return dice.choice(ODD_KEYS), dice.randbytes(dice.randrange(200))
        if kind == 1:
            return key, dice.choice(ODD_TEXTS)
        if kind <= 4:
            return key, self._mutated(orjson.dumps(body))
        if kind <= 6:
            self._make_odd(body)
            key = dice.choice(ODD_KEYS) if dice.random() < 0.3 else key
        return key, None if dice.random() < 0.01 else orjson.dumps(body)

    def _good(self) -> tuple[bytes, dict[str, Any]]:
        series, hour = self._dice.randrange(SERIES), self._number // SERIES
        return b"pump-%d" % series, {"timestamp": START_MS + hour * HOUR_MS, "value": self._dice.gauss(10, 3)}

    def _make_odd(self, body: dict[str, Any]) -> None:
        field, values = self._dice.choice(
            [("value", ODD_VALUES), ("timestamp", ODD_STAMPS), ("series_id", ODD_IDS), ("extra", ODD_VALUES)]
        )
        odd = self._dice.choice(values)
        # orjson writes integers of up to 64 bits alone
        body[field] = float(odd) if isinstance(odd, int) and not isinstance(odd, bool) and abs(odd) >= 2**63 else odd
        if self._dice.random() < 0.1:
            del body[field]

    def _mutated(self, text: bytes) -> bytes:
        """Return the text with some bytes changed, added, removed or repeated."""
        dice, mutated = self._dice, bytearray(text)
        for _ in range(dice.randrange(1, 5)):
            at = dice.randrange(len(mutated) + 1)
            match dice.randrange(4):
                case 0:
                    mutated[at : at + 1] = dice.randbytes(1)
                case 1:
                    mutated[at:at] = bytes([dice.choice(b'{}[],:"0123456789.eE-+tfn\\u')])
                case 2:
                    del mutated[at : at + dice.randrange(1, 8)]
                case _:
                    mutated[at:at] = mutated[at : at + dice.randrange(1, 16)]
        return bytes(mutated)


def in_process(count: int, seed: int) -> Row:
    """Feed payloads to a worker whose Kafka is a fake, and return what became of them."""
    config = pipeline_config(horizon=4, context=24, chain=("range", "hampel"))
    kafka = FakeKafka()
    client = FakeClient(kafka, batch=BATCH)
    worker = setup(pipeline=config, model=random_model(config), limits=NO_LIMITS, max_series=2 * SERIES).worker(client)
    payloads = Payloads(seed)
    memory: list[float] = []
    for number, size in enumerate(_batches(count)):
        offset = kafka.ends.get((INPUT, 0), 0)
        for _ in range(size):
            key, value = payloads.next()
            kafka.append(0, value, key)
        while kafka.offsets.get(0, 0) < offset + size:
            worker.iterate()
        kafka.published.clear()
        kafka.logs.clear()
        if number == WARM_UP_BATCHES:
            memory.append(resident_mib())
    counters = worker.counters
    letters = sum(counters.dead_letters.values())
    outcomes = sum(counters.outcomes.values())
    lost = count - outcomes - letters
    return Row(
        what="odd payload, decoder and pipeline",
        times=count,
        readings=counters.records,
        forecasts=counters.forecasts,
        dead_letters=letters,
        ignored=outcomes - counters.forecasts,
        lost=max(0, lost),
        doubled=max(0, -lost),
        memory_mib=(memory[0] if memory else resident_mib(), resident_mib()),
    )


def resident_mib() -> float:
    """Return the resident memory of this process, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def _batches(count: int) -> Iterator[int]:
    for begin in range(0, count, BATCH):
        yield min(BATCH, count - begin)
