"""Of all processes that wait for the same tasks only a few listen; the others sleep.

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
import weakref
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
        self._reading: list[_End | None] = [None] * PLACES  # of each FIFO, as long as we wait
        self._writing: _End | None = None  # of our place, if we have one

    def enter(self) -> bool:
        """Take a place, if one is free; whether we have one.

        Raises
        ------
        OSError
            The FIFOs were cleared away, or the process has no descriptor left.
        """
        return self._writing is not None or any(map(self._try, range(PLACES)))

    def sleep(self, timeout_s: float) -> None:
        """Where there is no place: sleep until one may be free, or the timeout has passed."""
        poll = select.poll()
        for end in self._reading:
            if end is not None:
                poll.register(end, 0)  # POLLHUP is always told
        poll.poll(timeout_s * 1000)

    def leave(self) -> None:
        """Let somebody else have our place."""
        self._reading, self._writing = [None] * PLACES, None

    def _try(self, place: int) -> bool:
        # Anew each time: somebody may have cleared the FIFO away, and others made another.
        self._reading[place] = reading = _End(self._paths[place], os.O_RDONLY)
        # Before the flock: the kernel tells of nobody who is killed without it.
        writing = _End(self._paths[place], os.O_WRONLY)
        try:
            fcntl.flock(reading, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._writing = writing
        return True


class _End:
    """An open end of a FIFO, closed when nobody has it any more: an interrupt leaves none open."""

    __slots__ = ("__weakref__", "_opened", "descriptor")

    def __init__(self, path: str, flags: int) -> None:
        self._opened: os.stat_result | None = None
        self.descriptor = -1
        with no_fork:
            self.descriptor = _open(path, flags)
            _all.add(self)
        self._opened = os.fstat(self.descriptor)
        if not stat.S_ISFIFO(self._opened.st_mode):
            raise OSError(errno.EINVAL, "is no FIFO", path)

    def fileno(self) -> int:
        """The descriptor."""
        return self.descriptor

    def close(self) -> None:
        """Close it; again: nothing."""
        with contextlib.suppress(OSError):  # it is closed all the same
            # A daemon closes whatever is open, and the number may be another file's.
            if self.descriptor >= 0 and (
                self._opened is None or os.path.samestat(os.fstat(self.descriptor), self._opened)
            ):
                os.close(self.descriptor)
        self.descriptor = -1

    __del__ = close


# A child that is forked would keep a dead parent's place.
_all: weakref.WeakSet[_End] = weakref.WeakSet()


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | _FLAGS)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path)
        return os.open(path, flags | _FLAGS)


def _in_child() -> None:
    for end in list(_all):
        end.close()


os.register_at_fork(after_in_child=_in_child)
