"""What variables hold, as operators write it: durations, lists, schedules; see `settings`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(value: Any) -> Any:
    """Returns milliseconds of `500ms`, `30s`, `15m`, `1h`, `7d`; raises ValueError for other text."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", value.strip())
    if match is None:
        raise ValueError("expected a duration such as 500ms, 30s, 15m, 1h or 7d")
    return int(match[1]) * UNITS_MS[match[2]]


def listed(value: Any) -> Any:
    """Returns the parts of a text between commas."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def optional(value: Any) -> Any:
    """Returns None of an empty text."""
    return None if value == "" else value


def readable(path: str) -> str:
    """Returns the path of a file that can be read; raises ValueError where it cannot. Empty = no file."""
    if path:
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
    return path


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names; raises ValueError where one comes twice."""
    if len(set(names)) < len(names):
        raise ValueError("a name comes twice")
    return names


Milliseconds = Annotated[int, BeforeValidator(parse_duration), Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(listed), AfterValidator(distinct)]
File = Annotated[str, AfterValidator(readable)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(listed)]


def parse_interval(value: Any) -> Any:
    """Returns milliseconds of a duration; 0 of `auto`."""
    return 0 if value == "auto" else parse_duration(value)


def parse_seasons(value: Any) -> Any:
    """Returns durations in a list; a day and a week of `auto`."""
    return listed("1d,7d" if value == "auto" else value)


Seasons = Annotated[tuple[Milliseconds, ...], BeforeValidator(parse_seasons), Field(max_length=3)]


def parse_range(value: Any) -> Any:
    """Returns both ends of `low,high`, either of which may be missing; None of an empty text."""
    if not isinstance(value, str):
        return value
    if not value:
        return None
    low, _, high = value.partition(",")
    found = (float(low) if low.strip() else float("-inf"), float(high) if high.strip() else float("inf"))
    if not found[0] < found[1]:
        raise ValueError("expected the least value and the greatest, such as -40,60; one of them may be missing")
    return found


def parse_schedule(value: Any) -> Any:
    """Returns the text of a schedule; raises ValueError where it is none."""
    kind, _, rest = str(value).strip().partition(" ")
    if kind == "every" and rest:
        parse_duration(rest)
    elif not (kind == "cron" and len(rest.split()) == 5) and str(value).strip() != "off":
        raise ValueError("expected `every 1h`, `cron 0 3 * * *` (UTC) or `off`")
    return str(value).strip()


Schedule = Annotated[str, BeforeValidator(parse_schedule)]


def parse_replay_limit(value: Any) -> Any:
    """Returns a number of readings; 0 of `auto`."""
    return 0 if value == "auto" else value
