"""`fastclaim status`: how the pool is doing, at a glance."""

from __future__ import annotations

import argparse
import itertools

from . import answer, exits, options
from .exits import one_line
from .output import Row, Screen, count, screen
from .survey import Holding, Snapshot, Survey
from .tables import length

_COLUMNS = ("agent", "task", "held for", "lease")


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_pool(parser)
    options.add_json(parser)


def run_status(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.existing_pool(arguments)
    snapshot = Survey(pool).snapshot()
    if answer.wants_json(arguments):
        answer.line({"pool": f"{pool.base_dir}", **snapshot.as_dict()})
    else:
        _print(screen(), f"{pool.base_dir}", snapshot)
    return exits.OK


def _print(out: Screen, pool: str, snapshot: Snapshot) -> None:
    out.rows([Row("pool", pool), *summary(snapshot)])
    if snapshot.holdings:
        out.say("")
        claims = itertools.chain(*snapshot.by_agent().values())
        out.table(_COLUMNS, [_row(claim) for claim in claims])
    if snapshot.failures:
        latest = [f"{one_line(f.task_id)}: {one_line(f.error)}" for f in snapshot.failures]
        out.say("")
        out.bad("failed, the latest:", latest)


def summary(snapshot: Snapshot) -> list[Row]:
    """The figures, one a row."""
    counts = ", ".join(f"{number:,} {state}" for state, number in snapshot.counts.items())
    found = [Row("tasks", counts)]
    if snapshot.oldest is not None:
        oldest = snapshot.oldest
        found.append(Row("oldest waiting", one_line(oldest.task_id), length(oldest.waited_s)))
    found.append(Row("done lately", count(snapshot.completed_lately, "task"), "in the last minute"))
    standing = {holding.agent_id for holding in snapshot.holdings if holding.ended is None}
    found.append(Row("at work", count(len(standing), "agent")))
    ended = sum(holding.ended is not None for holding in snapshot.holdings)
    if ended:
        found.append(
            Row("ended", count(ended, "claim"), "of which the next claimer takes the tasks")
        )
    if snapshot.paused is not None:
        found.append(Row("paused", one_line(snapshot.paused)))
    return found


def _row(claim: Holding) -> tuple[str, ...]:
    held = "-" if claim.held_s is None else length(claim.held_s)
    until = claim.ended or lease(claim.lease_left_s)
    return one_line(claim.agent_id), one_line(claim.task_id), held, until


def lease(left_s: float | None) -> str:
    """How much is left of a lease."""
    if left_s is None:
        return ""
    return f"{length(left_s)} left" if left_s > 0 else f"over for {length(-left_s)}"
