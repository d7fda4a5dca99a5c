"""`forecaster explain`: one series from the state topic, as a worker that takes its partition over would restore it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from forecaster.app.connect import ask_broker, open_state
from forecaster.app.threads import use_one_torch_thread
from forecaster.app.topics import needed_topics
from forecaster.broker.consumer_groups import partition_of
from forecaster.broker.topics import TopicAdmin
from forecaster.cli.options import settings_with_broker
from forecaster.cli.terminal import console
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.errors import UsageError
from forecaster.printable import printable, printable_json
from forecaster.serving.inspect.explanation import Explanation, Inputs, NetworkExplanation, Pending, explain_series
from forecaster.serving.inspect.similar_ids import similar_ids
from forecaster.serving.state.recovery import Recovery
from forecaster.serving.state.restore import Restorer
from forecaster.settings import Settings

NEAR_IDS = 5
"""Number of similar ids that an error names."""


def explain(
    series: Annotated[str, typer.Argument(help="Id of the series: the key of its forecasts.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Explain one series from the state topic: readings, scale, checkpoint, pending forecasts and weights."""
    explanation = read_explanation(settings_with_broker(), series)
    if json:
        typer.echo(printable_json(explanation_json(explanation)))
    else:
        print_explanation(explanation)


def read_explanation(settings: Settings, series_id: str) -> Explanation:
    """Return the explanation of a series; restore its partition in memory, and write nothing.

    Raises:
        UsageError: no partition has the series; the message names series with a similar id.
        StateError: the state cannot be restored; `run` would fail in the same way.
        TopicError: a topic is missing or does not fit.
        BrokerUnavailable: no broker answered within the deadline.
    """

    def read(topics: TopicAdmin) -> Explanation:
        partitions = topics.ensure(settings.topics.input, needed_topics(settings), create=False)
        with open_state(settings, topics) as (follower, restorer):
            return explain_from(restorer, series_id, partitions, follower.champion, follower.registry.checkpoints)

    use_one_torch_thread()
    return ask_broker(settings, read)


def explain_from(
    restorer: Restorer, series_id: str, partitions: int, champion: str, known: Collection[str]
) -> Explanation:
    """Return the explanation of a series from the first partition that has it, the likely partitions first.

    Args:
        restorer: restores a partition of the consumer group.
        series_id: id of the series.
        partitions: number of partitions of the input.
        champion: id of the champion.
        known: ids of the checkpoints on the models topic.

    Raises:
        UsageError: no partition has the series.
    """
    names: list[str] = []
    for partition_number in likely_partitions(series_id, partitions):
        restored = restorer.restore(partition_number)
        table = restored.partition.table
        if table.row(series_id) >= 0:
            return explain_series(restorer.config.pipeline, restored, series_id, champion, known)
        names += filter(None, table.names)
    raise UsageError(_unknown(restorer.config.state_config.key_prefix, series_id, names))


def likely_partitions(series_id: str, partitions: int) -> Iterator[int]:
    """Yield every partition once, first those that the default partitioner assigns to the series or to its group."""
    group = series_id.rpartition("/")[0]
    likely = [partition_of(name.encode(), partitions) for name in (series_id, group) if name]
    yield from dict.fromkeys(chain(likely, range(partitions)))


def explanation_json(explanation: Explanation) -> str:
    """Return the explanation as one indented JSON object."""
    return msgspec.json.format(msgspec.json.encode(explanation), indent=2).decode()


def print_explanation(explanation: Explanation) -> None:
    """Print the explanation as sentences and tables."""
    terminal = console()
    place = explanation.place
    stored = "not stored yet" if place.block_offset is None else f"stored at offset {place.block_offset:,}"
    group = "" if place.group == explanation.series_id else f" of group {escape(printable(place.group))}"
    terminal.print(f"[bold]{escape(printable(explanation.series_id))}[/bold]{group}")
    terminal.print(
        f"partition {place.partition}: {Recovery(place.recovery).sentence}\n"
        f"offset {place.offset:,}, {place.replayed:,} readings replayed; block {place.block}, {stored}",
        highlight=False,
        soft_wrap=True,
    )
    for sentence in (*_inputs(explanation.inputs), _network(explanation.network)):
        terminal.print(sentence, markup=False, highlight=False, soft_wrap=True)
    terminal.print(_readings(explanation.inputs))
    if explanation.next_ms is not None:
        terminal.print(_pending(explanation.pending, explanation.next_ms))
        terminal.print(_weights(explanation.pending))


def _inputs(inputs: Inputs) -> Iterator[str]:
    if inputs.interval_ms is None:
        yield f"interval not known yet; last reading of {_time(inputs.last_ms)}"
    else:
        yield f"interval {inputs.interval_ms / 1000:g} s; last tick {inputs.tick:,} of {_time(inputs.last_ms)}"
    if inputs.held_ms is not None:
        yield f"a reading of {_time(inputs.held_ms)} is far from the others, and waits for the next one to confirm it"
    levels = ", ".join(f"{level:.6g} ({life} readings)" for life, level in inputs.levels.items())
    yield (
        f"{inputs.count:,} valid readings; last value {_number(inputs.last_value)}, scale {inputs.scale:.6g}, means by "
        f"half-life {levels}"
    )
    if inputs.spikes:
        yield f"the last {inputs.spikes} readings were spikes"


def _network(network: NetworkExplanation) -> str:
    if network.checkpoint == network.hidden_of == NO_CHECKPOINT:
        hidden = "no network, no hidden state"
    elif network.hidden_is_its:
        hidden = f"the hidden state is its own, norm {network.hidden_norm:.6g}"
    else:
        owner = network.hidden_of or "an unknown checkpoint"
        hidden = f"the hidden state belongs to {owner} and is re-warmed from the context at the next reading"
    swap = "" if network.champion == network.checkpoint else f"; champion {network.champion} follows"
    return f"checkpoint {network.checkpoint} forecasts at the next reading: {hidden}{swap}"


def _readings(inputs: Inputs) -> Table:
    table = Table("tick", "time", "denoised input", title="last readings", title_justify="left")
    for reading in inputs.readings:
        tick = "" if reading.tick is None else str(reading.tick)
        table.add_row(tick, _time(reading.timestamp_ms), "(none)" if reading.value is None else f"{reading.value:.6g}")
    return table


def _pending(pending: list[Pending], next_ms: int) -> Table:
    levels = list(pending[0].quantiles)
    title = f"forecasts for {_time(next_ms)}"
    table = Table("horizon", "made at", "point", *levels, "last value's error", title=title, title_justify="left")
    table.columns[1].no_wrap = True
    for forecast in pending:
        made = "(none)" if forecast.made_ms is None else _time(forecast.made_ms)
        values = [_number(value) for value in (forecast.point, *forecast.quantiles.values(), forecast.last_value_rmse)]
        table.add_row(str(forecast.horizon), made, *values)
    return table


def _weights(pending: list[Pending]) -> Table:
    title = "weights of the experts in the next forecast"
    table = Table("horizon", *pending[0].weights, "gate", title=title, title_justify="left")
    for forecast in pending:
        weights = (*forecast.weights.values(), forecast.gate)
        table.add_row(str(forecast.horizon), *(f"{weight:.3f}" for weight in weights))
    return table


def _unknown(group_id: str, series_id: str, names: list[str]) -> str:
    near, series_id = similar_ids(series_id, names, NEAR_IDS), printable(series_id)
    if not names:
        return f"series {series_id}: group {group_id} has no state yet: start a worker, or seed the group"
    hint = (
        f"similar ids: {', '.join(map(printable, near))}"
        if near
        else f"none of its {len(names):,} series has a similar id"
    )
    return f"series {series_id}: group {group_id} has no such series; {hint}"


def _time(time_ms: int) -> str:
    exact = "milliseconds" if time_ms % 1000 else "seconds"
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec=exact).replace("+00:00", "Z")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
