"""A child has a deadline, and ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import wait_until

from forecaster.learning import process
from forecaster.learning.process import ChildProcess, Ended

SLEEPER = """
import sys, threading
from forecaster.learning.process import end_with_parent
end_with_parent(sys.stdin.fileno())
print("asleep", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that a child runs prints its arguments, and succeeds only when it is asked for help."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$@"\ntest "$3" = --help\n')
    program.chmod(0o700)
    monkeypatch.setattr(process.sys, "executable", str(program))


@pytest.mark.usefixtures("quick")
def test_a_child_that_fails_has_last_words(tmp_path: Path) -> None:
    child = ChildProcess(["no-such-command"], tmp_path / "log", 60.0)
    wait_until(lambda: child.poll() is not None, "its end")
    assert child.poll() == Ended.FAILED
    assert child.last_words == "-m forecaster no-such-command"


@pytest.mark.usefixtures("quick")
def test_a_child_that_ends_well_has_done_so(tmp_path: Path) -> None:
    child = ChildProcess(["--help"], tmp_path / "log", 60.0)
    wait_until(lambda: child.poll() is not None, "its end")
    assert child.poll() == Ended.WELL


def test_a_child_past_its_deadline_is_killed(tmp_path: Path) -> None:
    child = ChildProcess(["demo", "--seconds", "60"], tmp_path / "log", 0.0)
    assert child.poll() == Ended.KILLED
    assert child._process.returncode is not None  # noqa: SLF001 - it does not run any more


def test_a_child_that_the_system_cannot_end_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = ChildProcess(["demo", "--seconds", "60"], tmp_path / "log", 60.0)
    monkeypatch.setattr(process, "KILL_SECONDS", 0.01)
    monkeypatch.setattr(child._process, "kill", lambda: None)  # noqa: SLF001 - as if the signal could not be taken
    child.end()
    monkeypatch.undo()
    child.end()
    assert child._process.returncode is not None  # noqa: SLF001


def test_a_child_ends_when_the_pipe_of_its_parent_does() -> None:
    child = subprocess.Popen([sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"asleep\n"
        assert os.getpriority(os.PRIO_PROCESS, child.pid) > 0, "it gives way to the worker"
        child.stdin.close()
        assert child.wait(30) == 1
