"""Log events are constants that operators can look up, and other libraries do not flood the log."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeGuard

import pytest
import structlog
from clock import FakeClock

from forecaster import logs, redaction
from forecaster.logs import REMEMBERED_MESSAGES, REPEAT_SECONDS, RepeatFilter, configure_logs, secrets_hidden_in_output
from forecaster.redaction import Redactor

ROOT = Path(__file__).parents[2]
SNAKE_CASE = re.compile(r"[a-z]+(_[a-z]+)*")


def is_log_line(node: ast.AST) -> TypeGuard[ast.Call]:
    is_method_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_method_call and ast.unparse(node.func).startswith("_log.")  # type: ignore[attr-defined]


def event_of(line: ast.Call) -> ast.expr:
    return line.args[1 if ast.unparse(line.func) == "_log.log" else 0]


def log_events(path: Path) -> Iterator[tuple[int, ast.expr]]:
    """Yield the line number and the event of each log line of a module.

    A method may log an event that it receives as its first argument: then the events are those of its calls.
    """
    nodes = list(ast.walk(ast.parse(path.read_text())))
    methods = {
        function.name: [line for line in ast.walk(function) if is_log_line(line) and passes_on(line, function)]
        for function in nodes
        if isinstance(function, ast.FunctionDef)
    }
    passed_on = [line for lines in methods.values() for line in lines]
    for node in nodes:
        if is_log_line(node) and node not in passed_on:
            yield node.lineno, event_of(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and methods.get(node.func.attr):
            yield node.lineno, node.args[0]


def passes_on(line: ast.Call, function: ast.FunctionDef) -> bool:
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    return bool(names) and ast.unparse(event_of(line)) == names[0]


def events_in_code() -> set[str]:
    events = set()
    for path in sorted((ROOT / "forecaster").rglob("*.py")):
        for line, event in log_events(path):
            assert isinstance(event, ast.Constant), f"{path}:{line}: an event is a constant"
            events.add(str(event.value))
    return events


def test_every_log_event_is_a_snake_case_constant() -> None:
    assert not [event for event in events_in_code() if not SNAKE_CASE.fullmatch(event)]


def test_the_table_of_log_events_equals_the_code() -> None:
    """The table is in deploy/README.md; operators write alerts by it."""
    section = (ROOT / "deploy" / "README.md").read_text().partition("### Log events")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == events_in_code()


def test_every_module_logs_through_a_logger_called_log() -> None:
    """Otherwise an event could escape the table."""
    for path in sorted((ROOT / "forecaster").rglob("*.py")):
        text = path.read_text()
        assert text.count("structlog.get_logger") == text.count("_log = structlog.get_logger()"), path
        assert path.name == "logs.py" or "logging.getLogger" not in text, path
        assert not re.search(r"= _log\.", text), f"{path}: call the logger where it logs"


def test_a_message_that_is_repeated_is_written_once_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = FakeClock()
    configure_logs("INFO", "json", clock)
    client = logging.getLogger("kafka.net")
    for number in range(50):
        client.error("connection %d failed", number)
        client.error("authentication failed")
    assert capsys.readouterr().err.count("\n") == 2
    clock.advance(REPEAT_SECONDS)
    client.error("connection %d failed", 51)
    assert "connection 51 failed" in capsys.readouterr().err


def test_at_debug_everything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("DEBUG", "json")
    for number in range(50):
        logging.getLogger("kafka.net").debug("sent %d", number)
    assert capsys.readouterr().err.count("sent") == 50


def test_the_memory_of_written_messages_is_bounded() -> None:
    repeats = RepeatFilter()
    for number in range(3 * REMEMBERED_MESSAGES):
        text = "x" * number
        assert repeats.filter(logging.LogRecord("kafka", logging.ERROR, "client.py", 1, text, None, None))
    assert len(repeats._written_at) <= REMEMBERED_MESSAGES  # noqa: SLF001


class SaslAuthenticateRequest:
    def __repr__(self) -> str:
        return "SaslAuthenticateRequest(auth_bytes=pw1)"


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("a message of the client")

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "incomparable"


class Unwritable:
    def __repr__(self) -> str:
        raise ValueError("pw1")


@pytest.fixture
def hunter2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has the secret `hunter2-S3CR3T`."""
    known = Redactor()
    known.add(["hunter2-S3CR3T"])
    monkeypatch.setattr(logs, "KNOWN_SECRETS", known)
    monkeypatch.setattr(redaction, "KNOWN_SECRETS", known)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.usefixtures("hunter2")
def test_no_line_of_another_library_shows_a_secret_however_short(
    capsys: pytest.CaptureFixture[str], form: Literal["json", "text"]
) -> None:
    configure_logs("DEBUG", form)
    client = logging.getLogger("kafka.net")
    client.debug("configuration %s", {"sasl_plain_password": "pw1", "linger_ms": 5})
    client.debug("%s sends %s", "node 1", {"ssl_password": "pw1"})
    client.debug("%s sends %s", 1, SaslAuthenticateRequest())
    client.debug("%s sends %r", 1, b"\0app\0pw1")
    client.debug("%s sends %r", 1, bytearray(b"c=biws,p=pw1"))
    client.debug("%s sends %s", 1, Unwritable())
    client.debug("sends %s, %s", {1: [SaslAuthenticateRequest()]}, (b"\0app\0pw1",))
    client.debug("requests %s", {"broker": Incomparable()})
    client.debug("found %s", {"password of app": "hunter2-S3CR3T"}["password of app"])
    try:
        raise ValueError("hunter2-S3CR3T")
    except ValueError:
        client.exception("failed")
    written = capsys.readouterr().err
    assert written.count("\n") >= 8
    assert "linger_ms" in written
    assert "incomparable" in written
    assert "Traceback" in written
    assert "pw1" not in written
    assert "S3CR3T" not in written


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.usefixtures("hunter2")
def test_no_event_shows_a_secret(capsys: pytest.CaptureFixture[str], form: Literal["json", "text"]) -> None:
    configure_logs("INFO", form)
    secret = 'hunter2-S3CR3T"'
    try:
        raise ValueError(secret)
    except ValueError as error:
        structlog.get_logger().exception("failed", error=error, found=[secret], **{secret: {"a": secret.encode()}})
    written = capsys.readouterr().err
    assert "S3CR3T" not in written
    assert "Traceback" in written
    if form == "json":
        assert json.loads(written)["found"] == ['(hidden)"']


@pytest.mark.usefixtures("hunter2")
def test_nothing_that_a_process_prints_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with secrets_hidden_in_output():
        print("hunter2-S3CR3T")  # noqa: T201 - what is tested
        sys.stderr.writelines(["hunter2-S3CR3T\n"])
        thread = threading.Thread(target=print, args=("hunter2-S3CR3T",), kwargs={"file": sys.stderr})
        thread.start()
        thread.join()
        configure_logs("INFO", "json")
        structlog.get_logger().info("started", secret="hunter2-S3CR3T")
    printed = capsys.readouterr()
    assert printed.out == "(hidden)\n"
    assert printed.err.count("(hidden)") == 3
    assert "S3CR3T" not in printed.err
