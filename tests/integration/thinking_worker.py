"""A daemon that decodes a record with the key `think` slowly, so that a test can stop it in the middle of a batch."""

from __future__ import annotations

import sys
import threading
from typing import Any

from forecaster.cli.commands import main
from forecaster.formats.readings import Decoder

THINKING_SECONDS = 4.0
decode = Decoder.decode


def thinking(self: Decoder, records: Any) -> Any:
    if any(record.key == b"think" for record in records):
        sys.stderr.write("thinking\n")
        sys.stderr.flush()
        threading.Event().wait(THINKING_SECONDS)
    return decode(self, records)


Decoder.decode = thinking  # type: ignore[method-assign]
sys.argv = ["forecaster", "run"]
main()
