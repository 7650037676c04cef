"""From failed back to available: the dead letters get another chance."""

from __future__ import annotations

import os
from typing import Any

from . import layout, outcome
from .directories import Directories
from .document import ATTEMPTS, parse_held
from .errors import InvalidTask, LockTimeout, TaskExists, TaskNotAvailable
from .finishing import HOLD_TIMEOUT_S, Ending, rewrite
from .listing import task_files
from .stamps import available_fields
from .waiting import turns


def retry(pool: Directories, task_id: object) -> None:
    """Let one task wait again; see `TaskPool.retry_failed`."""
    path, target = pool.failed_file(task_id), pool.available_file(task_id)
    for _ in turns(HOLD_TIMEOUT_S):
        came_to = _once(pool, task_id, path, target)
        if came_to == outcome.LOST:
            pool.make()  # a directory has gone
            came_to = _once(pool, task_id, path, target)
        if came_to == outcome.DONE:
            return
        if came_to == outcome.COLLISION:
            raise TaskExists(f"task {task_id!r} was published again", task_id)
        if came_to not in (outcome.BUSY, outcome.STALE):
            raise TaskNotAvailable(f"task {task_id!r} is not among the failed", task_id)
    raise LockTimeout(f"task {task_id!r} was held by others for {HOLD_TIMEOUT_S} s", task_id)


def retry_all(pool: Directories) -> int:
    """Let all of them wait again; how many."""
    count = 0
    for path in list(task_files(pool.failed)):
        name = os.path.basename(path)
        if name.endswith(layout.FAILED_SUFFIX):
            try:
                retry(pool, name.removesuffix(layout.FAILED_SUFFIX))
            except TaskNotAvailable:
                continue  # somebody else did it
            count += 1
    return count


def _once(pool: Directories, task_id: object, path: bytes, target: bytes) -> int:
    came_to, held = pool.core.hold(pool.current(), path, pool.lock_file(target))
    if held is None:
        return int(came_to)
    with held:
        return _rewrite(pool, held, task_id, target)


def _rewrite(pool: Directories, held: Any, task_id: object, target: bytes) -> int:
    try:
        document = parse_held(held)
    except ValueError as error:
        raise InvalidTask(f"failed task {task_id!r} is {error}", task_id) from error
    fields = available_fields(document.fields)
    fields.pop(ATTEMPTS, None)
    return rewrite(pool, held, document, Ending(fields, target, pool.available, False))
