"""Batches of a backlog take the target time, whatever a reading costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forecaster.serving.batch_size import MIN_RECORDS, TARGET_SECONDS, BatchLimit

MOST = 2_000


def after_batches(seconds: Callable[[int], float], count: int = 20, limit: BatchLimit | None = None) -> BatchLimit:
    """The limit after `count` batches of a backlog, with a consumer that delivers at most MOST records."""
    limit = limit or BatchLimit()
    for _ in range(count):
        records = min(limit.records, MOST)
        limit = limit.after(records, seconds(records))
    return limit


@pytest.mark.parametrize("records_per_second", [500, 1_000, 5_000])
def test_batches_of_a_backlog_take_the_target_time(records_per_second: int) -> None:
    limit = after_batches(lambda records: 0.01 + records / records_per_second)
    assert limit.records == pytest.approx((TARGET_SECONDS - 0.01) * records_per_second, rel=0.02)


def test_cheap_records_fill_the_largest_poll() -> None:
    assert MOST <= after_batches(lambda records: records / 50_000).records <= 2 * MOST


def test_expensive_records_still_come_in_batches() -> None:
    assert after_batches(lambda records: float(records)).records == MIN_RECORDS


def test_a_limit_follows_a_change_of_the_cost() -> None:
    cheap = after_batches(lambda records: records / 50_000)
    expensive = after_batches(lambda records: records / 1_000, limit=cheap)
    assert expensive.records == pytest.approx(TARGET_SECONDS * 1_000, rel=0.02)
    assert after_batches(lambda records: records / 50_000, limit=expensive).records >= MOST


def test_a_batch_that_is_not_full_never_raises_the_limit() -> None:
    assert BatchLimit(500).after(1, 0.001) == BatchLimit(500)
    assert BatchLimit(500).after(499, TARGET_SECONDS) == BatchLimit(500)
    assert BatchLimit(500).after(400, 2 * TARGET_SECONDS).records < 500


def test_one_slow_batch_halves_the_limit_at_most() -> None:
    assert BatchLimit(800).after(3, 60.0) == BatchLimit(400)
    assert BatchLimit(800).after(800, 60.0) == BatchLimit(400)


def test_a_batch_that_took_no_time_doubles_the_limit() -> None:
    assert BatchLimit(800).after(800, 0.0) == BatchLimit(1_600)
