"""What a daemon imports, for the process that all daemons are forked from."""

import faults  # noqa: F401 - imported for its imports: worker, trainer and client
import torch  # noqa: F401 - imported only when a network is built

import forecaster.app.daemon
import forecaster.cli.commands
import forecaster.cli.run
import forecaster.core.network.model  # noqa: F401
