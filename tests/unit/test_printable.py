"""Text of others cannot command a terminal, forge a line, or change its meaning in JSON."""

from __future__ import annotations

import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from forecaster.logs import configure_logs
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


def test_a_log_line_as_text_is_one_line_without_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever writes it: this program, or another library with a text of others in its message."""
    configure_logs("INFO", "text")
    hostile = "pump\x1b[2J\n2026-01-01 [info] forged\x9b7"
    structlog.get_logger().info("partition_held", last=hostile, all=[hostile])
    logging.getLogger("uvicorn.error").warning("bad request: %s", hostile)
    first, second, rest = capsys.readouterr().err.split("\n")
    assert rest == ""
    for line in (first, second):
        assert "pump\\x1b[2J\\n" in line
        assert "\x1b[2J" not in line
        assert "\x9b" not in line


def test_the_stack_of_an_error_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("INFO", "text")
    try:
        raise ValueError("pump\x1b[2J")
    except ValueError:
        structlog.get_logger().exception("daemon_failed")
    shown = capsys.readouterr().err
    assert shown.count("\n") > 2
    assert r"ValueError: pump\x1b[2J" in shown
