"""Event time onto the grid: one policy for each kind of stamp, resting on the series alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.core.timeline import BEHIND_RUN, GridConfig, TimelineState, agreed_interval, place
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
