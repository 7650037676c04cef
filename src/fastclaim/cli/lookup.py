"""Where one task is, whatever state it is in."""

from __future__ import annotations

import os

from .. import layout, listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..directories import Directories
    from ..pool import TaskPool


def is_known(pool: TaskPool, task_id: object) -> bool:
    """Whether the pool has a task of this id, in whatever state."""
    return any(True for _ in find(pool, task_id))


def find(pool: TaskPool, task_id: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `listing.states_of`, of either kind of pool: on a server a task is in one state."""
    directories = _directories(pool)
    if directories is not None:
        yield from listing.states_of(directories, task_id)
    elif (task := pool.find(task_id)) is not None:
        yield task["status"], task


def failed_ids(pool: TaskPool) -> list[str] | None:
    """The ids of the tasks in failed/, by their names; None if the pool is a database."""
    directories = _directories(pool)
    if directories is None:
        return None
    names = map(os.path.basename, listing.task_files(directories.failed))
    suffix = layout.FAILED_SUFFIX
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]


def _directories(pool: TaskPool) -> Directories | None:
    """Where the pool lies; None if it is a database."""
    return getattr(pool, "_directories", None)
