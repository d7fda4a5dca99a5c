"""The example of all settings, generated, so that it is never out of date."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from forecaster.settings import Settings, variables
from forecaster.settings.types import UNITS_MS, parse_duration, parse_interval, parse_replay_limit

SECRET = re.compile("password|secret|token|proxy")
"""A client's option of such a name is not shown."""
REQUIRED = {"kafka.bootstrap_servers": "localhost:9092", "topics.input": "readings"}
HEADER = """\
# Every variable of forecaster: what it means, and its default. Durations: 500ms, 30s, 15m, 1h, 7d. Secrets have a
# ..._FILE twin that names a file. For `docker run --env-file`, which takes lines as they are: a shell needs quotes.
# Generated: python -m forecaster.settings.example > config/forecaster.env
"""


def example_environment() -> str:
    """Returns an environment file: required variables set, the others commented out with their defaults."""
    lines = [HEADER]
    last = None
    for variable, (group, name) in variables().items():
        if group != last:
            if group:
                lines.append(f"\n## {_description(group)}\n")
            last = group
        path = f"{group}.{name}" if group else name
        lines.append(f"# {_field(group, name).description}")
        if path in REQUIRED:
            lines.append(f"{variable}={REQUIRED[path]}")
        else:
            lines.append(f"#{variable}={as_written(group, name, _field(group, name).default)}")
    return "\n".join(lines) + "\n"


def _description(group: str) -> str:
    """Returns what a group of variables is about."""
    model = Settings.model_fields[group].annotation
    return (model.__doc__ or "").strip() if isinstance(model, type) and issubclass(model, BaseModel) else ""


def _field(group: str, name: str) -> FieldInfo:
    model: Any = Settings.model_fields[group].annotation if group else Settings
    found: FieldInfo = model.model_fields[name]
    return found


def as_written(group: str, name: str, value: Any) -> str:
    """Returns a variable's value as an operator would write it; nothing of a secret.

    Args:
        group: of the variable; empty = it is of none.
        name: of the variable in its group.
        value: as the settings have it.
    """
    field = _field(group, name)
    if any(_is_duration(part) for part in [*field.metadata, *_nested_metadata(field.annotation)]):
        return ",".join(map(_duration_text, value)) if isinstance(value, tuple) else _duration_text(value)
    if any(isinstance(part, BeforeValidator) and part.func is parse_replay_limit for part in field.metadata):
        return str(value or "auto")
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    if isinstance(value, SecretStr) or value is None:
        return ""
    if isinstance(value, dict):
        return json.dumps({key: "(hidden)" if SECRET.search(key) else part for key, part in value.items()})
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _nested_metadata(annotation: Any) -> list[Any]:
    return [part for option in get_args(annotation) for part in getattr(option, "__metadata__", ())]


def _is_duration(part: Any) -> bool:
    return isinstance(part, BeforeValidator) and part.func in (parse_duration, parse_interval)


def _duration_text(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    if milliseconds == 0:
        return "auto"
    unit = next(unit for unit in reversed(UNITS_MS) if milliseconds % UNITS_MS[unit] == 0)
    return f"{milliseconds // UNITS_MS[unit]}{unit}"


if __name__ == "__main__":
    sys.stdout.write(example_environment())
