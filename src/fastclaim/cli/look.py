"""`fastclaim show`, `list`, `mine` and `why`: looking at tasks, changing nothing."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from .. import layout
from ..claim import Claim
from ..errors import ClaimLost
from . import answer, exits, lookup, options, tables


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
            answer.line({**task, "status": state})
        else:
            tables.print_task(state, task)
    return exits.OK


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--state",
        choices=layout.STATES,
        default=layout.AVAILABLE,
        help=f"which state; default: {layout.AVAILABLE}",
    )
    parser.add_argument("--limit", metavar="N", type=_limit, help="show no more than this many")
    options.add_pool(parser)
    options.add_json(parser)


def run_list(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    found = options.existing_pool(arguments).tasks(arguments.state)
    answer.tasks(
        arguments, itertools.islice(found, arguments.limit), f"no tasks are {arguments.state}"
    )
    return exits.OK


def add_mine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_agent(parser)
    options.add_pool(parser)
    options.add_json(parser)


def run_mine(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.existing_pool(arguments)
    answer.tasks(
        arguments,
        _tasks_of(pool.mine(arguments.agent)),
        f"{arguments.agent!r} has claimed nothing",
    )
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
    sentence = pool.why(arguments.task, arguments.capabilities or None)
    if answer.wants_json(arguments):
        answer.line({"task_id": arguments.task, "why": sentence})
    else:
        print(exits.one_line(sentence))
    return exits.OK


def _unknown(task_id: str) -> exits.Refusal:
    return exits.Refusal(exits.NO_SUCH_TASK, f"no task {task_id!r} in the pool")


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tasks")
    return int(text)
