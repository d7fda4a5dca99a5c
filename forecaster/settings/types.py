"""Types of variables, parsed from the text that operators write: durations, lists, ranges, schedules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(value: Any) -> Any:
    """Return the milliseconds of `500ms`, `30s`, `15m`, `1h` or `7d`.

    Raises:
        ValueError: the text is not a duration.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", value.strip())
    if match is None:
        raise ValueError("expected a duration such as 500ms, 30s, 15m, 1h or 7d")
    return int(match[1]) * UNITS_MS[match[2]]


def parse_list(value: Any) -> Any:
    """Return the parts of a text between its commas, without surrounding spaces; empty parts are left out."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def parse_optional(value: Any) -> Any:
    """Return None for an empty text, any other value unchanged."""
    return None if value == "" else value


def check_readable(path: str) -> str:
    """Return the path of a file that can be opened; an empty path is returned unchanged.

    Raises:
        ValueError: the file cannot be opened.
    """
    if path:
        try:
            Path(path).open("rb").close()
        except (OSError, ValueError) as error:  # ValueError: the text cannot be a path
            raise ValueError(f"cannot be read: {getattr(error, 'strerror', 'this is no path')}") from None
    return path


def check_addresses(addresses: str) -> str:
    """Return the addresses of brokers unchanged.

    Raises:
        ValueError: they hold a user's name, and perhaps a password.
    """
    if "@" in addresses:
        raise ValueError(
            "expected host:port,host:port without a user: set FORECASTER_KAFKA__SASL_USERNAME and "
            "FORECASTER_KAFKA__SASL_PASSWORD"
        )
    return addresses


def check_distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names unchanged.

    Raises:
        ValueError: a name is in the list twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the list has {name} twice; expected each name once")
    return names


Milliseconds = Annotated[int, BeforeValidator(parse_duration), Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(parse_list), AfterValidator(check_distinct)]
Addresses = Annotated[Name, AfterValidator(check_addresses)]
File = Annotated[str, AfterValidator(check_readable)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(parse_list)]


def parse_interval(value: Any) -> Any:
    """Return the milliseconds of a duration, 0 for `auto`; raise ValueError for other text."""
    return 0 if value == "auto" else parse_duration(value)


def parse_seasons(value: Any) -> Any:
    """Return the durations of a list; a day and a week for `auto`."""
    return parse_list("1d,7d" if value == "auto" else value)


Seasons = Annotated[tuple[Milliseconds, ...], BeforeValidator(parse_seasons), Field(max_length=3)]


def parse_range(value: Any) -> Any:
    """Return both ends of `low,high`, infinite if one is left out; None for an empty text.

    Raises:
        ValueError: the ends are not numbers, or not in ascending order.
    """
    if not isinstance(value, str):
        return value
    if not value:
        return None
    expected = ValueError("expected the least value and the greatest, such as -40,60; one of them may be left out")
    low, _, high = (part.strip() for part in value.partition(","))
    try:
        ends = (float(low or "-inf"), float(high or "inf"))
    except ValueError:
        raise expected from None
    if not ends[0] < ends[1]:
        raise expected
    return ends


def parse_schedule(value: Any) -> Any:
    """Return the text of a schedule without surrounding spaces.

    Raises:
        ValueError: the text is not `every DURATION`, `cron` with five fields, or `off`.
    """
    text = str(value).strip()
    kind, _, rest = text.partition(" ")
    if kind == "every" and rest:
        parse_duration(rest)
    elif not (kind == "cron" and len(rest.split()) == 5) and text != "off":
        raise ValueError("expected `every 1h`, `cron 0 3 * * *` (UTC) or `off`")
    return text


Schedule = Annotated[str, BeforeValidator(parse_schedule)]


def parse_replay_limit(value: Any) -> Any:
    """Return a number of readings unchanged, 0 for `auto`."""
    return 0 if value == "auto" else value
