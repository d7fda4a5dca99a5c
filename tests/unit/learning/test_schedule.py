"""Jobs mark runs as due, and never block the next job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from daemons import wait_until

from forecaster.errors import UsageError
from forecaster.learning.kinds import RunKind
from forecaster.learning.schedule import Schedule
from forecaster.settings.types import parse_schedule


def test_a_run_is_due_once_however_often_its_job_fired() -> None:
    with Schedule({RunKind.TRAINING: "every 20ms", RunKind.REFIT: "off"}) as schedule:
        for _ in range(3):
            due: set[RunKind] = set()
            wait_until(lambda due=due: due.update(schedule.take()) or due, "a job")  # type: ignore[misc]
            assert due == {RunKind.TRAINING}


def test_a_late_job_still_runs_and_only_once() -> None:
    with Schedule({RunKind.TRAINING: "every 1h", RunKind.REFIT: "cron 0 3 * * *"}) as schedule:
        jobs = schedule._scheduler.get_jobs()  # noqa: SLF001 - what APScheduler was told
        assert {job.id for job in jobs} == {"training", "readout"}
        assert all(job.misfire_grace_time is None and job.coalesce and job.max_instances == 1 for job in jobs)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("*", "mon tue wed thu fri sat sun"),
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon tue wed thu fri"),
        ("0-2", "mon tue sun"),
        ("5-7", "fri sat sun"),
        ("fri-mon", "mon fri sat sun"),
        ("*/2", "tue thu sat sun"),
        ("2-6/2", "tue thu sat"),
        ("MON,3", "mon wed"),
    ],
)
def test_weekdays_are_those_of_cron(field: str, expected: str) -> None:
    schedule = Schedule({RunKind.TRAINING: f"cron 0 3 * * {field}"})
    (job,) = schedule._scheduler.get_jobs()  # noqa: SLF001 - what APScheduler was told
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    days = [monday + timedelta(days=number) for number in range(7)]
    fires = {job.trigger.get_next_fire_time(None, day).date() for day in days} & {day.date() for day in days}
    assert " ".join(day.strftime("%a").lower() for day in sorted(fires)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "every",
        "every 1",
        "every -1h",
        "hourly",
        "cron 0 3 * *",
        "cron 99 * * * *",
        "cron * * * * 8",
        "cron * * * * day",
        "",
    ],
)
def test_a_wrong_schedule_is_refused_by_the_name_of_its_variable(text: str) -> None:
    with pytest.raises((UsageError, ValueError), match=r"expected|SCHEDULE"):
        Schedule({RunKind.TRAINING: parse_schedule(text)})
