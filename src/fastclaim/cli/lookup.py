"""Where one task is, whatever state it is in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from .. import layout, listing
from ..directories import Directories
from ..literals import State
from ..pool import TaskPool

if TYPE_CHECKING:
    from ..postgres.pool import PostgresPool


def is_known(pool: TaskPool, task_id: object) -> bool:
    """Whether the pool has a task of this id, in whatever state."""
    return any(True for _ in find(pool, task_id))


def find(pool: TaskPool, task_id: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each state that the task is in, and the task as it is there.

    It can be in two: one that is claimed or completed may have been published again.

    Raises
    ------
    InvalidTask, InvalidName
        What is there cannot be read as a task, or the id cannot be part of a file name.
    OSError
        The system refused.
    """
    directories = _directories(pool)
    if directories is None:
        task = cast("PostgresPool", pool)._find(task_id)
        if task is not None:
            yield task["status"], task
        return
    # In the order in which tasks move on, so that none slips past.
    for state in layout.STATES:
        for task in _find_in(directories, state, f"{task_id}"):
            yield state, task


def failed_ids(pool: TaskPool) -> list[str] | None:
    """The ids of the tasks in failed/, by their names; None if the pool is a database."""
    directories = _directories(pool)
    if directories is None:
        return None
    names = map(os.path.basename, listing.task_files(directories.failed))
    suffix = layout.FAILED_SUFFIX
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]


def _find_in(directories: Directories, state: State, task_id: str) -> Iterator[dict[str, Any]]:
    if state == layout.CLAIMED:
        yield from listing.claims_of(directories, task_id)
    else:
        path = getattr(directories, f"{state}_file")(task_id)
        try:
            yield listing.read_task(path)
        except FileNotFoundError:
            return


def _directories(pool: TaskPool) -> Directories | None:
    """Where the pool lies; None if it is a database."""
    if not hasattr(pool, "tasks_dir"):
        return None
    return Directories(os.fspath(pool.base_dir), "data", lock_files=False)
