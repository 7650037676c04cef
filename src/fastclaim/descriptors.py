"""What several modules do with a descriptor: flock it, verify its name, close it, sync it."""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MOST_TOGETHER: Final = 128  # so many files of a batch are open at a time


class ErrorsOf:
    """System errors get this file's name, also those of calls on a descriptor."""

    def __init__(self, path: str | bytes) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, OSError):
            error.filename = os.fsdecode(self._path)


def try_flock(descriptor: int) -> bool:
    """Take the exclusive flock without waiting; False if somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock_and_close(descriptor: int) -> None:
    """Unlock first: a child forked meanwhile has a copy, and the flock with it. Never fails."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        pass  # the close that follows does it, too
    try:
        os.close(descriptor)
    except OSError:
        pass  # it is closed all the same


def is_named(path: str | bytes, descriptor: int) -> bool:
    """Whether `path` still is the name of the file that the descriptor has open."""
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))


def sync_directory(path: str | bytes) -> None:
    """Put the names in a directory on disk; raises OSError."""
    with ErrorsOf(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            try:
                os.close(descriptor)
            except OSError:
                pass  # it is synced, or the error is on its way
