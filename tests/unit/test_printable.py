"""Text of others cannot command a terminal, forge a line, or change its meaning in JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.printable import printable, printable_json

OBEYED = ["\x1b", "\x07", "\x00", "\r", "\n", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\ud800"]


@pytest.mark.parametrize("char", OBEYED, ids=ascii)
def test_no_character_that_a_terminal_obeys_is_left(char: str) -> None:
    shown = printable(f"pump{char}7")
    assert char not in shown
    assert shown.startswith("pump\\")
    assert shown.endswith("7")


def test_letters_of_all_languages_and_signs_stay_as_they_are() -> None:
    text = "Außentemperatur °C/сенсор 7 «温度» 🌡 50 % \"'\\"
    assert printable(text) == text


def test_line_breaks_stay_where_they_are_wanted() -> None:
    assert printable("one\ntwo\x1b[2J", keep="\n") == "one\ntwo\\x1b[2J"


@given(st.text(max_size=50))
def test_what_is_printable_has_only_printable_characters(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_printable_json_means_the_same(value: dict[str, str]) -> None:
    document = json.dumps(value, ensure_ascii=False, indent=2)
    shown = printable_json(document)
    assert json.loads(shown) == value
    assert not set(shown) & (set(OBEYED) - {"\n"})
