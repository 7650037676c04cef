"""`fastclaim show`, `list`, `mine` and `why`: looking at tasks, changing nothing."""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from .. import layout
from ..claim import Claim
from ..errors import ClaimLost
from ..matching import PRIORITY, rank
from ..pool import TaskPool
from . import advice, answer, exits, fields, lookup, options, tables


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_task(parser)
    options.add_pool(parser)
    options.add_json(parser)


def run_show(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    found = list(lookup.find(options.existing_pool(arguments), arguments.task))
    if not found:
        raise _unknown(arguments.task)
    for state, task in found:
        if answer.wants_json(arguments):
            # A document of another hand need not have a status, or not the right one.
            answer.line({**answer.told(task), "status": state})
        else:
            tables.print_task(state, task)
    return exits.OK


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--state",
        choices=layout.STATES,
        default=layout.AVAILABLE,
        help=f"which state; default: {layout.AVAILABLE}, in the order in which they are claimed;"
        " claimed: the longest held first; completed, failed: the latest first",
    )
    parser.add_argument(
        "--limit", metavar="N", type=options.whole(0), help="show no more than the first N"
    )
    options.add_pool(parser)
    options.add_json(parser)


def run_list(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    state, limit = arguments.state, arguments.limit
    pool = options.existing_pool(arguments)
    found = _in_order(pool.tasks(state), state, limit)
    if state == layout.CLAIMED:
        found = _with_ends(arguments, pool, found)
    answer.tasks(arguments, found, f"no tasks are {state}")
    return exits.OK


def _with_ends(
    arguments: argparse.Namespace, pool: TaskPool, claims: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Claims, of which those say so that have ended and are not taken back yet."""
    from .survey import endings_in

    endings = endings_in(pool)
    wants_json = answer.wants_json(arguments)
    return [_with_end(claim, endings.of(claim), wants_json) for claim in claims]


def _with_end(claim: dict[str, Any], end: str | None, wants_json: bool) -> dict[str, Any]:
    if end is None:
        return claim
    if wants_json:
        return claim | {"ended": end}
    return claim | {"claimed_by": f"{claim.get('claimed_by')} ({end})"}


def _in_order(
    tasks: Iterable[dict[str, Any]], state: str, limit: int | None
) -> list[dict[str, Any]]:
    """The first tasks of a state, in the order in which people want to see them."""
    place = _PLACES[state]

    def key(task: dict[str, Any]) -> tuple[object, ...]:
        return *place(task), f"{task.get('task_id')}"

    return sorted(tasks, key=key) if limit is None else heapq.nsmallest(limit, tasks, key=key)


def _next(task: Mapping[str, Any]) -> tuple[float, float]:
    """As `matching.rank`, but that a task of unknown age comes last."""
    published_s = fields.published(task)
    return rank(dict(task), PRIORITY)[0], math.inf if published_s is None else published_s


def _since(task: Mapping[str, Any], name: str, *, latest: bool) -> tuple[float]:
    moment_s = fields.moment(task, name)
    if moment_s is None:
        return (math.inf,)
    return (-moment_s if latest else moment_s,)


_PLACES: Final[Mapping[str, Callable[[Mapping[str, Any]], tuple[float, ...]]]] = {
    layout.AVAILABLE: _next,
    layout.CLAIMED: partial(_since, name="claimed_at", latest=False),
    layout.COMPLETED: partial(_since, name="completed_at", latest=True),
    layout.FAILED: partial(_since, name="failed_at", latest=True),
}


def add_mine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_agent(parser)
    options.add_pool(parser)
    options.add_json(parser)


def run_mine(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.existing_pool(arguments)
    found = _in_order(_tasks_of(pool.mine(arguments.agent)), layout.CLAIMED, None)
    found = _with_ends(arguments, pool, found)
    answer.tasks(arguments, found, f"{arguments.agent!r} has claimed nothing")
    return exits.OK


def _tasks_of(claims: Iterable[Claim]) -> Iterator[dict[str, Any]]:
    for claim in claims:
        try:
            yield claim.task
        except ClaimLost:
            continue  # it has ended meanwhile


def add_why_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_task(parser)
    options.add_capabilities(parser)
    options.add_pool(parser)
    options.add_json(parser)


def run_why(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.existing_pool(arguments)
    if not lookup.is_known(pool, arguments.task):
        raise _unknown(arguments.task)
    said = pool.why(arguments.task, arguments.capabilities or None)
    sentence = advice.sentence_in_commands(said, arguments.task, arguments)
    if answer.wants_json(arguments):
        answer.line({"task_id": arguments.task, "why": sentence})
    else:
        print(exits.one_line(sentence))
    return exits.OK


def _unknown(task_id: str) -> exits.Refusal:
    return exits.Refusal(exits.NO_SUCH_TASK, f"no task {task_id!r} in the pool")
