"""A child has a deadline, and ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import wait_until

from forecaster.learning import child_process as process
from forecaster.learning.child_process import ChildProcess, ExitKind

SLEEPER = """
import sys, threading
from forecaster.learning.child_process import end_with_parent
end_with_parent(sys.stdin.fileno())
print("asleep", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def quick_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that a child runs prints its arguments, and succeeds only when it is asked for help."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$@"\ntest "$3" = --help\n')
    program.chmod(0o700)
    monkeypatch.setattr(process.sys, "executable", str(program))


@pytest.mark.usefixtures("quick_program")
def test_the_output_of_a_failed_child_can_be_read(tmp_path: Path) -> None:
    child = ChildProcess(["no-such-command"], tmp_path / "log", 60.0)
    wait_until(lambda: child.poll() is not None, "its end")
    assert child.poll() == ExitKind.FAILED
    assert child.output_tail == "-m forecaster no-such-command"


@pytest.mark.usefixtures("quick_program")
def test_a_child_that_ends_without_an_error_is_ok(tmp_path: Path) -> None:
    child = ChildProcess(["--help"], tmp_path / "log", 60.0)
    wait_until(lambda: child.poll() is not None, "its end")
    assert child.poll() == ExitKind.OK


def test_a_child_past_its_deadline_is_killed(tmp_path: Path) -> None:
    child = ChildProcess(["demo", "--seconds", "60"], tmp_path / "log", 0.0)
    assert child.poll() == ExitKind.KILLED
    assert child._process.returncode is not None  # noqa: SLF001 - it no longer runs


def test_a_child_that_cannot_be_killed_does_not_block_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = ChildProcess(["demo", "--seconds", "60"], tmp_path / "log", 60.0)
    monkeypatch.setattr(process, "KILL_SECONDS", 0.01)
    monkeypatch.setattr(child._process, "kill", lambda: None)  # noqa: SLF001 - as if the signal could not be taken
    child.kill()
    monkeypatch.undo()
    child.kill()
    assert child._process.returncode is not None  # noqa: SLF001


def test_a_child_ends_when_the_pipe_of_its_parent_is_closed() -> None:
    child = subprocess.Popen([sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"asleep\n"
        assert os.getpriority(os.PRIO_PROCESS, child.pid) > 0, "it gives way to the worker"
        child.stdin.close()
        assert child.wait(30) == 1
