"""`forecaster run`: the daemon."""

from __future__ import annotations

import structlog

from forecaster.app.daemon import serve
from forecaster.errors import FatalError
from forecaster.logs import configure_logs
from forecaster.settings import load_settings

_log = structlog.get_logger()


def run() -> None:
    """Run the daemon until SIGTERM: forecast every reading of the input topic."""
    settings = load_settings()
    configure_logs(settings.log.level, settings.log.format)
    try:
        serve(settings)
    except FatalError as error:
        _log.error("daemon_failed", exit_code=error.exit_code, error=str(error))
        raise
