"""The program's commands in the test's own process: a new interpreter would take seconds to import what is here."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from forecaster.cli import main


def run_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `forecaster` with these arguments; of the FORECASTER_ variables, it sees only these.

    Returns:
        Its exit code, and what it printed on a terminal of 200 columns.
    """
    code, output, errors = 0, StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        for name in [name for name in os.environ if name.startswith("FORECASTER_")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(f"FORECASTER_{name}", value)
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["forecaster", *arguments])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())
