"""`python -m forecaster` is the command `forecaster`."""

from forecaster.cli.commands import main

main()
