"""The command line: one module for each command. typer and rich are imported only here.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""

from forecaster.cli.commands import main

__all__ = ["main"]
