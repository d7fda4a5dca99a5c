"""Event time onto the grid: one policy for each kind of timestamp, resting on the series alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forecaster.core.series.grid import GridConfig, TimelineState
from forecaster.core.series.timeline import BEHIND_RUN, place
from forecaster.records import Outcome

MINUTE = 60_000
SECOND = 1_000
DAY = 86_400_000
START = 1_735_689_600_000
HOUR_MS = 3_600_000
YEAR_2099 = 4_070_908_800_000


def feed(timestamps: list[int], *, interval_ms: int = MINUTE, max_gap_ms: int = 60 * MINUTE):
    """Return outcomes, gaps and restarts of one series' timestamps, and its state after them."""
    state = TimelineState.empty(1, interval_ms)
    outcomes, gaps, restarts = [], [], []
    for timestamp in timestamps:
        placed = place(GridConfig(interval_ms, max_gap_ms), state, np.array([timestamp]))
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


def test_a_timestamp_rounds_to_the_nearest_tick() -> None:
    _, _, _, state = feed([START, START + MINUTE + 29_000, START + 2 * MINUTE - 29_000 + MINUTE])
    assert state.tick[0] == 3


def test_missing_ticks_are_a_gap_and_no_steps() -> None:
    outcomes, gaps, _, state = feed([START, START + 5 * MINUTE])
    assert outcomes == [F, F]
    assert gaps[1] == 5
    assert state.tick[0] == 5


def test_duplicate_and_late_readings_are_no_steps() -> None:
    outcomes, _, _, state = feed([START, START + MINUTE, START + MINUTE, START + MINUTE + 5, START])
    assert outcomes == [F, F, D, D, L]
    assert state.tick[0] == 1


def test_a_jump_ahead_counts_only_when_the_next_reading_confirms_it() -> None:
    outcomes, _, restarts, state = feed([START, YEAR_2099, YEAR_2099 + MINUTE])
    assert outcomes == [F, A, F]
    assert restarts[2]
    assert state.start_ms[0] == YEAR_2099 + MINUTE


def test_one_timestamp_far_ahead_does_not_affect_the_next_reading() -> None:
    outcomes, gaps, restarts, _ = feed([START, YEAR_2099, START + MINUTE, START + 2 * MINUTE])
    assert outcomes == [F, A, F, F]
    assert restarts == [True, False, False, False]
    assert gaps[2:] == [1, 1]


def test_a_repeated_timestamp_far_ahead_does_not_confirm_itself() -> None:
    outcomes, _, _, _ = feed([START, YEAR_2099, YEAR_2099, START + MINUTE])
    assert outcomes == [F, A, A, F]


def test_a_series_that_started_in_2099_recovers() -> None:
    """The grid restarts after a run of readings that are far behind and in order."""
    outcomes, _, restarts, _ = feed([YEAR_2099, *(START + k * MINUTE for k in range(BEHIND_RUN + 1))])
    assert outcomes == [F] + [L] * (BEHIND_RUN - 1) + [F, F]
    assert restarts[BEHIND_RUN]


def test_occasional_old_readings_never_restart_the_grid() -> None:
    timestamps = [START + 10 * DAY]
    for k in range(1, 10):
        timestamps += [START + k * MINUTE, START + 10 * DAY + k * MINUTE]
    outcomes, _, restarts, _ = feed(timestamps)
    assert outcomes == [F] + [L, F] * 9
    assert not any(restarts[1:])


def test_daily_readings_are_no_gap_with_a_largest_gap_of_a_day() -> None:
    outcomes, gaps, _, _ = feed([START, START + 3 * DAY], interval_ms=DAY, max_gap_ms=DAY)
    assert outcomes == [F, F]
    assert gaps[1] == 3


def test_an_unknown_interval_is_known_at_the_fourth_reading() -> None:
    outcomes, _, _, state = feed([START + k * MINUTE for k in range(6)], interval_ms=0)
    assert outcomes == [W, W, W, F, F, F]
    assert state.interval_ms[0] == MINUTE
    assert state.tick[0] == 5


def test_an_interval_is_learned_in_spite_of_a_gap_and_jitter() -> None:
    outcomes, _, _, state = feed([START, START + 59_100, START + 3 * MINUTE + 700, START + 4 * MINUTE], interval_ms=0)
    assert outcomes[-1] == F
    assert state.interval_ms[0] == MINUTE
    assert state.tick[0] == 4


def test_readings_that_agree_on_no_interval_stay_warming() -> None:
    timestamps = np.cumsum([START, 1000, 1370, 2110, 900, 1777]).tolist()
    outcomes, _, _, state = feed(timestamps, interval_ms=0)
    assert outcomes == [W] * 6
    assert state.interval_ms[0] == 0


def test_an_interval_that_is_too_coarse_is_learned_again() -> None:
    coarse = [START + 2 * k * MINUTE for k in range(4)]
    fine = [coarse[-1] + k * MINUTE for k in range(1, 9)]
    _, _, _, state = feed(coarse + fine, interval_ms=0)
    assert state.interval_ms[0] == MINUTE


def test_a_warming_series_recovers_from_2099() -> None:
    timestamps = [YEAR_2099, *(START + k * MINUTE for k in range(12))]
    outcomes, _, _, state = feed(timestamps, interval_ms=0)
    assert outcomes[-1] == F
    assert state.interval_ms[0] == MINUTE


def test_a_weekly_interval_is_learned() -> None:
    outcomes, _, _, state = feed([START + 7 * k * DAY for k in range(4)], interval_ms=0, max_gap_ms=DAY)
    assert outcomes[-1] == F
    assert state.interval_ms[0] == 7 * DAY


@given(st.lists(st.integers(0, 4_102_444_800_000), min_size=1, max_size=40), st.sampled_from([0, 1000, MINUTE, DAY]))
def test_every_timestamp_has_an_outcome_and_ticks_grow_within_a_grid(timestamps: list[int], interval: int) -> None:
    state = TimelineState.empty(1, interval)
    for timestamp in timestamps:
        before = int(state.tick[0])
        placed = place(GridConfig(interval, DAY), state, np.array([timestamp]))
        if placed.outcome[0] == Outcome.FORECAST and not placed.restarted[0]:
            assert state.tick[0] == before + placed.gap[0]
            assert placed.gap[0] >= 1
        assert placed.outcome[0] in set(Outcome)


def test_one_stray_timestamp_makes_no_finer_grid() -> None:
    state = TimelineState.empty(1, 0)
    config = GridConfig()
    timestamps = [START + hour * HOUR_MS for hour in range(6)]
    timestamps[5:5] = [timestamps[4] + 1_000]
    for timestamp in timestamps:
        place(config, state, np.array([timestamp]))
    assert state.interval_ms.tolist() == [HOUR_MS]


def test_a_stray_timestamp_among_the_first_makes_no_finer_grid() -> None:
    state = TimelineState.empty(1, 0)
    for timestamp in [START, START + 1_000, *(START + hour * HOUR_MS for hour in range(1, 5))]:
        place(GridConfig(), state, np.array([timestamp]))
    assert state.interval_ms.tolist() == [HOUR_MS]


def test_an_expired_series_learns_its_interval_again() -> None:
    """A series expires when it is idle for longer than its time to live."""
    state = TimelineState.empty(1, 0)
    for hour in range(5):
        place(GridConfig(), state, np.array([START + hour * HOUR_MS]))
    later = START + 60 * 24 * HOUR_MS
    placements = [place(GridConfig(), state, np.array([later + minute * 60_000])) for minute in range(6)]
    assert [bool(placement.expired[0]) for placement in placements] == [False, True, False, False, False, False]
    assert state.interval_ms.tolist() == [60_000]


def test_a_configured_interval_never_changes() -> None:
    fine = [START + number * SECOND for number in range(500)]
    _, _, restarts, state = feed(fine)
    assert state.interval_ms[0] == MINUTE
    assert sum(restarts) == 1
    outcomes, _, _, _ = feed([START, *(START + number * 10 * DAY for number in range(1, 13))])
    assert outcomes == [F] + [A] * 12
