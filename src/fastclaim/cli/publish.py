"""`fastclaim publish`: tasks from a JSONL file, or one from options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final

from ..arguments import check_fields
from ..checking import circle_in, in_a_circle
from ..errors import TaskExists, TaskPoolError
from ..literals import IfExists
from ..matching import names_in
from ..pool import TaskPool
from . import exits, options
from .answer import answer, wants_json
from .fields import json_value
from .output import count, screen
from .stopping import EndOfWait
from .task_file import TaskFile, read_task_file

_INTERRUPTED: Final = (
    "interrupted; some tasks may be published: the same command with --if-exists ignore"
    " publishes the rest"
)


def add_publish_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file",
        metavar="FILE.jsonl",
        nargs="?",
        help="one task a line, each a JSON object with a task_id; -: the standard input",
    )
    _add_fields(parser.add_argument_group("one task from options"))
    parser.add_argument(
        "--if-exists",
        choices=("error", "ignore", "replace"),
        default="error",
        help="what to do with a task that the pool knows already; default: error",
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="publish the tasks of the file that can be published, and name the others;"
        " default: all or nothing, unless it is interrupted",
    )
    options.add_pool(parser)
    options.add_json(parser)


def _add_fields(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--id", metavar="ID", dest="task_id", type=options.not_empty, help="the task's id"
    )
    group.add_argument("--description", metavar="TEXT", help="what is to be done")
    group.add_argument(
        "--require",
        metavar="C",
        dest="requirements",
        type=options.not_empty,
        action="append",
        help="a capability; an agent needs any of those that are given",
    )
    group.add_argument(
        "--priority", metavar="N", type=_number, help="higher ones are claimed first; default: 0"
    )
    group.add_argument(
        "--blocked-by",
        metavar="ID",
        type=options.not_empty,
        action="append",
        help="a task that must be completed first",
    )
    group.add_argument(
        "--exclusive",
        metavar="KEY",
        type=options.not_empty,
        action="append",
        help="no two tasks with the same key are claimed at the same time",
    )
    group.add_argument(
        "--max-attempts",
        metavar="N",
        type=options.whole(1),
        help="how many failures there may be before the task is given up",
    )
    group.add_argument(
        "--field",
        metavar="NAME=VALUE",
        dest="fields",
        type=_field,
        action="append",
        default=[],
        help="any other field; the value is JSON, or else text",
    )


_OPTIONS = {
    "task_id": "--id",
    "description": "--description",
    "requirements": "--require",
    "priority": "--priority",
    "blocked_by": "--blocked-by",
    "exclusive": "--exclusive",
    "max_attempts": "--max-attempts",
}


def run_publish(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    given = _given(arguments)
    if (arguments.file is None) == (arguments.task_id is None):
        raise exits.BadInput("either a file of tasks (-: the standard input), or --id")
    if arguments.file is not None:
        if given:
            raise exits.BadInput("a task's fields come with --id, not with a file")
        return _publish_file(arguments)
    check_fields(given)
    pool = options.open_pool(arguments)
    done = pool.publish(given, if_exists=arguments.if_exists)
    said = "published" if done else "known already, and left as it is:"
    value = {"published": int(done), "ignored": int(not done)}
    answer(arguments, value, f"{said} {arguments.task_id!r}")
    return exits.OK


def _given(arguments: argparse.Namespace) -> dict[str, object]:
    """The task's fields, each of which may be given once."""
    by = {name: option for name, option in _OPTIONS.items() if getattr(arguments, name) is not None}
    given = {name: getattr(arguments, name) for name in by}
    for name, value in arguments.fields:
        option = f"--field {name}=..."
        if name in given:
            raise exits.BadInput(f"{by[name]} and {option} both give the task's {name}")
        given[name], by[name] = value, option
    return given


def _publish_file(arguments: argparse.Namespace) -> int:
    file = read_task_file(arguments.file, arguments.keep_going)
    pool = options.open_pool(arguments)
    if wants_json(arguments):
        waiting: Any = nullcontext()
    else:
        waiting = screen().progress(f"Publishing {count(len(file.tasks), 'task')}")
    try:
        with waiting, EndOfWait():
            if arguments.keep_going:
                published = _publish_each(pool, file, arguments.if_exists)
            else:
                published = _publish_all(pool, file, arguments.if_exists)
    except exits.Terminated:
        exits.complain("publish", _INTERRUPTED)
        raise
    ignored = len(file.tasks) - published
    if arguments.keep_going:
        ignored = 0 if arguments.if_exists == "error" else ignored
    problems = len(file.problems)
    value = {"published": published, "ignored": ignored, "refused": problems}
    sentence = f"published {count(published, 'task')}"
    if ignored:
        sentence += f"; {count(ignored, 'task')} the pool knew already"
    answer(arguments, value, sentence)
    for problem in file.problems:
        exits.complain("publish", exits.one_line(str(problem)))
    return file.problems[0].status if file.problems else exits.OK


def _publish_all(pool: TaskPool, file: TaskFile, if_exists: IfExists) -> int:
    try:
        return pool.publish_many(file.tasks, if_exists=if_exists)
    except TaskExists as error:
        known = file.refuse(error)
        advice = "--if-exists ignore publishes the others"
        raise exits.Refusal(known.status, f"{known}; {advice}") from error
    except TaskPoolError as error:
        raise file.refuse(error) from error


def _publish_each(pool: TaskPool, file: TaskFile, if_exists: IfExists) -> int:
    """Publish what can be published; adds the others to the file's problems."""
    published = 0
    in_circles = _refuse_circles(file)
    for task in file.tasks:
        if f"{task['task_id']}" in in_circles:
            continue
        try:
            published += pool.publish(task, if_exists=if_exists)
        except TaskPoolError as error:
            file.problems.append(file.refuse(error))
    return published


def _refuse_circles(file: TaskFile) -> set[str]:
    """Which tasks of the file wait for each other; adds them to its problems."""
    waits_for = {f"{task['task_id']}": _others(task) for task in file.tasks}
    in_circles: set[str] = set()
    while circle := circle_in(waits_for):
        for number, task_id in enumerate(circle):
            file.problems.append(file.refuse(in_a_circle(circle[number:] + circle[:number])))
            del waits_for[task_id]
        in_circles.update(circle)
    return in_circles


def _others(task: Mapping[str, Any]) -> set[str]:
    """Which others a task waits for; one that waits for itself its publication refuses."""
    try:
        names = names_in(task, "blocked_by")
    except TypeError:
        return set()
    return {f"{name}" for name in names} - {f"{task['task_id']}"}


def _number(text: str) -> float:
    try:
        value = json_value(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _field(text: str) -> tuple[str, object]:
    name, given, value = text.partition("=")
    if not given or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json_value(value)
    except (ValueError, RecursionError):
        return name, value
