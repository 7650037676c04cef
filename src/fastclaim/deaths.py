"""Whether a process may have died since somebody last looked, for one system call.

When a process ends, the kernel closes its owner file, which inotify tells. Where there is no
inotify (it allows 128 instances a user), every question is answered with "maybe".
"""

from __future__ import annotations

import os
import time
import weakref
from typing import Final

from . import layout
from .inotify import Inotify
from .inotify_masks import IN_CLOSE_WRITE, IN_DELETE_SELF, IN_MOVE_SELF
from .owners import no_fork

# The kernel tells that a file was closed a moment before it drops the flock on it: who looks too
# early has to look once more.
_UNLOCKED_WITHIN_S: Final = 1.0
_MASK: Final = IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF


class Deaths:
    """What the kernel tells of the owner files in one pool."""

    def __init__(self, tasks: bytes) -> None:
        self._owners = os.path.join(tasks, layout.OWNERS.encode())
        self._inotify: Inotify | None = None
        self._process_id = 0
        self._watched = (-1, -1)
        self._heard_at_s = float("-inf")

    def may_have_come(self) -> bool:
        """Whether an owner may have died since this was last asked; always so at first."""
        # One thread must not close what another reads; and nobody forks with this lock taken.
        with no_fork:
            return self._may_have_come()

    def _may_have_come(self) -> bool:
        # A forked child reads from its parent's queue until it has one of its own.
        if self._inotify is not None and self._process_id == os.getpid() and self._stands():
            events = self._inotify.read()
            if not any(event.mask & ~IN_CLOSE_WRITE for event in events):
                if events:
                    self._heard_at_s = time.monotonic()
                return time.monotonic() - self._heard_at_s < _UNLOCKED_WITHIN_S
        self._watch()
        return True

    def _stands(self) -> bool:
        """Whether what is watched still is the pool's: the kernel tells of no parent's rename."""
        try:
            status = os.stat(self._owners)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._watched

    def _watch(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
        self._inotify = None
        try:
            watch = Inotify()
        except OSError:
            return
        try:
            status = os.stat(self._owners)
            watch.add(self._owners, _MASK)
        except OSError:  # not there: nobody has claimed anything
            watch.close()
            return
        self._inotify, self._process_id = watch, os.getpid()
        self._watched = (status.st_dev, status.st_ino)


_of_pools: weakref.WeakValueDictionary[bytes, Deaths] = weakref.WeakValueDictionary()


def deaths_in(tasks: bytes) -> Deaths:
    """What all pool objects of this process that mean this `tasks/` share, as long as one does."""
    return _of_pools.setdefault(tasks, Deaths(tasks))
