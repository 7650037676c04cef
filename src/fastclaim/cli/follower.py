"""State changes of tasks as they happen.

A change is a rename from one state's directory to another's; or, where originals are at work, a
file that is written in one and then unlinked in another. inotify tells of both, and the names tell
which task and which agent: a change is told even if the next one is quicker than a look at it. Why
a task came back, and for how long it had waited, only the task itself tells, if it still is there.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from .. import layout, listing, recovery
from ..errors import InvalidTask
from ..inotify import Event, Inotify
from ..inotify_masks import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    IN_Q_OVERFLOW,
)
from . import fields
from .state_changes import (
    CLAIMED,
    COMPLETED,
    FAILED,
    LOST,
    PUBLISHED,
    RECOVERED,
    RELEASED,
    REMOVED,
    RETRIED,
    Change,
)

_MASK: Final = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_CLOSE_WRITE | IN_DELETE | IN_ONLYDIR
_SUFFIXES: Final = {
    layout.AVAILABLE: layout.TASK_SUFFIX,
    layout.CLAIMED: layout.TASK_SUFFIX,
    layout.COMPLETED: layout.COMPLETED_SUFFIX,
    layout.FAILED: layout.FAILED_SUFFIX,
}
# Since when a failure is taken for that of the claim that ended just now.
_NEW_S: Final = 1.0


# How often to look whether the pool still is where it was.
_CHECK_EVERY_S: Final = 1.0


class _Place(NamedTuple):
    state: str
    name: str

    @property
    def stem(self) -> str | None:
        """What the name says; None if it is not a task's."""
        suffix = _SUFFIXES[self.state]
        return self.name.removesuffix(suffix) if self.name.endswith(suffix) else None


class _Held(NamedTuple):
    task_id: str
    agent_id: str
    since_s: float | None
    attempts: int | None  # None: it was gone before we could look


class Follower:
    """Tells state changes from the moment it is made.

    Parameters
    ----------
    tasks_dir : str or os.PathLike
        The pool's directory of directories.

    Raises
    ------
    OSError
        A directory is not there, or the system has no inotify to give.
    """

    def __init__(self, tasks_dir: str | os.PathLike[str]) -> None:
        self._tasks_dir = os.fspath(tasks_dir)
        self._inotify = Inotify()
        try:
            # Before they are watched: what takes a place meanwhile is not what was there.
            self._places = {state: os.stat(self._path_of(state)) for state in layout.STATES}
            self._states = {
                self._inotify.add(self._path_of(state), _MASK): state for state in layout.STATES
            }
        except BaseException:
            self._inotify.close()
            raise
        # The first halves of renames, by cookie, until the second halves come.
        self._leaving: dict[int, _Place] = {}
        # Files that somebody writes in place.
        self._growing: set[_Place] = set()
        self._held: dict[str, _Held] = {}  # by the claim's file name
        self._find_claims()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inotify.close()

    def fileno(self) -> int:
        """For a selector: readable if there are changes."""
        return self._inotify.fileno()

    def wait(self, timeout_s: float | None = None) -> list[Change]:
        """The changes since the last call; waits for one, but no longer than `timeout_s`.

        It may come back sooner, with none.

        Raises
        ------
        FileNotFoundError
            The pool was moved or removed.
        """
        self._check_places()
        self._inotify.wait(_CHECK_EVERY_S if timeout_s is None else min(timeout_s, _CHECK_EVERY_S))
        return list(self.read())

    def _check_places(self) -> None:
        """Raise FileNotFoundError unless what is watched is what others find by the pool's name.

        inotify does not tell of a directory that one further up was renamed.
        """
        for state, watched in self._places.items():
            path = self._path_of(state)
            try:
                is_there = os.path.samestat(os.stat(path), watched)
            except (FileNotFoundError, NotADirectoryError):
                is_there = False
            if not is_there:
                moved = "the directory was moved or removed"
                raise FileNotFoundError(errno.ENOENT, moved, path)

    def read(self) -> Iterator[Change]:
        """The changes since the last call; does not wait.

        Raises
        ------
        FileNotFoundError
            The pool was removed.
        """
        now_s = time.time()
        while events := self._inotify.read():
            for event in events:
                yield from self._changes(event, now_s)

    def _find_claims(self) -> None:
        for path in listing.task_files(os.fsencode(self._path_of(layout.CLAIMED))):
            name = os.path.basename(path)
            task = self._read(_Place(layout.CLAIMED, name)) or {}
            since_s = fields.moment(task, "claimed_at")
            self._hold(name, f"{task.get('task_id')}", f"{fields.holder(task)}", since_s)

    def _changes(self, event: Event, now_s: float) -> Iterator[Change]:
        if event.mask & IN_Q_OVERFLOW:
            self._leaving.clear()
            self._growing.clear()
            yield Change(now_s, LOST)
            return
        state = self._states[event.wd]
        if event.mask & IN_IGNORED:
            raise FileNotFoundError(errno.ENOENT, "the directory was removed", self._path_of(state))
        place = _Place(state, os.fsdecode(event.name))
        if event.mask & IN_MOVED_FROM:
            self._growing.discard(place)
            self._leaving[event.cookie] = place
        elif event.mask & IN_MOVED_TO:
            yield from self._moved(self._leaving.pop(event.cookie, None), place, now_s)
        elif event.mask & IN_CREATE:
            self._growing.add(place)
        elif event.mask & IN_CLOSE_WRITE and place in self._growing:
            self._growing.discard(place)
            yield from self._appeared(place, now_s)
        elif event.mask & IN_DELETE:
            self._growing.discard(place)
            yield from self._vanished(place, now_s)

    def _moved(self, source: _Place | None, target: _Place, now_s: float) -> Iterator[Change]:
        if target.stem is None:
            return
        if source is None or source.state == target.state:
            # A temporary file gets its name. (Two files may also change places: then the other
            # half of it is the temporary name's.)
            yield from self._appeared(target, now_s)
        elif source.stem is not None:
            yield from self._passed(source, target, now_s)
        elif target.state == layout.AVAILABLE:  # what is new is written in claimed/
            yield from self._appeared(target, now_s)

    def _passed(self, source: _Place, target: _Place, now_s: float) -> Iterator[Change]:
        """A task went from one state to another."""
        assert source.stem is not None
        assert target.stem is not None
        if target.state == layout.CLAIMED:
            task_id = source.stem
            agent_id = target.stem.removeprefix(f"{task_id}_")
            yield self._claimed(target, task_id, agent_id, now_s)
        elif source.state == layout.CLAIMED:
            task_id = target.stem
            agent_id = source.stem.removeprefix(f"{task_id}_")
            yield self._ended(source.name, target, task_id, agent_id, now_s)
        else:
            event = RETRIED if target.state == layout.AVAILABLE else target.state
            yield Change(now_s, event, target.stem, state=target.state)

    def _claimed(self, place: _Place, task_id: str, agent_id: str, now_s: float) -> Change:
        task = self._hold(place.name, task_id, agent_id, now_s)
        published_s = fields.published(task)
        waited_s = None if published_s is None else max(0.0, now_s - published_s)
        return Change(now_s, CLAIMED, task_id, agent_id, layout.CLAIMED, waited_s=waited_s)

    def _ended(
        self, claim: str, target: _Place, task_id: str, agent_id: str, now_s: float
    ) -> Change:
        held = self._held.pop(claim, None)
        held_s = None if held is None or held.since_s is None else max(0.0, now_s - held.since_s)
        event, error = COMPLETED, None
        if target.state != layout.COMPLETED:
            event, error = self._how_it_ended(target, held)
        return Change(now_s, event, task_id, agent_id, target.state, held_s, error=error)

    def _how_it_ended(self, target: _Place, held: _Held | None) -> tuple[str, str | None]:
        """Released, failed or recovered: what the task itself says, as it came back."""
        task = self._read(target) or {}
        failure = (fields.failures(task) or [{}])[-1]
        if held is not None and held.attempts is not None:
            in_vain = fields.attempts(task) > held.attempts
        else:
            # It was claimed and came back before we could look at it: then its failure is new.
            in_vain = (fields.moment(failure, "at") or 0.0) > time.time() - _NEW_S
        if in_vain:
            error = f"{failure.get('error')}"
            return (RECOVERED if error.startswith(recovery.REASONS) else FAILED), error
        return (RELEASED if target.state == layout.AVAILABLE else FAILED), None

    def _appeared(self, place: _Place, now_s: float) -> Iterator[Change]:
        """A task is there that was in no other state's directory: new, or an original's doing."""
        if place.stem is None or place.name in self._held:
            return
        if place.state == layout.AVAILABLE:
            yield Change(now_s, PUBLISHED, place.stem, state=place.state)
            return
        task = self._read(place) or {}
        agent_id = fields.holder(task) or "?"
        if place.state == layout.CLAIMED:
            task_id = f"{task.get('task_id', place.stem)}"
            yield self._claimed(place, task_id, agent_id, now_s)
        else:
            claim = f"{place.stem}_{agent_id}{layout.TASK_SUFFIX}"
            yield self._ended(claim, place, place.stem, agent_id, now_s)

    def _vanished(self, place: _Place, now_s: float) -> Iterator[Change]:
        if place.stem is None:
            return
        if place.state == layout.CLAIMED:
            held = self._held.pop(place.name, None)
            if held is not None:  # else an original has just completed it
                yield Change(now_s, REMOVED, held.task_id, held.agent_id)
        elif place.state != layout.AVAILABLE or not self._is_held(place.stem):
            yield Change(now_s, REMOVED, place.stem)

    def _is_held(self, task_id: str) -> bool:
        return any(held.task_id == task_id for held in self._held.values())

    def _hold(
        self, name: str, task_id: str, agent_id: str, since_s: float | None
    ) -> dict[str, Any]:
        task = self._read(_Place(layout.CLAIMED, name))
        attempts = None if task is None else fields.attempts(task)
        self._held[name] = _Held(task_id, agent_id, since_s, attempts)
        return task or {}

    def _read(self, place: _Place) -> dict[str, Any] | None:
        try:
            return listing.read_task(self._path_of(*place))
        except (FileNotFoundError, InvalidTask):
            return None  # it has moved on, or is none

    def _path_of(self, *names: str) -> str:
        return os.path.join(self._tasks_dir, *names)
