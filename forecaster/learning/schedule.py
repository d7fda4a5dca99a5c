"""The schedule of the training runs.

APScheduler's jobs only mark a kind of run as due. They never train, so that no job blocks the next one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC
from types import TracebackType

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.errors import UsageError
from forecaster.learning.kinds import RunKind

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


VARIABLES = {
    RunKind.TRAINING: "FORECASTER_TRAINING__SCHEDULE",
    RunKind.REFIT: "FORECASTER_TRAINING__READOUT_SCHEDULE",
}


class Schedule:
    """Marks kinds of runs as due while its context is open.

    Args:
        times: `every DURATION`, `cron MINUTE HOUR DAY MONTH WEEKDAY` (UTC) or `off`, for each kind of run.

    Raises:
        UsageError: a text cannot be read.
    """

    def __init__(self, times: Mapping[RunKind, str]) -> None:
        self._due: set[RunKind] = set()
        self._lock = threading.Lock()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(1)},
            # A late job still runs (APScheduler's default skips it after one second), and once however often it was
            # late; a job ends at once, so that one instance is enough.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        triggers = {kind: _trigger(kind, text) for kind, text in times.items()}
        self.kinds = frozenset(kind for kind, trigger in triggers.items() if trigger is not None)
        """Kinds that are not `off`."""
        for kind, trigger in triggers.items():
            if trigger is not None:
                self._scheduler.add_job(self._fire, trigger, args=[kind], id=kind.value)

    def __enter__(self) -> Schedule:
        self._scheduler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._scheduler.shutdown(wait=False)

    def take(self) -> set[RunKind]:
        """Return the kinds that have become due since the last call."""
        with self._lock:
            due, self._due = self._due, set()
        return due

    def _fire(self, kind: RunKind) -> None:
        with self._lock:
            self._due.add(kind)


def _trigger(kind: RunKind, text: str) -> BaseTrigger | None:
    """Return the trigger that a text asks for; None = `off`."""
    variable = VARIABLES[kind]
    form, _, rest = text.strip().partition(" ")
    try:
        if form == "off" and not rest:
            return None
        if form == "every":
            number = rest.strip().rstrip("dhms")
            return IntervalTrigger(seconds=int(number) * SECONDS[rest.strip()[len(number) :]], timezone=UTC)
        if form == "cron":
            *fields, weekdays = rest.split()
            return CronTrigger.from_crontab(" ".join([*fields, _weekday_names(weekdays)]), timezone=UTC)
    except (ValueError, KeyError) as error:
        raise UsageError(f"{variable}={text!r}: {error}") from error
    raise UsageError(f"{variable}={text!r}: expected `every 1h`, `cron 0 3 * * *` (UTC) or `off`")


def _weekday_names(field: str) -> str:
    """Return the weekdays of a cron field as names.

    Numbers mean different days: cron counts from Sunday, which is 0 and 7, and APScheduler from Monday.
    """
    if field == "*":
        return field
    names: list[str] = []
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        first, _, last = "0-6".partition("-") if span == "*" else span.partition("-")
        begin = _weekday_number(first)
        end = _weekday_number(last) if last else 6 if step else begin
        days = range(begin, end + (7 if end < begin else 0) + 1, int(step or 1))
        names += [WEEKDAYS[day % 7] for day in days]
    return ",".join(dict.fromkeys(names))


def _weekday_number(text: str) -> int:
    if text in WEEKDAYS:
        return WEEKDAYS.index(text)
    if text.isdigit() and int(text) <= 7:
        return int(text)
    raise ValueError(f"{text!r} is no weekday: 0 to 7 (0 and 7 are Sunday), or {', '.join(WEEKDAYS)}")
