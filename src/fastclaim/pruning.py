"""Removing what is old: only when asked, and never what is still needed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, Final

from . import exclusive, layout, outcome
from .directories import Directories
from .document import parse_held
from .errors import InvalidTask
from .listing import read_task, task_files
from .matching import Task, epoch_s, names_in, published_s
from .recovery import put_back

# Each with the ends that its file names have, and the field that says since when it is there.
_NAMES: Final = {
    layout.AVAILABLE: (layout.TASK_SUFFIX, "created_at"),
    layout.COMPLETED: (layout.COMPLETED_SUFFIX, "completed_at"),
    layout.FAILED: (layout.FAILED_SUFFIX, "failed_at"),
}


def prune(pool: Directories, state: str, older_than_s: float, dry_run: bool) -> list[str]:
    """See `fastclaim.TaskPool.prune`."""
    check_state(state)
    if not older_than_s >= 0:
        raise ValueError(f"older_than {older_than_s!r} is not a number of seconds")
    suffix, field = _NAMES[state]
    needed = _needed(pool) if state == layout.COMPLETED else set()
    before_s = time.time() - older_than_s
    pruned = []
    for path in task_files(os.path.join(pool.tasks, state.encode())):
        task_id = os.path.basename(path).removesuffix(suffix)
        if task_id in needed or not _is_older(path, field, before_s):
            continue
        if dry_run or _remove(pool, os.fsencode(path), field, before_s):
            pruned.append(task_id)
    if not dry_run:
        exclusive.forget_free_keys(pool)
    return pruned


def check_state(state: str) -> None:
    """Raise ValueError unless tasks in that state can be pruned."""
    if state not in layout.PRUNABLE:
        raise ValueError(f"state {state!r} is none of {', '.join(layout.PRUNABLE)}")


def _needed(pool: Directories) -> set[str]:
    """The ids that tasks which are not completed are blocked by."""
    needed: set[str] = set()
    seen: set[str] = set()
    # Those that wait once more at the end: one may have come back before we looked where it was.
    for state in (layout.AVAILABLE, layout.CLAIMED, layout.FAILED, layout.AVAILABLE):
        for path in task_files(os.path.join(pool.tasks, state.encode())):
            if path in seen:
                continue
            try:
                needed.update(f"{name}" for name in names_in(read_task(path), "blocked_by"))
            except (FileNotFoundError, InvalidTask, TypeError):
                continue
            seen.add(path)
    return needed


def _is_older(path: str, field: str, before_s: float) -> bool:
    try:
        return _since_s(read_task(path), field, path) < before_s
    except (FileNotFoundError, InvalidTask):
        return False  # gone; or for `doctor` and people to look at


def _since_s(task: Task, field: str, path: str) -> float:
    since_s = epoch_s(task.get(field))
    if since_s is None:
        since_s = published_s(task)
    return os.lstat(path).st_mtime if since_s is None else since_s


def _remove(pool: Directories, path: bytes, field: str, before_s: float) -> bool:
    """Remove a task, and surely the one that was judged: it may be put there anew at any moment."""
    lock = None
    if os.path.dirname(path) == pool.available:
        lock = pool.lock_file(path)
    _, held = pool.core.hold(pool.current(), path, lock)
    if held is None:
        return False  # gone, or in the middle of a transition
    with held:
        try:
            since_s = _since_s(parse_held(held).fields, field, os.fsdecode(path))
        except (ValueError, FileNotFoundError):
            return False
        return since_s < before_s and _remove_held(pool, held, path)


def _remove_held(pool: Directories, held: Any, path: bytes) -> bool:
    with aside(pool, os.path.dirname(path)) as directory:
        taken = os.path.join(directory, os.path.basename(path))
        came_to = held.move(taken)
        if came_to == outcome.DONE:
            os.unlink(taken)
        elif came_to == outcome.CHANGED:
            put_back(taken, path)
        return bool(came_to == outcome.DONE)


@contextlib.contextmanager
def aside(pool: Directories, directory: bytes) -> Iterator[bytes]:
    """A directory in `directory`, to take a file to that is to be removed if it is the right one.

    Nobody sweeps a directory, so that what turns out to be another publication is not swept.
    """
    path = pool.temporary_file(directory)
    os.mkdir(path)
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):  # recovery took us for dead
            os.rmdir(path)
