"""One try of a transition: what it knows and has open; names as it looks them up."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

from ..descriptors import sync_directory
from ..named_tuple import NamedTuple
from ..outcome import SYNC_FULL
from ..tasks_directory import AT_FDCWD, TasksDirectory
from . import posix

# How often a name may turn out to be another inode before we call it busy.
VERIFY_TRIES: Final = 8


class Destination(NamedTuple):
    """Where a task is to go."""

    path: bytes
    replace: bool  # what stands there
    directories: tuple[bytes, bytes]  # what SYNC_FULL syncs
    sync: int


class Step:
    """What one try knows and has open.

    Every descriptor is in `open` from the line that opened it to the line that closes it, so that
    an interrupt between two lines loses none.
    """

    def __init__(self, tasks: TasksDirectory | None, path: bytes, lock: bytes | None) -> None:
        self.tasks = tasks
        self.at = AT_FDCWD if tasks is None else tasks.descriptor
        self.prefix_bytes = 0 if tasks is None else tasks.prefix_bytes
        self.path = path
        self.lock_path = lock
        self.temporary: bytes | None = None
        self.writable = False
        self.status: os.stat_result  # the task's
        self.ready = tasks.locked_inode if lock is not None and tasks is not None else None
        self.may_be_linked = False  # that inode, as the lock file
        self.open: dict[str, int] = {}  # "task", "lock" and "replacement"; last: see `Held.__del__`


def errors_of(step: Step, path: bytes) -> posix.NamedErrors:
    return posix.NamedErrors(path, b"" if step.tasks is None else step.tasks.path)


def let_go(step: Step, which: str) -> None:
    """Unlock, then close: a child forked meanwhile has a copy, and the lock with it."""
    if which in step.open:
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(step.open[which], fcntl.LOCK_UN)
        finally:
            with contextlib.suppress(OSError):  # also EINTR: it is closed all the same
                os.close(step.open.pop(which))


def name_of(step: Step, path: bytes) -> bytes:
    """`path` as seen from `step.at`."""
    return path[step.prefix_bytes :]


def find(step: Step, path: bytes) -> os.stat_result | None:
    return posix.lstat(name_of(step, path), step.at)


def is_named(step: Step, path: bytes, status: os.stat_result) -> bool:
    return posix.same_inode(find(step, path), status)


def remove(step: Step, path: bytes) -> None:
    os.unlink(name_of(step, path), dir_fd=step.at)


def rename_over(step: Step, source: bytes, target: bytes) -> None:
    names = name_of(step, source), name_of(step, target)
    os.rename(*names, src_dir_fd=step.at, dst_dir_fd=step.at)


def exchange_names(step: Step, one: bytes, other: bytes) -> None:
    names = name_of(step, one), name_of(step, other)
    posix.rename_with(step.at, *names, posix.RENAME_EXCHANGE)


def rename_new(step: Step, source: bytes, target: bytes) -> None:
    """Rename, but FileExistsError if `target` is there."""
    posix.rename_new(step.at, name_of(step, source), name_of(step, target))


def sync_directories(to: Destination) -> None:
    if to.sync >= SYNC_FULL:
        for directory in to.directories:
            sync_directory(directory)
