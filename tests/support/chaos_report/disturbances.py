"""What is done to the daemons of a trial. Each function returns the row of its trial.

A daemon that a fault kills is replaced at once by the next victim, which restores what the one before it has left: so
each term costs one start. The dead member's session, and its open transaction, end by their time-outs, unless the next
one is a static member of the same name.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence

from proxy import Proxy

from chaos_report.payloads import Payloads
from chaos_report.readings import Record
from chaos_report.table import Row
from chaos_report.trial import Trial
from chaos_report.workers import ForkedDaemon

DYNAMIC_EVERY = 5
"""Every fifth member that is killed or stopped is a dynamic one, whose successor waits for the time-outs."""
TERM_SECONDS = 60.0
"""Time within which a fault must come."""
TRAINING_SECONDS = 90.0
"""Time within which a training must begin or end."""
KILLS = {
    "after a poll": ["after-poll"],
    "while it computes": ["mid-compute"],
    "in a transaction, before its offsets": ["mid-transaction"],
    "in a transaction, before its commit": ["before-commit"],
    "between commit and adoption": ["after-commit"],
    "in a restore, and again later": ["mid-restore", "after-commit"],
    "while it writes state alone": ["mid-state-write"],
}
"""Points of an iteration at which daemons are killed, by their names in the report."""
BACKLOG_HOURS = 100
"""Readings that wait when the broker ends, so that it ends in the middle of work."""
SWAP_POINTS = ["mid-swap", "after-swap"]
STOP_POINTS = ["after-poll", "mid-compute", "mid-transaction", "before-commit", "after-commit", "mid-restore"]
STATIC = "worker-0"
TRAINED = {
    "ROLE": "both",
    "NETWORK__HIDDEN_SIZE": "16",
    "NETWORK__CONTEXT": "24",
    "TRAINING__MIN_READINGS": "1500",
    "TRAINING__MIN_NEW_TICKS": "1",
    "TRAINING__SCHEDULE": "every 10s",
    "TRAINING__READOUT_SCHEDULE": "every 15s",
}


WITHOUT_LIMITS = {
    "DEAD_LETTERS__MAX_RATIO": "1",
    "DEAD_LETTERS__MAX_CONSECUTIVE": "1000000000",
    "STATE__TTL": "4000000d",  # odd timestamps make no series idle
}
STATE_ALONE = {"STATE__SNAPSHOT_INTERVAL": "1s"}
PAUSE_FOR_STATE = 2.5
"""With this pause between readings, and the setting above, blocks are written without readings."""
PAYLOADS_AT_ONCE = 2_000


def killed_at_points(trial: Trial, name: str, points: Sequence[str], count: int) -> Row:
    """Kill daemons at the points, in turn."""
    dice = random.Random(count)
    strikes = 0
    trial.end_killed(trial.start(1)[0])
    for number in range(count):
        point = points[number % len(points)]
        times = 1 if point == "mid-restore" else dice.randrange(1, 7)
        strikes += _kill(trial, f"{point}:SIGKILL:{times}", _member(number))
    return trial.finish(f"kill -9 {name}", strikes, [trial.daemon()])


def killed_in_swaps(trial: Trial, count: int) -> Row:
    """Kill daemons in the transaction that begins a swap of checkpoints, and while rows still change over."""
    strikes = 0
    daemon = trial.start(1)[0]
    for number in range(count):
        if number % 2 == 0:
            trial.serve(trial.checkpoint(number // 2 % 2))
        if number == 0:
            trial.end_killed(daemon)
        strikes += _kill(trial, f"{SWAP_POINTS[number % 2]}:SIGKILL:1", _member(number))
    return trial.finish("kill -9 in a swap of checkpoints", strikes, [trial.daemon()])


def killed_at_random(trial: Trial, count: int) -> Row:
    """Kill one of three daemons at any moment, and start it again at once."""
    dice = random.Random(count)
    names = [STATIC, "worker-1", ""]
    daemons = trial.start(3, *names[:2])
    for _ in range(count):
        trial.feed(dice.uniform(0.1, 3.0))
        number = dice.randrange(len(daemons))
        trial.end_killed(daemons[number])
        daemons[number] = trial.daemon(KAFKA__INSTANCE_ID=names[number])
    return trial.finish("kill -9 at any moment, three workers", count, daemons)


def stopped(trial: Trial, count: int, *, static: bool) -> Row:
    """Stop daemons for longer than their session; their successors serve when they continue."""
    dice = random.Random(count)
    name = STATIC if static else ""
    strikes = 0
    trial.end_killed(trial.start(1, *([name] if name else []))[0])
    for number in range(count):
        point = STOP_POINTS[number % len(STOP_POINTS)]
        times = 1 if point == "mid-restore" else dice.randrange(1, 5)
        zombie = trial.daemon(fault=f"{point}:SIGSTOP:{times}", KAFKA__INSTANCE_ID=name)
        strikes += trial.feed_until(lambda z=zombie: z.has_struck, TERM_SECONDS)  # type: ignore[misc]
        heir = trial.daemon(KAFKA__INSTANCE_ID=name)
        trial.feed_until(lambda h=heir: h.serves, TERM_SECONDS)  # type: ignore[misc]
        zombie.send(signal.SIGCONT)
        trial.feed(dice.uniform(1.0, 3.0))
        zombie.send(signal.SIGKILL)
        zombie.exit_code()  # a static one may have ended with exit code 8 before
        trial.end_killed(heir)
    kind = "static" if static else "dynamic"
    return trial.finish(f"SIGSTOP for longer than the session, {kind} member", strikes, [trial.daemon()])


def rebalanced(trial: Trial, count: int) -> Row:
    """Let members join and leave, two to four at a time, while checkpoints change."""
    dice = random.Random(count)
    anchor, *others = trial.start(2)
    leaving: list[ForkedDaemon] = []
    for number in range(count):
        if number % 5 == 0:
            trial.serve(trial.checkpoint(number // 5 % 2))
        if len(others) == 3 or (len(others) > 1 and dice.random() < 0.5):
            leaving.append(others.pop(dice.randrange(len(others))))
            trial.feed_until(lambda: leaving[-1].is_ready)
            leaving[-1].send(signal.SIGTERM)
        else:
            others.append(trial.daemon())
        trial.feed(dice.uniform(0.5, 4.0))
    for daemon in leaving:
        trial.end(daemon)
    return trial.finish("rebalance, two to four workers, with swaps of checkpoints", count, [anchor, *others])


def broker_restarted(trial: Trial, count: int, restart: Callable[[str], None], how: str) -> Row:
    """Restart the broker under two daemons.

    Args:
        trial: the trial.
        count: how often.
        restart: restarts the broker.
        how: stop or kill.
    """
    dice = random.Random(count)
    daemons = trial.start(2)
    for _ in range(count):
        trial.feed(dice.uniform(0.5, 3.0))
        trial.readings.send_hours(BACKLOG_HOURS)
        restart(how)
        trial.wait_until_caught_up()
    name = {"stop": "broker restarted, clean", "kill": "broker restarted, kill -9"}[how]
    return trial.finish(name, count, daemons)


def cut(trial: Trial, count: int, proxy: Proxy) -> Row:
    """Cut all TCP connections right after a daemon has sent a commit, so that it gets no answer."""
    daemon = trial.proxied_daemon()
    trial.feed_until(lambda: daemon.serves, TERM_SECONDS)
    trial.note_memory(daemon)
    before = proxy.cuts
    for _ in range(count):
        proxy.cut_at_next_commit()
        trial.feed_until(lambda: not proxy.armed, TERM_SECONDS)
        trial.wait_until_caught_up()
    return trial.finish("TCP cut in a commit", proxy.cuts - before, [daemon])


def forgotten(trial: Trial, count: int) -> Row:
    """Delete the consumer group with its offsets, as Kafka does after their retention, between two runs."""
    daemon = trial.start(1)[0]
    for _ in range(count):
        trial.feed(3.0)
        daemon.send(signal.SIGTERM)
        trial.end(daemon)
        trial.delete_group()
        trial.feed(1.0)
        daemon = trial.daemon()
        trial.feed_until(lambda d=daemon: d.serves, TERM_SECONDS)  # type: ignore[misc]
    return trial.finish("offsets forgotten between two runs", count, [daemon])


def trained(trial: Trial, count: int) -> Row:
    """Kill one of two daemons in the middle of a training, then soon after one, when the new network takes over."""
    dice = random.Random(count)
    trial.readings.send_hours(120)
    daemons = trial.start(2)
    for number in range(count):
        event = ("training_run_started", "training_run_decided")[number % 2]
        before = _events(daemons, event)
        trial.feed_until(lambda e=event, b=before: _events(daemons, e) > b, TRAINING_SECONDS)  # type: ignore[misc]
        trial.feed(dice.uniform(0.0, 4.0))
        victim = dice.randrange(len(daemons))
        trial.end_killed(daemons[victim])
        daemons[victim] = trial.daemon()
    return trial.finish("kill -9 while training is on", count, daemons)


def _events(daemons: Sequence[ForkedDaemon], name: str) -> int:
    """Return how often the daemons have logged an event."""
    return sum(len(daemon.events(name)) for daemon in daemons)


def fed_with_payloads(trial: Trial, count: int) -> Row:
    """Send odd records through Kafka to one daemon."""
    payloads = Payloads(seed=2)
    daemon = trial.start(1)[0]
    for begin in range(0, count, PAYLOADS_AT_ONCE):
        trial.readings.send(_sendable(payloads.next()) for _ in range(min(PAYLOADS_AT_ONCE, count - begin)))
    return trial.finish("odd payload, through Kafka", count, [daemon])


def _sendable(record: Record) -> Record:
    """Return the record with an empty key if it has neither key nor value: the Kafka client refuses to send that."""
    key, value = record
    return (b"", value) if key is None and value is None else record


def _member(number: int) -> str:
    """Return the instance id of the n-th member."""
    return "" if number % DYNAMIC_EVERY == DYNAMIC_EVERY - 1 else STATIC


def _kill(trial: Trial, fault: str, name: str) -> bool:
    """Start a daemon that the fault kills, and return whether it does; otherwise kill it after a while."""
    victim = trial.daemon(fault=fault, KAFKA__INSTANCE_ID=name)
    trial.feed_until(lambda: victim.is_dead, TERM_SECONDS)
    trial.end_killed(victim)
    return victim.has_struck
