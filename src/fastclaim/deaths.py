"""Whether a process may have died, or a lease ended, since somebody last looked: two system calls.

When a process ends, the kernel closes its owner file, which inotify tells, as it tells of the files
in the same directory whose names say when leases end. Where there is no inotify (it allows 128
instances a user), every question is answered with "maybe".
"""

from __future__ import annotations

import math
import os
import time
import weakref

from . import layout, leases
from .inotify import DescriptorLost, Inotify
from .inotify_masks import IN_CLOSE_WRITE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF
from .owners import no_fork
from .transition import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# The kernel tells that a file was closed a moment before it drops the flock on it: who looks too
# early has to look once more.
_UNLOCKED_WITHIN_S: Final = 1.0
# A claim whose lease is over may have to wait for a newer publication: how often to look at it.
_LEASE_LOOKS_S: Final = 1.0
# How soon a look that failed, or left something, is repeated, and how seldom at last.
_FIRST_AGAIN_S: Final = 1.0
_LAST_AGAIN_S: Final = 30.0
_MASK: Final = IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF


class Deaths:
    """What the kernel tells of the owner files in one pool."""

    def __init__(self, tasks: bytes) -> None:
        self._tasks = tasks
        self._owners = os.path.join(tasks, layout.OWNERS.encode())
        self.inotify: Inotify | None = None
        self._process_id = 0
        self._watched: os.stat_result | None = None
        self._watched_in: os.stat_result | None = None  # the `tasks/` that it stands in
        # `tasks/` as it was given with a question whose answer was no, until something comes.
        self.quiet_in: os.stat_result | None = None
        # Owner files that were closed, and when on the monotonic clock; whether one was of which
        # nobody has been told.
        self._closed: dict[str, float] = {}
        self._owes_death = False
        self._owes_look = False  # it has not always listened, and nobody was told so
        self._lease_look_s = math.inf  # when to look for leases that have ended, since the epoch
        self._look_again_s = math.inf  # on the monotonic clock
        self._again_after_s = _FIRST_AGAIN_S
        self._looks = 0  # how many were brought about

    def may_have_come(self, tasks: os.stat_result | None = None) -> int:
        """Whether an owner may have died, or a lease ended, since this was last asked; 0 if not.

        Always so at first. Whoever is given another number looks, and says by `looked` with that
        number what came of it; who does not come to that is taken to have left something.

        Parameters
        ----------
        tasks : os.stat_result or None
            The `tasks/` that the caller has just seen at the pool's path, which need not be looked
            for then.
        """
        # One thread must not close what another reads; and nobody forks with this lock taken.
        with no_fork:
            if self.is_quiet(tasks) or not self._may_have_come(tasks):
                return 0
            self._looks += 1
            return self._looks

    def is_quiet(self, tasks: os.stat_result | None) -> bool:
        """Whether the kernel has had nothing at all to tell since the last answer, a lasting no.

        Then `may_have_come` would say no; this is two system calls and takes no lock: a thread that
        asks while another hears of a death may be told what was true before.
        """
        inotify = self.inotify
        if tasks is None or tasks is not self.quiet_in or inotify is None:
            return False
        return core.waiting_bytes(inotify.descriptor) == 0

    @property
    def owes_look(self) -> bool:
        """Whether it listens, and has not always: `may_have_come` will say so."""
        return self._owes_look and self.inotify is not None

    def release(self) -> None:
        """Give the inotify instance back; the next answer is "maybe"."""
        with no_fork:
            self.quiet_in = None
            if self.inotify is not None:
                self.inotify.close()
                self.inotify = None

    def looked(self, look: int, settled: bool) -> None:
        """Say whether the look of this number has left nothing to be done."""
        with no_fork:
            if not settled:
                self.quiet_in = None
                self._look_again_s = time.monotonic() + self._again_after_s
                self._again_after_s = min(2 * self._again_after_s, _LAST_AGAIN_S)
            elif look == self._looks:  # else somebody else has looked since, and may have left it
                self._look_again_s, self._again_after_s = math.inf, _FIRST_AGAIN_S

    def next_look_in_s(self) -> float:
        """Seconds until a lease may have ended, or a look is to be repeated; infinity: unknown."""
        with no_fork:
            if not self._take_in(None):
                self._watch()
            lease_ends_in_s = self._lease_look_s - time.time()
            return min(lease_ends_in_s, self._look_again_s - time.monotonic())

    def _may_have_come(self, tasks: os.stat_result | None) -> bool:
        if not self._take_in(tasks):
            self._watch()
        now_s = time.monotonic()
        has_closed = self._has_closed(now_s)
        is_look_due = now_s >= self._look_again_s
        if self._owes_look or has_closed or is_look_due:
            # First: an interrupt may come at any moment until somebody has looked.
            self._look_again_s = now_s + self._again_after_s
        owes_look, self._owes_look, self._owes_death = self._owes_look, False, False
        if owes_look:
            self._is_lease_over()  # if it is, the look that this answer brings about is the one
            return True
        may_have_come = self._is_lease_over() or has_closed or is_look_due
        will_be_told = self._lease_look_s == self._look_again_s == math.inf
        if self._process_id != os.getpid():  # a signal's handler has forked
            return True
        # Of the end of an `owners/` in another `tasks/` than is watched the kernel may say nothing.
        if not may_have_come and will_be_told and self._watched_in is not None:
            self.quiet_in = tasks
        return may_have_come

    def _take_in(self, tasks: os.stat_result | None) -> bool:
        """Read what inotify has to tell; False if it does not tell of this directory."""
        self.quiet_in = None
        # A forked child reads from its parent's queue until it has one of its own, and the kernel
        # tells of no parent's rename.
        if self.inotify is None or self._process_id != os.getpid():
            return False
        if not self._stands(tasks):
            return False
        owes_look, self._owes_look = self._owes_look, True  # if an interrupt comes after the read
        try:
            events = self.inotify.read()
        except DescriptorLost:
            return False
        for event in events:
            if event.mask & ~IN_CLOSE_WRITE:
                return False  # something was removed from `tasks/`, or moved
            name = os.fsdecode(event.name)
            if leases.is_lease(name):
                self._lease_look_s = min(self._lease_look_s, leases.end_of(name))
            elif name.endswith(layout.OWNER_SUFFIX):
                self._closed[name], self._owes_death = time.monotonic(), True
        self._owes_look = owes_look
        return True

    def _stands(self, tasks: os.stat_result | None) -> bool:
        """Whether what is watched stands at its path; of moves inside `tasks/` the kernel tells."""
        known = self._watched_in
        if tasks is not None and known is not None and os.path.samestat(tasks, known):
            return True
        return self._watched is not None and _is_at(self._owners, self._watched)

    def _has_closed(self, now_s: float) -> bool:
        """Whether an owner file was closed since the last answer, or may still be locked."""
        owners = os.fsdecode(self._owners)
        self._closed = {
            name: at_s
            for name, at_s in self._closed.items()
            # Whoever has given back all that it was the owner of removes it.
            if now_s - at_s < _UNLOCKED_WITHIN_S and os.path.lexists(os.path.join(owners, name))
        }
        return self._owes_death or bool(self._closed)

    def _is_lease_over(self) -> bool:
        if self._lease_look_s > time.time():
            return False
        self._list_leases()  # somebody else may have seen to it
        if self._lease_look_s > (now_s := time.time()):
            return False
        self._lease_look_s = now_s + _LEASE_LOOKS_S
        return True

    def _list_leases(self) -> None:
        self._lease_look_s = min(leases.ends(self._owners).values(), default=math.inf)

    def _watch(self) -> None:
        self._owes_look = True
        if self.inotify is not None:
            self.inotify.close()
        self.inotify = None
        try:
            watch = Inotify()
        except OSError:
            return
        try:
            tasks = os.stat(self._tasks)
            # A directory that is removed while files in it are open does not say so itself.
            watch.add(self._tasks, IN_DELETE)
            status = os.stat(self._owners)
            watch.add(self._owners, _MASK)
            is_same = _is_at(self._tasks, tasks)
        except OSError:  # not there: nobody has claimed anything
            watch.close()
            return
        self.inotify, self._process_id = watch, os.getpid()
        self._watched, self._watched_in = status, tasks if is_same else None
        self._list_leases()


def _is_at(path: bytes, expected: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), expected)
    except OSError:
        return False


_of_pools: weakref.WeakValueDictionary[bytes, Deaths] = weakref.WeakValueDictionary()


def deaths_in(tasks: bytes) -> Deaths:
    """What all pool objects of this process that mean this `tasks/` share, as long as one does."""
    return _of_pools.setdefault(tasks, Deaths(tasks))


def _listen_anew() -> None:
    """In a forked child: it would share its parent's queue, and what one reads the other misses."""
    for deaths in _of_pools.values():
        deaths.quiet_in = None


os.register_at_fork(after_in_child=_listen_anew)
