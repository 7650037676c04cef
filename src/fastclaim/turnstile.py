"""Few of many: of all processes that wait for the same tasks so many listen, and the others sleep.

A publication wakes everybody who listens, one of whom gets it, and a user has no more than 128
inotify instances. So whoever waits takes one of `PLACES` first: a FIFO in `waiting/` which it keeps
flocked and has open for writing. Where all are taken it sleeps on all of them: when a place's
holder leaves, or is killed, nobody writes to that FIFO any more, which the kernel tells its readers
(POLLHUP), and one of them gets the lock. More than one place, so that who listens and is stopped,
or slow, does not keep the others from hearing; and who sleeps looks for itself now and then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import select
import stat
from collections.abc import Iterable
from typing import Final

from . import layout
from .owners import no_fork

PLACES: Final = 8

_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Turnstile:
    """One process's way to the places for those who wait for the same tasks.

    Parameters
    ----------
    tasks : str
        The pool's `tasks/`.
    kind : iterable of object
        What tells those who wait for the same tasks from others.

    Raises
    ------
    OSError
        There can be no such places here.
    """

    def __init__(self, tasks: str, kind: Iterable[object]) -> None:
        directory = os.path.join(tasks, layout.WAITING)
        os.makedirs(directory, exist_ok=True)
        digest = hashlib.blake2b(repr(tuple(kind)).encode(), digest_size=8).hexdigest()
        self._paths = [os.path.join(directory, f"{digest}-{place}") for place in range(PLACES)]
        random.shuffle(self._paths)
        self._reading = [-1] * PLACES  # a descriptor of each FIFO, as long as we wait
        self._writing = -1  # that of our place, if we have one

    def enter(self) -> bool:
        """Take a place, if one is free; whether we have one.

        Raises
        ------
        OSError
            The FIFOs were cleared away, or the process has no descriptor left.
        """
        return self._writing >= 0 or any(map(self._try, range(PLACES)))

    def sleep(self, timeout_s: float) -> None:
        """Where there is no place: sleep until one may be free, or so many seconds are over."""
        poll = select.poll()
        for descriptor in self._reading:
            poll.register(descriptor, 0)  # POLLHUP is always told
        poll.poll(timeout_s * 1000)

    def leave(self) -> None:
        """Let somebody else have our place; never fails."""
        for descriptor in (*self._reading, self._writing):
            _close(descriptor)
        self._reading, self._writing = [-1] * PLACES, -1

    def _try(self, place: int) -> bool:
        # Anew each time: somebody may have cleared the FIFO away, and others made another.
        before, self._reading[place] = self._reading[place], -1
        _close(before)
        self._reading[place] = _open(self._paths[place], os.O_RDONLY)
        # Before the flock: the kernel tells of nobody who is killed without it.
        self._writing = _open(self._paths[place], os.O_WRONLY)
        try:
            fcntl.flock(self._reading[place], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            writing, self._writing = self._writing, -1
            _close(writing)
            return False
        return True


# A child that is forked would keep a dead parent's place: it closes what is here, number and inode.
_opened: dict[int, int] = {}


def _open(path: str, flags: int) -> int:
    with no_fork:
        try:
            descriptor = os.open(path, flags | _FLAGS)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(path)
            descriptor = os.open(path, flags | _FLAGS)
        status = os.fstat(descriptor)
        _opened[descriptor] = status.st_ino
    if not stat.S_ISFIFO(status.st_mode):
        _close(descriptor)
        raise OSError(errno.EINVAL, "is no FIFO", path)
    return descriptor


def _close(descriptor: int) -> None:
    with no_fork:
        inode = _opened.pop(descriptor, None)
        with contextlib.suppress(OSError):  # it is closed all the same
            # A daemon closes whatever is open, and the number may be another file's.
            if inode is not None and os.fstat(descriptor).st_ino == inode:
                os.close(descriptor)


def _in_child() -> None:
    for descriptor in list(_opened):
        _close(descriptor)


os.register_at_fork(after_in_child=_in_child)
