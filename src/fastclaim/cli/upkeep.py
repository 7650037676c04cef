"""`fastclaim recover`, `retry` and `prune`: what has to be done now and then."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from .. import layout
from ..errors import TaskNotAvailable, TaskPoolError
from ..pool import TaskPool
from . import exits, lookup, options
from .answer import answer, line, wants_json
from .output import Row, count, screen

_NAMED: Final = 10


def add_recover_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--older-than",
        metavar="S",
        type=options.finite_seconds,
        help="also take back claims that are older than this, and bound to no process and to no"
        " lease; default: only what nobody alive holds",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, only say what")
    options.add_pool(parser)
    options.add_json(parser)


def run_recover(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.existing_pool(arguments)
    report = pool.recover(older_than=arguments.older_than, dry_run=arguments.dry_run)
    if wants_json(arguments):
        line(report._asdict(), "" if arguments.dry_run else "what the dead have left is put right")
        return exits.OK
    out = screen()
    would = "would be " if arguments.dry_run else ""
    out.rows(
        [
            Row(f"{would}available", f"{len(report.returned):,}", _some(report.returned)),
            Row(f"{would}failed", f"{len(report.failed):,}", _some(report.failed)),
            Row(f"{would}completed", f"{len(report.completed):,}", _some(report.completed)),
            Row(f"{would}removed", f"{len(report.removed):,}", "files that the dead left"),
        ]
    )
    if report.problems:
        out.bad("what needs a person:", [exits.one_line(problem) for problem in report.problems])
    return exits.OK


def _some(task_ids: Sequence[object]) -> str:
    shown = [exits.one_line(f"{task_id}") for task_id in task_ids[:_NAMED]]
    return ", ".join(shown) + (", ..." if len(task_ids) > _NAMED else "")


def add_retry_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("task", metavar="TASK", nargs="?", help="which failed task")
    parser.add_argument("--all", action="store_true", help="all failed tasks")
    options.add_pool(parser)
    options.add_json(parser)


def run_retry(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if (arguments.task is None) != arguments.all:
        raise exits.BadInput("either a task's id, or --all")
    pool = options.existing_pool(arguments)
    if arguments.all:
        retried, problems = _retry_all(pool)
    else:
        retried, problems = pool.retry_failed(arguments.task), []
    value = {"retried": retried} | ({"refused": len(problems)} if problems else {})
    answer(arguments, value, f"{count(retried, 'task')} can be claimed again")
    for problem in problems:
        exits.complain("retry", exits.sentence_of(problem))
    return exits.status_of(problems[0]) if problems else exits.OK


def _retry_all(pool: TaskPool) -> tuple[int, list[TaskPoolError]]:
    """How many can be claimed again, and why the others cannot."""
    task_ids = lookup.failed_ids(pool)
    if task_ids is None:
        return pool.retry_failed(), []  # at once, and nothing is in the way there
    retried, problems = 0, list[TaskPoolError]()
    for task_id in task_ids:
        try:
            retried += pool.retry_failed(task_id)
        except TaskNotAvailable:
            continue  # somebody else did it
        except TaskPoolError as problem:
            problems.append(problem)
    return retried, problems


def add_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "state",
        choices=layout.PRUNABLE,
        help="tasks in which state; completed ones that others are still blocked by stay",
    )
    parser.add_argument(
        "--older-than",
        metavar="S",
        type=options.finite_seconds,
        required=True,
        help="only those that have been in it for so long, such as 7d",
    )
    parser.add_argument("--yes", action="store_true", help="remove them; default: only name them")
    options.add_pool(parser)
    options.add_json(parser)


def run_prune(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.existing_pool(arguments)
    found = pool.prune(arguments.state, arguments.older_than, dry_run=not arguments.yes)
    if wants_json(arguments):
        removed = f"{count(len(found), 'task')} removed" if arguments.yes else ""
        for task_id in found:
            line({"task_id": task_id, "removed": arguments.yes}, removed)
        return exits.OK
    for task_id in found:
        screen().say(exits.one_line(f"{task_id}"))
    done = "removed" if arguments.yes else "would be removed"
    advice = "; --yes removes them" if found and not arguments.yes else ""
    print(f"{count(len(found), 'task')} {done}{advice}", file=sys.stderr)
    return exits.OK
