"""The program `forecaster`: all commands, and the exit codes of `errors`."""

from __future__ import annotations

import sys
import traceback

import typer

from forecaster.cli.backtest import backtest
from forecaster.cli.check import check
from forecaster.cli.demo import demo
from forecaster.cli.explain import explain
from forecaster.cli.learn import learn
from forecaster.cli.models import models
from forecaster.cli.run import run
from forecaster.cli.seed import seed
from forecaster.cli.topics import topics
from forecaster.cli.train import train
from forecaster.errors import ForecasterError
from forecaster.logs import secrets_hidden_in_output
from forecaster.printable import printable

SPACES = "\n\t"
"""What stays of the characters in an error that are not printable: the id of a series may hold any."""

commands = typer.Typer(
    help="Probabilistic forecasts for Kafka sensor streams, exactly once. Settings: FORECASTER_<GROUP>__<NAME>.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (run, demo, backtest, train, topics, seed, explain, check):
    commands.command()(command)
commands.command(hidden=True)(learn)
commands.add_typer(models, name="models", help="List, show, promote and roll back the checkpoints on the models topic.")


def main() -> None:
    """Run the command that the arguments name; exit with the code of its error, if it raises one."""
    with secrets_hidden_in_output():
        try:
            commands()
        except ForecasterError as error:
            sys.stderr.write(f"error: {printable(str(error), keep=SPACES)}\n")
            sys.exit(error.exit_code)
        except Exception:
            trace = traceback.format_exc()  # the interpreter would print it after the context, with secrets
            sys.stderr.write(printable(trace, keep=SPACES))
            sys.exit(ForecasterError.exit_code)
