"""What changes in a pool's directories: told by the kernel, where it tells."""

from __future__ import annotations

import errno
import os
import time

from . import layout
from .directories import Directories
from .inotify_masks import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    IN_Q_OVERFLOW,
)
from .named_tuple import NamedTuple
from .transition import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .bell import Bell
    from .inotify import Inotify

TASKS: Final = "."  # `tasks/` itself

# What is asked for is as little as will do: each event costs whoever causes it, and wakes all.
_MASKS: Final = {
    # A claim opens tasks for writing and makes and unlinks lock files here. It must cause no event,
    # or agents that fail to claim a task would wake each other for ever.
    layout.AVAILABLE: IN_MOVED_TO | IN_MODIFY,
    layout.CLAIMED: IN_MOVED_FROM | IN_DELETE,
    layout.COMPLETED: IN_MOVED_TO | IN_CREATE,
    # The kernel closes what a dead process had open. Who looks whether an owner lives opens its
    # file for reading only, and is not heard.
    layout.OWNERS: IN_CLOSE_WRITE,
    TASKS: IN_MOVED_TO | IN_CREATE | IN_DELETE,
}
_NO_WATCH: Final = (errno.ENOSPC, errno.ENOSYS, errno.EPERM, errno.EACCES)
_TASK_SUFFIX: Final = layout.TASK_SUFFIX.encode()
# A read that brings fewer events than this has emptied the queue: a buffer holds at least 60.
_FEW: Final = 50


class Change(NamedTuple):
    """A name in a directory that something happened to."""

    state: str  # the directory: a state of `layout`, its OWNERS, or TASKS
    name: str


class Changes:
    """The changes in those of a pool's directories that somebody follows.

    `blind` says that the system does not tell (no inotify, or the user's 128 instances are taken)
    or was not asked: then `read` brings nothing, `wait` is a pause, and who needs to know has to
    look.
    """

    def __init__(self, pool: Directories, ask: bool = True) -> None:
        self._pool = pool
        self._followed: dict[str, int | None] = {}
        self._states: dict[int, str] = {}
        self._inotify = _instance() if ask else None
        self._asks = ask

    @property
    def blind(self) -> bool:
        """Whether nothing is told of available/."""
        return self._inotify is None or self._followed.get(layout.AVAILABLE) is None

    def fileno(self) -> int | None:
        """What becomes readable when something changes, if there is such a thing."""
        return None if self._inotify is None else self._inotify.fileno()

    def follow(self, state: str) -> bool:
        """From now on tell of changes in this directory; True if it was not followed before."""
        if state in self._followed:
            return False
        self._followed[state] = self._add(state)
        return True

    def _add(self, state: str) -> int | None:
        if self._inotify is None:
            return None
        directory = os.path.join(self._pool.tasks_path, state)
        mask = _MASKS[state] | IN_MOVE_SELF | IN_ONLYDIR
        try:
            wd = self._inotify.add(directory, mask)
        except FileNotFoundError:
            return None  # `check` comes back to it
        except OSError as error:
            if error.errno not in _NO_WATCH:
                raise
            return None
        self._states[wd] = state
        return wd

    def check(self) -> bool:
        """Look whether what is followed still is what stands there; False if it was not."""
        before = dict(self._followed)
        for state in before:
            # For a directory that is watched already, the kernel gives the same number again.
            self._followed[state] = self._add(state)
        return before == self._followed

    def read(self) -> dict[str, list[str]] | None:
        """The names that have changed since the last call, by directory, as in `Change`.

        In available/ those of tasks. None if that cannot be told completely.
        """
        if self._inotify is None or core.waiting_bytes(self._inotify.descriptor) == 0:
            return {}
        try:
            changes = self._read_all(self._inotify)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            self._inotify, self._states = _instance(), {}  # somebody has closed our descriptor
            changes = None
        if changes is None:
            self.check()
        return changes

    def _read_all(self, inotify: Inotify) -> dict[str, list[str]] | None:
        changes: dict[str, list[str]] = {}
        complete = True
        while events := inotify.read_fields():
            for wd, mask, name, _ in events:
                if mask & (IN_Q_OVERFLOW | IN_IGNORED | IN_MOVE_SELF):
                    complete = False
                elif (state := self._states.get(wd)) is not None and (
                    # Others in available/ are lock files that originals truncate.
                    state != layout.AVAILABLE or name.endswith(_TASK_SUFFIX)
                ):
                    changes.setdefault(state, []).append(layout.decode(name))
            if len(events) < _FEW:
                break
        return changes if complete else None

    def wait(self, timeout_s: float, bell: Bell | None = None) -> None:
        """Block, with the GIL released, until something is told, it rings, or the time is over."""
        if self.blind or self._inotify is None:
            time.sleep(timeout_s)
        else:
            self._inotify.wait(timeout_s, bell)

    def release(self) -> None:
        """Give the inotify instance back, until `resume`."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def resume(self) -> bool:
        """Ask the kernel again if it does not tell; True if it does now, and did not before."""
        if self._inotify is not None or not self._asks:
            return False
        self._inotify, self._states = _instance(), {}
        self.check()
        return self._inotify is not None


def _instance() -> Inotify | None:
    from .inotify import Inotify

    try:
        return Inotify()
    except OSError:
        return None  # none, or none left
