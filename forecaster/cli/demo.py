"""`forecaster demo`: the real daemon over real weather, with a broker in memory."""

from __future__ import annotations

from typing import Annotated

import typer

from forecaster.demo.run import Pace, run_demo


def demo(
    *,
    seconds: Annotated[float, typer.Option(help="Stop streaming after this many seconds; 0 = stream everything.")] = 0,
    speed: Annotated[float, typer.Option(help="Hours of weather per second; 0 = as fast as possible.")] = 0,
    page: Annotated[bool, typer.Option(help="Open the live page in a browser.")] = True,
) -> None:
    """Forecast the weather of three airports with a broker in memory, the real daemon and its page; print a summary."""
    run_demo(Pace(seconds=seconds, hours_per_second=speed), page=page)
