"""The daemon with a pipeline that never returns, and a watchdog that waits for seconds instead of minutes."""

from __future__ import annotations

import sys
import threading

from forecaster.app import watchdog
from forecaster.cli.commands import main
from forecaster.serving import worker

watchdog.TICK_SECONDS, watchdog.SICK_SECONDS, watchdog.DEADLINE_SECONDS = 0.1, 1.0, 3.0
worker.advance = lambda *_: threading.Event().wait()  # type: ignore[assignment,attr-defined,return-value]
sys.argv = ["forecaster", "run"]
main()
