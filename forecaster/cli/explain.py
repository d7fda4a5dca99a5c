"""`forecaster explain`: one series out of the state topic, as a worker that took its partition over would have it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import chain

import msgspec
from rich.markup import escape
from rich.table import Table

from forecaster.app.configs import needed_topics
from forecaster.app.daemon import opened_state, use_one_thread, with_topics
from forecaster.broker.consumer_groups import partition_of
from forecaster.broker.topics import TopicAdmin
from forecaster.cli.terminal import console
from forecaster.core.network.model import NO_CHECKPOINT
from forecaster.errors import UsageError
from forecaster.serving.inspect.explanation import Explanation, Inputs, Network, Pending, explain_series
from forecaster.serving.state.restore import Restorer
from forecaster.settings import Settings

NEAR_IDS = 5


def explain(settings: Settings, series_id: str) -> Explanation:
    """Returns what is carried for a series; nothing is written.

    Raises:
        UsageError: no partition has it; names others that are spelt nearly so.
        StateError: the state cannot be made whole: what `run` would say, too.
        TopicError: a topic is missing or does not fit.
        BrokerUnavailable: there was no broker within the deadline.
    """

    def look(topics: TopicAdmin) -> Explanation:
        partitions = topics.ensure(settings.topics.input, needed_topics(settings), create=False)
        with opened_state(settings, topics) as (follower, restorer):
            return explain_from(restorer, series_id, partitions, follower.champion, follower.registry.checkpoints)

    use_one_thread()
    return with_topics(settings, look)


def explain_from(
    restorer: Restorer, series_id: str, partitions: int, champion: str, known: Collection[str]
) -> Explanation:
    """Returns what is carried for a series in the first partition that has it, the likely ones first.

    Args:
        restorer: of the group.
        series_id: of the series.
        partitions: of the input.
        champion: id of what is to be served.
        known: ids of the checkpoints that there are.

    Raises:
        UsageError: no partition has it.
    """
    names: list[str] = []
    for number in likely_partitions(series_id, partitions):
        restored = restorer.restored(number)
        table = restored.partition.table
        if table.row(series_id) >= 0:
            return explain_series(restorer.config.pipeline, restored, series_id, champion, known)
        names += filter(None, table.names)
    raise UsageError(_unknown(restorer.config.state_config.key_prefix, series_id, names))


def likely_partitions(series_id: str, partitions: int) -> Iterator[int]:
    """Yields every partition once: first those where the default partitioner puts the series, or its group."""
    group = series_id.rpartition("/")[0]
    likely = [partition_of(name.encode(), partitions) for name in (series_id, group) if name]
    yield from dict.fromkeys(chain(likely, range(partitions)))


def explanation_json(explanation: Explanation) -> str:
    """Returns all of it as one JSON object."""
    return msgspec.json.format(msgspec.json.encode(explanation), indent=2).decode()


def print_explanation(explanation: Explanation) -> None:
    """All of it was printed, for people."""
    to = console()
    place = explanation.place
    stored = "not stored yet" if place.block_offset is None else f"stored at offset {place.block_offset:,}"
    group = "" if place.group == explanation.series_id else f" of group {escape(place.group)}"
    to.print(f"[bold]{escape(explanation.series_id)}[/bold]{group}")
    to.print(
        f"partition {place.partition}: {place.recovery} at offset {place.offset:,}, {place.replayed:,} readings of it "
        f"replayed; block {place.block}, {stored}",
        highlight=False,
        soft_wrap=True,
    )
    for sentence in (*_inputs(explanation.inputs), _network(explanation.network)):
        to.print(sentence, markup=False, highlight=False, soft_wrap=True)
    to.print(_readings(explanation.inputs))
    if explanation.next_ms is not None:
        to.print(_pending(explanation.pending, explanation.next_ms))
        to.print(_weights(explanation.pending))


def _inputs(inputs: Inputs) -> Iterator[str]:
    if inputs.interval_ms is None:
        yield f"interval not known yet; last reading of {_time(inputs.last_ms)}"
    else:
        yield f"interval {inputs.interval_ms / 1000:g} s; last tick {inputs.tick:,} of {_time(inputs.last_ms)}"
    if inputs.held_ms is not None:
        yield f"a reading of {_time(inputs.held_ms)} is far off, and waits for the next one to confirm it"
    levels = ", ".join(f"{level:.6g} ({life} readings)" for life, level in inputs.levels.items())
    yield (
        f"{inputs.count:,} valid readings; last value {_number(inputs.last_value)}, scale {inputs.scale:.6g}, means by "
        f"half-life {levels}"
    )
    if inputs.spikes:
        yield f"the last {inputs.spikes} were spikes"


def _network(network: Network) -> str:
    if network.checkpoint == network.hidden_of == NO_CHECKPOINT:
        hidden = "without a network, there is no hidden state"
    elif network.hidden_is_its:
        hidden = f"the hidden state is its, of norm {network.hidden_norm:.6g}"
    else:
        of = network.hidden_of or "a checkpoint that is gone"
        hidden = f"the hidden state is of {of} and is re-warmed from the context at the next reading"
    swap = "" if network.champion == network.checkpoint else f"; {network.champion} is to be served"
    return f"the next reading is forecast by checkpoint {network.checkpoint}: {hidden}{swap}"


def _readings(inputs: Inputs) -> Table:
    table = Table("tick", "time", "denoised input", title="last readings", title_justify="left")
    for one in inputs.readings:
        tick = "" if one.tick is None else str(one.tick)
        table.add_row(tick, _time(one.timestamp_ms), "(none)" if one.value is None else f"{one.value:.6g}")
    return table


def _pending(pending: list[Pending], next_ms: int) -> Table:
    levels = list(pending[0].quantiles)
    title = f"forecasts that wait for {_time(next_ms)}"
    table = Table("horizon", "made at", "point", *levels, "last value's error", title=title, title_justify="left")
    table.columns[1].no_wrap = True
    for one in pending:
        made = "(none)" if one.made_ms is None else _time(one.made_ms)
        values = [_number(value) for value in (one.point, *one.quantiles.values(), one.drift)]
        table.add_row(str(one.horizon), made, *values)
    return table


def _weights(pending: list[Pending]) -> Table:
    title = "weights of the experts, by what their forecasts were worth"
    table = Table("horizon", *pending[0].weights, "gate", title=title, title_justify="left")
    for one in pending:
        table.add_row(str(one.horizon), *(f"{weight:.3f}" for weight in (*one.weights.values(), one.gate)))
    return table


def _unknown(group_id: str, series_id: str, names: list[str]) -> str:
    near = get_close_matches(series_id, names, NEAR_IDS, cutoff=0.5)
    if not names:
        return f"series {series_id}: group {group_id} has no state of any series: has it served, or been seeded?"
    known = f"near ids: {', '.join(near)}" if near else f"none of its {len(names):,} series is called nearly so"
    return f"series {series_id}: group {group_id} has no such series; {known}"


def _time(time_ms: int) -> str:
    exact = "milliseconds" if time_ms % 1000 else "seconds"
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec=exact).replace("+00:00", "Z")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
