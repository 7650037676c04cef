"""Whether a process may have died, or a lease ended, since somebody last looked: two system calls.

When a process ends, the kernel closes its owner file, which inotify tells. Where there is no
inotify (it allows 128 instances a user), every question is answered with "maybe". When leases end
stands in names in the same directory, which are read again if it has changed.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from typing import Final

from . import layout, leases
from .inotify import Inotify
from .inotify_masks import IN_CLOSE_WRITE, IN_DELETE_SELF, IN_MOVE_SELF
from .owners import no_fork

# The kernel tells that a file was closed a moment before it drops the flock on it: who looks too
# early has to look once more.
_UNLOCKED_WITHIN_S: Final = 1.0
# A claim whose lease is over may have to wait for a newer publication: how often to look at it.
_LEASE_LOOKS_S: Final = 1.0
# Two changes of a directory can have the same mtime, if they are no farther apart than this.
_TICK_S: Final = 0.1
_MASK: Final = IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF


class Deaths:
    """What the kernel tells of the owner files in one pool."""

    def __init__(self, tasks: bytes) -> None:
        self._owners = os.path.join(tasks, layout.OWNERS.encode())
        self._inotify: Inotify | None = None
        self._process_id = 0
        self._watched = (-1, -1)
        self._heard_at_s = float("-inf")
        self._listed_ns = -1  # mtime of owners/ when its names were read; -1: they may have changed
        self._lease_look_s = math.inf  # when to look for leases that have ended, since the epoch

    def may_have_come(self) -> bool:
        """Whether an owner may have died, or a lease ended, since this was last asked.

        Always so at first.
        """
        # One thread must not close what another reads; and nobody forks with this lock taken.
        with no_fork:
            return self._may_have_come()

    def lease_ends_in_s(self) -> float:
        """Seconds until a lease may have ended; infinity: none will, as far as is known."""
        with no_fork:
            self._status()
            return self._lease_look_s - time.time()

    def _may_have_come(self) -> bool:
        status = self._status()
        is_lease_over = False
        if self._lease_look_s < math.inf and self._lease_look_s <= (now_s := time.time()):
            is_lease_over = True
            self._lease_look_s = now_s + _LEASE_LOOKS_S
        # A forked child reads from its parent's queue until it has one of its own, and the kernel
        # tells of no parent's rename.
        if (
            self._inotify is not None
            and self._process_id == os.getpid()
            and status is not None
            and (status.st_dev, status.st_ino) == self._watched
        ):
            events = self._inotify.read()
            if not any(event.mask & ~IN_CLOSE_WRITE for event in events):
                if events and not all(leases.is_lease(os.fsdecode(e.name)) for e in events):
                    self._heard_at_s = time.monotonic()
                is_recent = time.monotonic() - self._heard_at_s < _UNLOCKED_WITHIN_S
                return is_lease_over or is_recent
        self._watch()
        return True

    def _status(self) -> os.stat_result | None:
        """What stands there; if it has changed, its names are read."""
        try:
            status = os.stat(self._owners)
        except OSError:
            return None
        if status.st_mtime_ns != self._listed_ns:
            is_settled = abs(time.time() - status.st_mtime) > _TICK_S
            self._listed_ns = status.st_mtime_ns if is_settled else -1
            self._lease_look_s = min(leases.ends(self._owners).values(), default=math.inf)
        return status

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
