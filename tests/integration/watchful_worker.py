"""A daemon that looks at its topics every second, so that a test need not wait."""

from __future__ import annotations

import sys

from forecaster.cli.commands import main
from forecaster.serving import topic_watch

topic_watch.LOOK_SECONDS = 1.0
sys.argv = ["forecaster", "run"]
main()
