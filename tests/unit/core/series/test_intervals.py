"""Intervals are learned from the timestamps of a series alone: through gaps and jitter, and in spite of bursts."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.core.series.grid import GridConfig, TimelineState
from forecaster.core.series.intervals import agreed_interval
from forecaster.core.series.timeline import place

SECOND, MINUTE, HOUR_MS, DAY = 1_000, 60_000, 3_600_000, 86_400_000
START = 1_735_689_600_000


def learned(timestamps: list[int]) -> tuple[list[int], list[bool]]:
    """Return the interval after each timestamp of a series, and where its grid restarted."""
    state, config = TimelineState.empty(1, 0), GridConfig()
    intervals, restarts = [], []
    for timestamp in timestamps:
        restarts.append(bool(place(config, state, np.array([timestamp])).restarted[0]))
        intervals.append(int(state.interval_ms[0]))
    return intervals, restarts


def every(interval: int, count: int, start: int = START) -> list[int]:
    return [start + number * interval for number in range(count)]


@pytest.mark.parametrize("phase", [0, 1, 20 * SECOND, 31 * SECOND, 59_990])
@pytest.mark.parametrize("readings", [4, 7, 1_000])
def test_a_burst_changes_no_grid(phase: int, readings: int) -> None:
    burst = every(1, readings, START + 40 * MINUTE + phase)
    after = [timestamp for timestamp in every(MINUTE, 40, START + 40 * MINUTE) if timestamp > burst[-1]]
    intervals, restarts = learned(every(MINUTE, 40) + burst + after)
    assert set(intervals[3:]) == {MINUTE}
    assert not any(restarts[4:])


def test_repeated_bursts_change_no_grid() -> None:
    timestamps = every(MINUTE, 40)
    for _ in range(20):
        timestamps += [*every(1, 4, timestamps[-1] + MINUTE), timestamps[-1] + 2 * MINUTE]
    assert learned(timestamps)[0][-1] == MINUTE


def test_faster_readings_for_two_minutes_change_no_grid() -> None:
    timestamps = every(MINUTE, 10) + every(20 * SECOND, 5, START + 10 * MINUTE) + every(MINUTE, 9, START + 12 * MINUTE)
    intervals, restarts = learned(timestamps)
    assert set(intervals[3:]) == {MINUTE}
    assert not any(restarts[4:])


@pytest.mark.parametrize("phase", [MINUTE, 23 * SECOND])
@pytest.mark.parametrize("spacing", [1, 10])
def test_a_burst_at_boot_is_overcome_within_a_dozen_readings(spacing: int, phase: int) -> None:
    intervals, _ = learned(every(spacing, 4) + every(MINUTE, 30, START + phase))
    assert intervals[3] == spacing
    assert set(intervals[4 + 12 :]) == {MINUTE}


@pytest.mark.parametrize("days", [1, 7])
def test_a_burst_at_boot_is_overcome_by_readings_beyond_the_largest_gap(days: int) -> None:
    dice = np.random.default_rng(days)
    slow = [START + number * days * DAY + int(dice.integers(-9_000, 9_000)) for number in range(1, 30)]
    intervals, _ = learned(every(10, 4) + slow)
    assert set(intervals[4 + 12 :]) == {days * DAY}


@pytest.mark.parametrize(
    ("slow", "fast"), [(MINUTE, SECOND), (HOUR_MS, MINUTE), (MINUTE, 30 * SECOND), (MINUTE, 45_000)]
)
def test_a_finer_interval_is_learned_within_three_old_intervals(slow: int, fast: int) -> None:
    before = every(slow, 20)
    intervals, _ = learned(before + every(fast, 400, before[-1] + fast))
    assert set(intervals[3:20]) == {slow}
    assert set(intervals[20 + 3 * -(-slow // fast) :]) == {fast}


def test_a_finer_interval_is_learned_in_spite_of_missing_ticks_and_jitter() -> None:
    dice, before = np.random.default_rng(0), every(MINUTE, 20)
    fast = [timestamp + int(dice.integers(-40, 40)) for timestamp in every(SECOND, 600, before[-1] + SECOND)]
    intervals, _ = learned(before + [timestamp for timestamp in fast if dice.random() > 0.3])
    assert intervals[20 + 180 :] == [SECOND] * len(intervals[20 + 180 :])


@pytest.mark.parametrize(("fast", "slow"), [(SECOND, MINUTE), (MINUTE, HOUR_MS), (900 * SECOND, DAY)])
def test_a_much_coarser_interval_is_learned_within_a_dozen_readings(fast: int, slow: int) -> None:
    before = every(fast, 20)
    intervals, _ = learned(before + every(slow, 30, before[-1] + slow))
    assert set(intervals[3:20]) == {fast}
    assert set(intervals[20 + 12 :]) == {slow}


def test_gaps_do_not_change_the_interval() -> None:
    dice = np.random.default_rng(0)
    for interval, kept in ((900 * SECOND, 0.5), (900 * SECOND, 0.1), (SECOND, 0.05), (30 * DAY, 0.9)):
        timestamps = every(interval, 8) + [
            timestamp for timestamp in every(interval, 9_000, START + 8 * interval) if dice.random() < kept
        ]
        intervals, restarts = learned(timestamps[:1_000])
        assert set(intervals[3:]) == {interval}
        assert not any(restarts[4:])


def test_fewer_readings_at_night_do_not_change_the_interval() -> None:
    day, night = every(900 * SECOND, 56), every(3 * HOUR_MS, 4, START + 14 * HOUR_MS)
    timestamps = [timestamp + number * DAY for number in range(10) for timestamp in (*day, *night)]
    assert set(learned(timestamps)[0][3:]) == {900 * SECOND}


def test_a_grid_restarts_once_when_its_interval_changes() -> None:
    before = every(SECOND, 20)
    intervals, restarts = learned(before + every(MINUTE, 30, before[-1] + MINUTE))
    changed = intervals.index(MINUTE)
    assert [number for number, restart in enumerate(restarts) if restart and number > 3] == [changed]


@pytest.mark.parametrize("interval", [58_000, 333, 61_000])
def test_an_exact_interval_does_not_snap(interval: int) -> None:
    agreed, ticks = agreed_interval(np.array([[START + k * interval for k in (5, 3, 1, 0)]]))
    assert agreed[0] == interval
    assert ticks[0] == 5
