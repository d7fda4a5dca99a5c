"""When it is time to train. APScheduler's jobs only say so: they never work themselves, so none can block its slot."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC
from enum import StrEnum
from types import TracebackType

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.errors import UsageError

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class RunKind(StrEnum):
    """What the trainer can do."""

    TRAINING = "training"  # a new body, and its readout
    READOUT = "readout"  # a new readout of the body that serves


class Schedule:
    """Fires while the context is open.

    Args:
        when: `every DURATION`, `cron MINUTE HOUR DAY MONTH WEEKDAY` (UTC) or `off`, of each kind of work.

    Raises:
        UsageError: one of them cannot be read.
    """

    def __init__(self, when: Mapping[RunKind, str]) -> None:
        self._due: set[RunKind] = set()
        self._lock = threading.Lock()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(1)},
            # A job that is late runs all the same (APScheduler's default skips it after one second), once for all the
            # times that it was late; the jobs end at once, so that one instance is enough.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        triggers = {work: _trigger(work, text) for work, text in when.items()}
        self.works = frozenset(work for work, trigger in triggers.items() if trigger is not None)
        """What is done at all: what is `off` never is."""
        for work, trigger in triggers.items():
            if trigger is not None:
                self._scheduler.add_job(self._fire, trigger, args=[work], id=work.value)

    def __enter__(self) -> Schedule:
        self._scheduler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._scheduler.shutdown(wait=False)

    def take(self) -> set[RunKind]:
        """Returns what has become due since the last time."""
        with self._lock:
            due, self._due = self._due, set()
        return due

    def _fire(self, work: RunKind) -> None:
        with self._lock:
            self._due.add(work)


def _trigger(work: RunKind, text: str) -> BaseTrigger | None:
    variable = {RunKind.TRAINING: "SCHEDULE", RunKind.READOUT: "READOUT_SCHEDULE"}[work]
    kind, _, rest = text.strip().partition(" ")
    try:
        if kind == "off" and not rest:
            return None
        if kind == "every":
            number = rest.strip().rstrip("dhms")
            return IntervalTrigger(seconds=int(number) * SECONDS[rest.strip()[len(number) :]], timezone=UTC)
        if kind == "cron":
            *fields, weekdays = rest.split()
            return CronTrigger.from_crontab(" ".join([*fields, _named(weekdays)]), timezone=UTC)
    except (ValueError, KeyError) as error:
        raise UsageError(f"FORECASTER_TRAINING__{variable}={text!r}: {error}") from error
    raise UsageError(f"FORECASTER_TRAINING__{variable}={text!r}: expected `every 1h`, `cron 0 3 * * *` (UTC) or `off`")


def _named(field: str) -> str:
    """Returns cron's weekdays as names: cron counts from Sunday, which is 0 and 7, and APScheduler from Monday."""
    if field == "*":
        return field
    found: list[str] = []
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        first, _, last = "0-6".partition("-") if span == "*" else span.partition("-")
        begin = _weekday(first)
        end = _weekday(last) if last else 6 if step else begin
        days = range(begin, end + (7 if end < begin else 0) + 1, int(step or 1))
        found += [WEEKDAYS[day % 7] for day in days]
    return ",".join(dict.fromkeys(found))


def _weekday(text: str) -> int:
    if text in WEEKDAYS:
        return WEEKDAYS.index(text)
    if text.isdigit() and int(text) <= 7:
        return int(text)
    raise ValueError(f"{text!r} is no weekday: 0 to 7 (0 and 7 are Sunday), or {', '.join(WEEKDAYS)}")
