"""Hold: open the task, flock its inode, take the lock file, verify the name; and give it all up."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ..descriptors import try_flock
from ..outcome import ABSENT, BUSY, CHANGED, DONE, NOT_REGULAR, STALE
from . import posix
from .lock_file import release_lock, take_lock
from .step import VERIFY_TRIES, Step, errors_of, let_go, name_of, remove


def close_all(step: Step) -> None:
    """Give up a temporary file that is left, the lock file, and the hold; never fails."""
    try:
        if step.temporary is not None:
            with contextlib.suppress(OSError):
                remove(step, step.temporary)
        step.temporary = None
    finally:
        try:
            let_go(step, "replacement")
        finally:
            try:
                release_lock(step)
            finally:
                let_go(step, "task")


def absence(step: Step) -> int:
    """ABSENT or STALE: a name that is not there from here may be there from the root."""
    return ABSENT if step.tasks is None or step.tasks.is_current() else STALE


def hold_once(step: Step) -> int:
    """CHANGED means that the name was another inode when we had flocked the one we opened."""
    try:
        name = name_of(step, step.path)
        step.open["task"], step.writable = posix.open_for_flock(step.at, name, 0)
    except (FileNotFoundError, NotADirectoryError):
        return absence(step)
    except OSError as error:
        if error.errno == errno.EBADF:
            return STALE
        if error.errno not in posix.NOT_REGULAR:
            raise
        return NOT_REGULAR
    if not try_flock(step.open["task"]):
        return BUSY
    step.status = os.fstat(step.open["task"])
    if not stat.S_ISREG(step.status.st_mode):
        return NOT_REGULAR
    if step.status.st_nlink == 0:
        return CHANGED
    if step.lock_path is not None and not step.may_be_linked and "lock" not in step.open:
        # Only now: a claim of a task that is not there creates nothing.
        with errors_of(step, step.lock_path):
            return take_lock(step)
    return DONE


def hold_unverified(step: Step) -> int:
    """DONE, ABSENT, LOST, BUSY, NOT_REGULAR or STALE."""
    for _ in range(VERIFY_TRIES):
        outcome = hold_once(step)
        if outcome != CHANGED:
            return outcome
        let_go(step, "task")
    return BUSY


def verify(step: Step) -> int:
    """DONE if the whole path still names what we hold; else ABSENT, STALE or BUSY."""
    with errors_of(step, step.path):
        named = posix.lstat(step.path)
    if named is None:
        return absence(step)
    return DONE if posix.same_inode(named, step.status) else BUSY


def hold_task(step: Step) -> int:
    with errors_of(step, step.path):
        outcome = hold_unverified(step)
        return verify(step) if outcome == DONE else outcome


def read_held(step: Step, at_most_bytes: int | None = None) -> bytes:
    """The document, or its start, as long as it was when we got hold of it."""
    size_bytes = step.status.st_size
    with errors_of(step, step.path):
        return posix.read_all(step.open["task"], min(size_bytes, at_most_bytes or size_bytes))
