"""Pauses after failures grow, up to a limit."""

from __future__ import annotations

from forecaster.backoff import Backoff


def test_each_failure_in_a_row_doubles_the_pause_up_to_the_longest_one() -> None:
    backoff, now, pauses = Backoff(1.0, 60.0), 100.0, []
    for _ in range(2_000):
        backoff = backoff.after_failure(now)
        pauses.append(backoff.pause_seconds)
        assert backoff.until == now + backoff.pause_seconds
        now = backoff.until
    assert pauses[:8] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert set(pauses[6:]) == {60.0}


def test_a_pause_lasts_until_its_end_and_there_is_none_before_a_failure() -> None:
    fresh = Backoff(5.0, 60.0)
    assert not fresh.lasts(0.0)
    assert fresh.pause_seconds == 0.0
    failed = fresh.after_failure(100.0)
    assert failed.lasts(104.9)
    assert not failed.lasts(105.0)
    assert not fresh.lasts(100.0), "a backoff is a value: the old one stays"
