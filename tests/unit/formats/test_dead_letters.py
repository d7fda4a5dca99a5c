"""A dead letter is the record as it came, cut where it is huge, with reason, detail and source in headers."""

from __future__ import annotations

from forecaster.formats.dead_letters import encode_dead_letter
from forecaster.formats.readings import MAX_VALUE_BYTES, Decoder, InputSchema
from forecaster.records import DeadLetter, InputRecord


def dead_letter(value: bytes, key: bytes = b"pump", headers: tuple = ()) -> DeadLetter:
    record = InputRecord("readings", 2, 17, 5, key, value, headers)
    return Decoder(InputSchema()).decode([record]).dead_letters[0]


def test_a_dead_letter_is_the_record_with_reason_detail_and_source() -> None:
    message = encode_dead_letter(dead_letter(b"no json", headers=(("trace", b"7"), ("null", None))), "3q2-7wAA")
    assert (message.partition, message.key, message.value) == (2, b"pump", b"no json")
    headers = dict(message.headers)
    assert headers["trace"] == b"7"
    assert headers["null"] == b"", "the client cannot send null headers"
    assert headers["reason"] == b"not_json"
    assert headers["source"] == b"readings/2/17"
    assert headers["input-id"] == b"3q2-7wAA"


def test_huge_parts_of_a_dead_letter_are_cut_and_the_detail_says_so() -> None:
    huge = dead_letter(b"x" * 1_000_000, key=b"k" * 1_000_000, headers=(("trace", b"t" * 1_000_000),))
    message = encode_dead_letter(huge, "3q2-7wAA")
    headers = dict(message.headers)
    assert len(message.key or b"") == len(message.value or b"") == MAX_VALUE_BYTES
    assert "trace" not in headers
    for part in (b"value cut", b"key cut", b"headers of more"):
        assert part in headers["detail"]
