"""A secret is hidden in whichever encoding it appears, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
import time
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forecaster.redaction import HIDDEN, MIN_LENGTH, Redactor, secrets_in, without_secrets

Encoding = Callable[[str], str]
ENCODINGS: dict[str, Encoding] = {
    "plain": str,
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda text: repr(text.encode()),
    "json": json.dumps,
    "json, not ASCII": lambda text: json.dumps(text, ensure_ascii=False),
    "json of json": lambda text: json.dumps(json.dumps(text)),
    "json of repr": lambda text: json.dumps(repr(text)),
    "json of bytes": lambda text: json.dumps(repr(text.encode())),
    "repr of json of bytes": lambda text: repr(json.dumps(repr(text.encode()))),
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "form": urllib.parse.quote_plus,
    "html": html.escape,
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}
SECRETS = st.text(st.characters(codec="utf-8"), min_size=MIN_LENGTH, max_size=40)
PARTS = ["Qz7", "e%9", 'a"b', "c\\d", " ü😀"]
"""Secrets are made of these, so that no part of one is found in the text around it by chance."""
UNUSUAL = st.lists(st.sampled_from(PARTS), min_size=3, max_size=6).map("".join)


def redactor(*secrets: str) -> Redactor:
    known = Redactor()
    known.add(secrets)
    return known


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS.keys())
@given(secret=SECRETS)
@example("00000%")
@example("00000&")
def test_a_secret_is_hidden_in_every_encoding(encoding: Encoding, secret: str) -> None:
    encoded = encoding(secret)
    hidden = redactor(secret).hide(f"<{encoded}>")
    assert HIDDEN in hidden
    assert hidden.replace(HIDDEN, "").strip("<>'\"b\\=") == ""


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name not in ("hex", "HEX")])
@given(secret=UNUSUAL, user=st.sampled_from(["", "a", "ab", "app", "worker"]))
def test_a_secret_inside_a_login_is_hidden_at_every_alignment(encoding: str, secret: str, user: str) -> None:
    token = f"\0{user}\0{secret}"
    hidden = redactor(secret).hide(ENCODINGS[encoding](token))
    assert HIDDEN in hidden
    for part in PARTS:
        assert part not in hidden


@given(text=st.text(), secret=SECRETS)
def test_a_text_without_the_secret_stays_as_it_is(text: str, secret: str) -> None:
    safe = "".join(character for character in text if character not in secret and character.isalpha())
    if not any(character in "xuXU%" or character.isascii() for character in safe):
        assert redactor(secret).hide(safe) == safe


def test_short_secrets_leave_ordinary_words_alone() -> None:
    line = "partition 5 of kafka opened by app"
    assert redactor("", "a", "kafka", "app").hide(line) == line


def test_the_longer_of_two_secrets_is_hidden_as_a_whole() -> None:
    assert redactor("hunter2", "hunter2-S3CR3T").hide("hunter2-S3CR3T, hunter2") == f"{HIDDEN}, {HIDDEN}"


def test_the_lines_of_a_key_are_hidden_one_by_one() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQEFAASCBKcwggSj\n-----END KEY-----"
    hidden = redactor(key).hide("first MIIEvQIBADANBgkqhkiG, then 9w0BAQEFAASCBKcwggSj")
    assert hidden == f"first {HIDDEN}, then {HIDDEN}"


def test_values_of_a_log_line_are_hidden_at_any_depth_and_numbers_stay() -> None:
    value = {"a": ["hunter2-S3CR3T", (b"hunter2-S3CR3T", 5)], "hunter2-S3CR3T": ValueError("hunter2-S3CR3T")}
    hidden = redactor("hunter2-S3CR3T", "123456").hide_in({**value, "offset": 123_456})
    assert hidden == {
        "a": [HIDDEN, [f"b'{HIDDEN}'", 5]],
        HIDDEN: f"ValueError('{HIDDEN}')",
        "offset": 123_456,
    }


def test_the_time_is_proportional_to_the_text_for_any_secret() -> None:
    known = redactor("\\\\\\abcdef", "a" * 40, "\\" * 40, "%" * 40, '"' * 40)
    begin = time.perf_counter()
    for text in ("\\" * 100_000, "a\\" * 50_000, '\\"' * 39 * 1_000, "x5c" * 30_000):
        known.hide(text)
    assert time.perf_counter() - begin < 20  # squared, it would be hours


def test_options_show_no_secret_by_name_or_place() -> None:
    options = {
        "sasl_plain_password": "x",
        "ssl_password": None,
        "sasl_plain_passwrod": "hunter2",
        "proxy": {"sasl_token": "hunter2", "rack": "a"},
        "address": "socks5://user:hunter2@host",
        "linger_ms": 5,
    }
    shown = without_secrets(options)
    assert "hunter2" not in str(shown)
    assert (shown["sasl_plain_password"], shown["ssl_password"], shown["linger_ms"]) == (HIDDEN, None, 5)
    assert {"x", "hunter2"} <= set(secrets_in(options))
