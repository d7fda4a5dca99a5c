"""Event time onto the grid: one policy for each kind of stamp, resting on the series alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.core.series.grid import GridConfig, TimelineState
from forecaster.core.series.intervals import agreed_interval
from forecaster.core.series.timeline import BEHIND_RUN, place
from forecaster.records import Outcome

MINUTE = 60_000
DAY = 86_400_000
START = 1_735_689_600_000
HOUR_MS = 3_600_000
YEAR_2099 = 4_070_908_800_000


def feed(stamps: list[int], *, interval_ms: int = MINUTE, max_gap_ms: int = 60 * MINUTE):
    """Outcomes and gaps of one series' stamps, and its state after them."""
    state = TimelineState.empty(1, interval_ms)
    outcomes, gaps, restarts = [], [], []
    for stamp in stamps:
        placed = place(GridConfig(interval_ms, max_gap_ms), state, np.array([stamp]))
        outcomes.append(Outcome(int(placed.outcome[0])))
        gaps.append(int(placed.gap[0]))
        restarts.append(bool(placed.restarted[0]))
    return outcomes, gaps, restarts, state


F, W, D, L, A = Outcome.FORECAST, Outcome.WARMING, Outcome.DUPLICATE, Outcome.LATE, Outcome.AHEAD


def test_readings_on_the_grid_step_one_tick_each() -> None:
    outcomes, gaps, restarts, state = feed([START + k * MINUTE for k in range(4)])
    assert outcomes == [F] * 4
    assert gaps == [1] * 4
    assert restarts == [True, False, False, False]
    assert state.tick[0] == 3


def test_a_stamp_rounds_to_the_nearest_tick() -> None:
    _, _, _, state = feed([START, START + MINUTE + 29_000, START + 2 * MINUTE - 29_000 + MINUTE])
    assert state.tick[0] == 3


def test_missing_ticks_are_a_gap_and_no_steps() -> None:
    outcomes, gaps, _, state = feed([START, START + 5 * MINUTE])
    assert outcomes == [F, F]
    assert gaps[1] == 5
    assert state.tick[0] == 5


def test_the_first_reading_of_a_tick_counts_and_late_ones_do_not() -> None:
    outcomes, _, _, state = feed([START, START + MINUTE, START + MINUTE, START + MINUTE + 5, START])
    assert outcomes == [F, F, D, D, L]
    assert state.tick[0] == 1


def test_a_jump_ahead_counts_only_when_the_next_reading_confirms_it() -> None:
    outcomes, _, restarts, state = feed([START, YEAR_2099, YEAR_2099 + MINUTE])
    assert outcomes == [F, A, F]
    assert restarts[2]
    assert state.start_ms[0] == YEAR_2099 + MINUTE


def test_one_wild_stamp_ahead_does_not_cost_the_series_its_next_reading() -> None:
    outcomes, gaps, restarts, _ = feed([START, YEAR_2099, START + MINUTE, START + 2 * MINUTE])
    assert outcomes == [F, A, F, F]
    assert restarts == [True, False, False, False]
    assert gaps[2:] == [1, 1]


def test_a_wild_stamp_sent_twice_does_not_confirm_itself() -> None:
    outcomes, _, _, _ = feed([START, YEAR_2099, YEAR_2099, START + MINUTE])
    assert outcomes == [F, A, A, F]


def test_a_series_that_began_in_2099_recovers_after_a_run_of_readings_behind() -> None:
    outcomes, _, restarts, _ = feed([YEAR_2099, *(START + k * MINUTE for k in range(BEHIND_RUN + 1))])
    assert outcomes == [F] + [L] * (BEHIND_RUN - 1) + [F, F]
    assert restarts[BEHIND_RUN]


def test_an_old_reading_now_and_then_never_resets_the_series() -> None:
    stamps = [START + 10 * DAY]
    for k in range(1, 10):
        stamps += [START + k * MINUTE, START + 10 * DAY + k * MINUTE]
    outcomes, _, restarts, _ = feed(stamps)
    assert outcomes == [F] + [L, F] * 9
    assert not any(restarts[1:])


def test_daily_readings_are_no_gap_even_where_the_largest_gap_is_a_day() -> None:
    outcomes, gaps, _, _ = feed([START, START + 3 * DAY], interval_ms=DAY, max_gap_ms=DAY)
    assert outcomes == [F, F]
    assert gaps[1] == 3


def test_an_unknown_interval_is_known_at_the_fourth_reading() -> None:
    outcomes, _, _, state = feed([START + k * MINUTE for k in range(6)], interval_ms=0)
    assert outcomes == [W, W, W, F, F, F]
    assert state.interval_ms[0] == MINUTE
    assert state.tick[0] == 5


def test_an_unknown_interval_is_found_through_a_gap_and_jitter() -> None:
    outcomes, _, _, state = feed([START, START + 59_100, START + 3 * MINUTE + 700, START + 4 * MINUTE], interval_ms=0)
    assert outcomes[-1] == F
    assert state.interval_ms[0] == MINUTE
    assert state.tick[0] == 4


def test_readings_that_agree_on_no_interval_stay_warming() -> None:
    stamps = np.cumsum([START, 1000, 1370, 2110, 900, 1777]).tolist()
    outcomes, _, _, state = feed(stamps, interval_ms=0)
    assert outcomes == [W] * 6
    assert state.interval_ms[0] == 0


def test_an_interval_learned_too_coarse_is_learned_again() -> None:
    coarse = [START + 2 * k * MINUTE for k in range(4)]
    fine = [coarse[-1] + k * MINUTE for k in range(1, 9)]
    _, _, _, state = feed(coarse + fine, interval_ms=0)
    assert state.interval_ms[0] == MINUTE


def test_a_warming_series_recovers_from_2099() -> None:
    stamps = [YEAR_2099, *(START + k * MINUTE for k in range(12))]
    outcomes, _, _, state = feed(stamps, interval_ms=0)
    assert outcomes[-1] == F
    assert state.interval_ms[0] == MINUTE


def test_weekly_readings_find_their_interval() -> None:
    outcomes, _, _, state = feed([START + 7 * k * DAY for k in range(4)], interval_ms=0, max_gap_ms=DAY)
    assert outcomes[-1] == F
    assert state.interval_ms[0] == 7 * DAY


@pytest.mark.parametrize("interval", [58_000, 333, 61_000])
def test_an_exact_interval_is_taken_as_it_is(interval: int) -> None:
    found, ticks = agreed_interval(np.array([[START + k * interval for k in (5, 3, 1, 0)]]))
    assert found[0] == interval
    assert ticks[0] == 5


@given(st.lists(st.integers(0, 4_102_444_800_000), min_size=1, max_size=40), st.sampled_from([0, 1000, MINUTE, DAY]))
def test_every_stamp_has_an_outcome_and_ticks_only_grow_within_a_grid(stamps: list[int], interval: int) -> None:
    state = TimelineState.empty(1, interval)
    for stamp in stamps:
        before = int(state.tick[0])
        placed = place(GridConfig(interval, DAY), state, np.array([stamp]))
        if placed.outcome[0] == Outcome.FORECAST and not placed.restarted[0]:
            assert state.tick[0] == before + placed.gap[0]
            assert placed.gap[0] >= 1
        assert placed.outcome[0] in set(Outcome)


def test_one_stray_stamp_makes_no_finer_grid() -> None:
    state = TimelineState.empty(1, 0)
    config = GridConfig()
    stamps = [START + hour * HOUR_MS for hour in range(6)]
    stamps[5:5] = [stamps[4] + 1_000]
    for stamp in stamps:
        place(config, state, np.array([stamp]))
    assert state.interval_ms.tolist() == [HOUR_MS]


def test_a_stray_stamp_among_the_first_makes_no_grid_of_seconds() -> None:
    state = TimelineState.empty(1, 0)
    for stamp in [START, START + 1_000, *(START + hour * HOUR_MS for hour in range(1, 5))]:
        place(GridConfig(), state, np.array([stamp]))
    assert state.interval_ms.tolist() == [HOUR_MS]


def test_a_series_idle_for_longer_than_its_time_to_live_learns_its_interval_anew() -> None:
    state = TimelineState.empty(1, 0)
    for hour in range(5):
        place(GridConfig(), state, np.array([START + hour * HOUR_MS]))
    later = START + 60 * 24 * HOUR_MS
    placements = [place(GridConfig(), state, np.array([later + minute * 60_000])) for minute in range(6)]
    assert [bool(one.expired[0]) for one in placements] == [False, True, False, False, False, False]
    assert state.interval_ms.tolist() == [60_000]


SECOND = 1_000


def learned(stamps: list[int]) -> tuple[list[int], list[bool]]:
    """The interval after each of one series' stamps, and where its grid began anew."""
    state, config = TimelineState.empty(1, 0), GridConfig()
    intervals, restarts = [], []
    for stamp in stamps:
        restarts.append(bool(place(config, state, np.array([stamp])).restarted[0]))
        intervals.append(int(state.interval_ms[0]))
    return intervals, restarts


def every(interval: int, count: int, start: int = START) -> list[int]:
    return [start + number * interval for number in range(count)]


@pytest.mark.parametrize("phase", [0, 1, 20 * SECOND, 31 * SECOND, 59_990])
@pytest.mark.parametrize("readings", [4, 7, 1_000])
def test_a_burst_in_mid_stream_changes_no_grid(phase: int, readings: int) -> None:
    burst = every(1, readings, START + 40 * MINUTE + phase)
    after = [stamp for stamp in every(MINUTE, 40, START + 40 * MINUTE) if stamp > burst[-1]]
    intervals, restarts = learned(every(MINUTE, 40) + burst + after)
    assert set(intervals[3:]) == {MINUTE}
    assert not any(restarts[4:])


def test_a_burst_now_and_then_changes_no_grid() -> None:
    stamps = every(MINUTE, 40)
    for _ in range(20):
        stamps += [*every(1, 4, stamps[-1] + MINUTE), stamps[-1] + 2 * MINUTE]
    assert learned(stamps)[0][-1] == MINUTE


def test_readings_more_often_for_a_minute_or_two_change_no_grid() -> None:
    stamps = every(MINUTE, 10) + every(20 * SECOND, 5, START + 10 * MINUTE) + every(MINUTE, 9, START + 12 * MINUTE)
    intervals, restarts = learned(stamps)
    assert set(intervals[3:]) == {MINUTE}
    assert not any(restarts[4:])


@pytest.mark.parametrize("phase", [MINUTE, 23 * SECOND])
@pytest.mark.parametrize("spacing", [1, 10])
def test_a_burst_at_boot_costs_the_series_a_dozen_readings_and_not_its_grid(spacing: int, phase: int) -> None:
    intervals, _ = learned(every(spacing, 4) + every(MINUTE, 30, START + phase))
    assert intervals[3] == spacing
    assert set(intervals[4 + 12 :]) == {MINUTE}


@pytest.mark.parametrize("days", [1, 7])
def test_a_burst_at_boot_is_got_over_where_readings_are_farther_apart_than_the_largest_gap(days: int) -> None:
    dice = np.random.default_rng(days)
    slow = [START + number * days * DAY + int(dice.integers(-9_000, 9_000)) for number in range(1, 30)]
    intervals, _ = learned(every(10, 4) + slow)
    assert set(intervals[4 + 12 :]) == {days * DAY}


@pytest.mark.parametrize(
    ("slow", "fast"), [(MINUTE, SECOND), (HOUR_MS, MINUTE), (MINUTE, 30 * SECOND), (MINUTE, 45_000)]
)
def test_a_series_that_becomes_faster_has_its_new_interval_within_three_old_ones(slow: int, fast: int) -> None:
    before = every(slow, 20)
    intervals, _ = learned(before + every(fast, 400, before[-1] + fast))
    assert set(intervals[3:20]) == {slow}
    assert set(intervals[20 + 3 * -(-slow // fast) :]) == {fast}


def test_a_series_that_becomes_faster_is_found_out_through_missing_ticks_and_jitter() -> None:
    dice, before = np.random.default_rng(0), every(MINUTE, 20)
    fast = [stamp + int(dice.integers(-40, 40)) for stamp in every(SECOND, 600, before[-1] + SECOND)]
    intervals, _ = learned(before + [stamp for stamp in fast if dice.random() > 0.3])
    assert intervals[20 + 180 :] == [SECOND] * len(intervals[20 + 180 :])


@pytest.mark.parametrize(("fast", "slow"), [(SECOND, MINUTE), (MINUTE, HOUR_MS), (900 * SECOND, DAY)])
def test_a_series_that_becomes_much_slower_has_its_new_interval_within_a_dozen_readings(fast: int, slow: int) -> None:
    before = every(fast, 20)
    intervals, _ = learned(before + every(slow, 30, before[-1] + slow))
    assert set(intervals[3:20]) == {fast}
    assert set(intervals[20 + 12 :]) == {slow}


def test_gaps_of_any_length_leave_the_interval_as_it_is() -> None:
    dice = np.random.default_rng(0)
    for interval, kept in ((900 * SECOND, 0.5), (900 * SECOND, 0.1), (SECOND, 0.05), (30 * DAY, 0.9)):
        stamps = every(interval, 8) + [
            stamp for stamp in every(interval, 9_000, START + 8 * interval) if dice.random() < kept
        ]
        intervals, restarts = learned(stamps[:1_000])
        assert set(intervals[3:]) == {interval}
        assert not any(restarts[4:])


def test_fewer_readings_by_night_leave_the_interval_as_it_is() -> None:
    day, night = every(900 * SECOND, 56), every(3 * HOUR_MS, 4, START + 14 * HOUR_MS)
    stamps = [stamp + number * DAY for number in range(10) for stamp in (*day, *night)]
    assert set(learned(stamps)[0][3:]) == {900 * SECOND}


def test_a_grid_that_changes_its_interval_begins_anew_once() -> None:
    before = every(SECOND, 20)
    intervals, restarts = learned(before + every(MINUTE, 30, before[-1] + MINUTE))
    changed = intervals.index(MINUTE)
    assert [number for number, restart in enumerate(restarts) if restart and number > 3] == [changed]


def test_a_fixed_interval_is_never_another() -> None:
    fine = every(SECOND, 500)
    _, _, restarts, state = feed(fine)
    assert state.interval_ms[0] == MINUTE
    assert sum(restarts) == 1
    outcomes, _, _, _ = feed([START, *every(10 * DAY, 12, START + 10 * DAY)])
    assert outcomes == [F] + [A] * 12
