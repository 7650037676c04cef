"""Tasks that nobody can ever come to as things stand, or that go by another id than they say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from . import layout
from .checking import check_circles
from .directories import Directories
from .errors import InvalidName, InvalidTask
from .listing import known_among, read_task, task_files
from .matching import names_in
from .views import is_completed

# What an id is followed by in the names of files; in claimed/ comes the agent's.
_AFTER_ID: Final = {
    layout.AVAILABLE: layout.TASK_SUFFIX,
    layout.CLAIMED: "_",
    layout.FAILED: layout.FAILED_SUFFIX,
}
_MOST_SHOWN: Final = 5

WaitsFor = Mapping[str, Sequence[str]]


class Problem(NamedTuple):
    """What is wrong with some tasks, and what to do about it."""

    check: str
    message: str
    advice: str


def problems(pool: Directories) -> Iterator[Problem]:
    """What is wrong with the tasks that are not completed."""
    misnamed: list[str] = []
    waits_for: dict[str, list[str]] = {}
    for state in _AFTER_ID:
        for path in sorted(task_files(getattr(pool, state))):
            try:
                task = read_task(path)
            except (FileNotFoundError, InvalidTask):
                continue  # it has moved on, or recovery names it
            name = os.path.basename(path)
            misnamed += _misnaming(state, name, task)
            if state == layout.AVAILABLE and task.get("blocked_by"):
                waits_for[name.removesuffix(layout.TASK_SUFFIX)] = _unmet(pool, task)
    if misnamed:
        yield Problem("names", _first(misnamed), "let file name and task_id be the same")
    yield from _blocked(pool, waits_for)


def _misnaming(state: str, name: str, task: Mapping[str, Any]) -> list[str]:
    """What is wrong with a file's name, if anything."""
    if "task_id" not in task:
        return [f"{state}/{name} has no task_id"]
    start = f"{task['task_id']}{_AFTER_ID[state]}"
    if name == start or (state == layout.CLAIMED and name.startswith(start)):
        return []
    return [f"{state}/{name} has the task_id {task['task_id']!r}"]


def _unmet(pool: Directories, task: Mapping[str, Any]) -> list[str]:
    """What a task waits for that is not completed."""
    try:
        names = names_in(task, "blocked_by")
    except TypeError:
        return []  # for `why`, which says so
    return [f"{name}" for name in names if not is_completed(pool, name)]


def _blocked(pool: Directories, waits_for: WaitsFor) -> Iterator[Problem]:
    blockers = {name for names in waits_for.values() for name in names}
    known = known_among(pool, {name for name in blockers if _can_be(pool, name)})
    # In the pool, but completed meanwhile is neither.
    given_up = {name for name in known if os.path.lexists(pool.failed_file(name))}
    yield from never_met(waits_for, blockers - known, given_up)


def never_met(waits_for: WaitsFor, nowhere: set[str], given_up: set[str]) -> Iterator[Problem]:
    """What is wrong with tasks that wait for others, each with those that are not completed.

    Parameters
    ----------
    nowhere, given_up : set of str
        Which of these are not in the pool, and which have failed for good.
    """
    for names, what, advice in (
        (nowhere, "is nowhere", "publish what is waited for"),
        (given_up, "has failed for good", "run retry_failed()"),
    ):
        waiting = [
            f"{task_id} for {name}"
            for task_id, unmet in waits_for.items()
            for name in unmet
            if name in names
        ]
        if waiting:
            yield Problem("blocked", f"tasks wait for what {what}: {_first(waiting)}", advice)
    try:
        check_circles(waits_for)
    except InvalidTask as error:
        yield Problem("blocked", f"{error}", "publish one of them anew, without blocked_by")


def _can_be(pool: Directories, task_id: str) -> bool:
    try:
        pool.completed_file(task_id)
    except InvalidName:
        return False
    return True


def _first(found: list[str]) -> str:
    more = len(found) - _MOST_SHOWN
    return ", ".join(found[:_MOST_SHOWN]) + (f", and {more:,} more" if more > 0 else "")
