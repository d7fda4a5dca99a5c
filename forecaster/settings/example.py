"""The generated list of all settings, `config/forecaster.env`."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from forecaster.redaction import without_secrets
from forecaster.settings import Settings, variables
from forecaster.settings.types import UNITS_MS, parse_duration, parse_interval, parse_replay_limit

LINE_WIDTH = 118
REQUIRED = {"kafka.bootstrap_servers": "localhost:9092", "topics.input": "readings"}
HEADER = """\
# Every variable of forecaster with its meaning and its default. Durations are 500ms, 30s, 15m, 1h, 7d.
# For `docker run --env-file`, which takes lines as they are; a shell needs quotes around values with spaces.
# Generated: python -m forecaster.settings.example > config/forecaster.env
"""


def example_environment() -> str:
    """Return an environment file: required variables set, the others commented out with their defaults."""
    lines = [HEADER]
    last = None
    for variable, (group, name) in variables().items():
        if group != last:
            if group:
                lines.append(f"\n## {_group_description(group)}\n")
            last = group
        path = f"{group}.{name}" if group else name
        lines.append(_comment(_field(group, name).description or ""))
        if path in REQUIRED:
            lines.append(f"{variable}={REQUIRED[path]}")
        else:
            lines.append(f"#{variable}={as_written(group, name, _field(group, name).default)}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """Return a text as comment lines."""
    return textwrap.fill(
        " ".join(text.split()),
        LINE_WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _group_description(group: str) -> str:
    model = Settings.model_fields[group].annotation
    return (model.__doc__ or "").strip() if isinstance(model, type) and issubclass(model, BaseModel) else ""


def _field(group: str, name: str) -> FieldInfo:
    model: Any = Settings.model_fields[group].annotation if group else Settings
    field: FieldInfo = model.model_fields[name]
    return field


def as_written(group: str, name: str, value: Any) -> str:
    """Return the value of a variable as an operator would write it; a secret is empty, or `(hidden)` in a JSON object.

    Args:
        group: group of the variable; empty = it has none.
        name: name of the variable in its group.
        value: the parsed value, as in the settings.
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
        return json.dumps(without_secrets(value))
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
