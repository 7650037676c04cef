"""A flocked inode, kept ready: linked to the name of a task's lock file, it is that lock, taken.

One link(2) and one unlink(2) then do what otherwise takes an open, an flock, two looks, an unlink,
an unlock and a close, and the file system has no inode to make and destroy, which is most of what a
lock file costs.

An original that opens such a lock file waits for an flock that we never drop. But it truncates what
it opens: the file has one byte, and once that is missing somebody may be waiting. The inode is then
given up, with its flock, for another one.

As with an owner file, a forked child closes what it inherits, and nobody forks in the middle.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import weakref

from . import layout
from .descriptors import is_named, try_flock
from .owners import no_fork
from .tokens import new_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# How often somebody may take it for a dead process's before it is locked.
_TRIES: Final = 8
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class LockedInode:
    """One such inode; its own name is in `owners/`, where who looks after the dead finds it.

    Attributes
    ----------
    descriptor : int
        -1 in a forked child.
    name : bytes
        As seen from `tasks/`.
    device, number : int
        Which inode it is.

    Raises
    ------
    OSError
        None can be made.
    """

    __slots__ = ("__weakref__", "_path", "descriptor", "device", "name", "number")

    def __init__(self, tasks: bytes) -> None:
        self.descriptor = self.device = self.number = -1  # first: for __del__
        for _ in range(_TRIES):
            self.name = f"{layout.OWNERS}/{new_token()}{layout.LOCK_SUFFIX}".encode()
            self._path = os.path.join(tasks, self.name)
            if self._make():
                return
            self.give_up()
        raise OSError(errno.EBUSY, "others take its lock", os.fsdecode(self._path))

    def _make(self) -> bool:
        """False if somebody took it for a dead process's before it was locked."""
        with no_fork:
            self.descriptor = os.open(self._path, _FLAGS, 0o666)
            _all.add(self)
        status = os.fstat(self.descriptor)
        self.device, self.number = status.st_dev, status.st_ino
        if not try_flock(self.descriptor):
            return False
        os.pwrite(self.descriptor, b"\n", 0)
        return is_named(self._path, self.descriptor)

    def give_up(self) -> None:
        """Let go of it, and of its name; again, or in a forked child: nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor < 0:
            return
        try:
            os.unlink(self._path)
        except OSError:
            pass  # recovery does it
        try:
            # A daemon closes whatever is open, and the number may be another file's.
            if self.number in (-1, os.fstat(descriptor).st_ino):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)
        except OSError:
            pass  # it is closed all the same

    __del__ = give_up


_all: weakref.WeakSet[LockedInode] = weakref.WeakSet()


def _in_child() -> None:
    for locked in list(_all):
        descriptor, locked.descriptor = locked.descriptor, -1
        try:
            # -1: the fork came before it was known.
            if locked.number in (-1, os.fstat(descriptor).st_ino):
                os.close(descriptor)
        except OSError:
            pass  # it is closed all the same
    _all.clear()


def _at_exit() -> None:
    """Who is killed instead leaves the names to recovery."""
    for locked in list(_all):
        locked.give_up()


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
