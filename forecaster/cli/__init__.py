"""The command line."""

from forecaster.cli.commands import main

__all__ = ["main"]
