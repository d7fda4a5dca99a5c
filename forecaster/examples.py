"""The example of all settings, generated, so that it is never out of date."""

from __future__ import annotations

import sys

from forecaster.settings import NOT_YET, describe_default, group_descriptions, variables

REQUIRED = {"kafka.bootstrap_servers": "localhost:9092", "topics.input": "readings"}
HEADER = """\
# Every variable of forecaster with its default. Generated: python -m forecaster.examples > config/forecaster.env
# Durations: 500ms, 30s, 15m, 1h, 7d. Secrets have a ..._FILE twin that names a file.
"""


def example_environment() -> str:
    """Returns an environment file: required variables set, the others commented out with their defaults."""
    lines = [HEADER]
    last = None
    for variable, (group, name) in variables().items():
        if group != last:
            lines.append(f"\n# {group_descriptions()[group]}" if group else "")
            last = group
        path = f"{group}.{name}" if group else name
        if path in NOT_YET:
            lines.append("# (no effect in this version)")
        if path in REQUIRED:
            lines.append(f"{variable}={REQUIRED[path]}")
        else:
            lines.append(f"#{variable}={describe_default(group, name)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(example_environment())
