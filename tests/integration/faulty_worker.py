"""A daemon with a fault: it kills or stops itself at a point of its work, and writes that to standard error.

FORECASTER_TEST_FAULT is `<point>:<signal>:<times>`: the daemon sends itself the signal when it reaches the point for
the n-th time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from faults import install

from forecaster.cli.commands import main

install(os.environ["FORECASTER_TEST_FAULT"])
sys.argv = ["forecaster", "run"]
main()
