"""Similar ids are found, and the search is cheap however long and however many the ids are."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.serving.inspect.similar_ids import similar_ids


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("pumq", "pump"),
        ("PUMP", "pump"),
        ("1", "site/1"),
        ("site-1", "site/1"),
        ("boiler-temperature-7", "boiler/temperature/7"),
        ("temperature", "boiler/temperature/7"),
        ("plant-/" + "sensor-" * 60, "plant-0042/" + "sensor-" * 60 + "42"),
    ],
)
def test_the_id_that_was_meant_is_the_first(wrong: str, meant: str) -> None:
    names = ["", "valve", "x", "plant", meant, "motor/current"]
    assert similar_ids(wrong, names, 3)[0] == meant


def test_of_ids_with_the_same_pieces_the_nearest_length_comes_first() -> None:
    assert similar_ids("pump-7", ["pump-7777", "pump-77"], 1) == ["pump-77"]


def test_an_id_that_resembles_none_has_no_suggestion() -> None:
    assert similar_ids("quartz", ["pump", "valve", ""], 5) == []


@given(st.text(max_size=300), st.lists(st.text(max_size=300), max_size=20), st.integers(1, 5))
def test_suggestions_are_ids_that_exist(wrong: str, names: list[str], count: int) -> None:
    found = similar_ids(wrong, names, count)
    assert len(found) <= count
    assert set(found) <= set(names) - {""}


def test_long_ids_that_are_nearly_right_cost_little() -> None:
    """A comparison character by character of these ids takes seconds."""
    names = [f"plant-{number:04}/" + "sensor-" * 140 + str(number) for number in range(1_000)]
    begin = time.thread_time()
    assert similar_ids("plant-/" + "sensor-" * 140, names, 5)
    assert time.thread_time() - begin < 0.1
