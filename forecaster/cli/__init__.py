"""The command line: one module for each command. typer and rich are imported only here.

May import every other package.
"""

from forecaster.cli.commands import main

__all__ = ["main"]
