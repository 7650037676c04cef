"""Whether a process may have died since somebody last looked, for one system call.

When a process ends, the kernel closes its owner file, which inotify tells. Where there is no
inotify (it allows 128 instances a user), every question is answered with "maybe".
"""

from __future__ import annotations

import functools
import os
import time
from typing import Final

from . import layout
from .inotify import (
    IN_CLOSE_WRITE,
    IN_DELETE_SELF,
    IN_MOVE_SELF,
    Inotify,
)

# The kernel tells that a file was closed a moment before it drops the flock on it: who looks too
# early has to look once more.
_UNLOCKED_WITHIN_S: Final = 1.0
_MASK: Final = IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF


# A process that opens one pool after the other must not use up the user's instances.
@functools.lru_cache(maxsize=8)
def deaths_in(tasks: bytes) -> Deaths:
    """The one of this process for the pool with this `tasks/`."""
    return Deaths(tasks)


class Deaths:
    """What the kernel tells of the owner files in one pool."""

    def __init__(self, tasks: bytes) -> None:
        self._owners = os.path.join(tasks, layout.OWNERS.encode())
        self._inotify: Inotify | None = None
        self._process_id = 0
        self._heard_at_s = float("-inf")

    def may_have_come(self) -> bool:
        """Whether an owner may have died since this was last asked; always so at first."""
        # A forked child reads from its parent's queue until it has one of its own.
        if self._inotify is not None and self._process_id == os.getpid():
            events = self._inotify.read()
            if not any(event.mask & ~IN_CLOSE_WRITE for event in events):
                if events:
                    self._heard_at_s = time.monotonic()
                return time.monotonic() - self._heard_at_s < _UNLOCKED_WITHIN_S
        self._watch()
        return True

    def _watch(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
        self._inotify = None
        try:
            watch = Inotify()
        except OSError:
            return
        try:
            watch.add(self._owners, _MASK)
        except OSError:  # not there: nobody has claimed anything
            watch.close()
            return
        self._inotify, self._process_id = watch, os.getpid()
