"""Move a live pool from a directory to PostgreSQL, or back.

A task that waits is claimed by the mover, put into the other pool, and removed; one that has ended
is put there and removed. At no moment can two agents get it, and an interruption between any two
steps leaves something that the next run recognises: a claim of the mover's, or the same task in
both pools. A claim of somebody else's stays until it ends: its holder completes it where it is, and
the next run moves it. So it is with a task whose exclusive key a claim holds. A pause holds nothing
up, and stays with the pool that was paused. Messages and the registry: `migrate_agents`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from psycopg import errors as pg_errors

from .. import layout
from ..claiming import claim_to_move
from ..document import (
    CLAIM_FIELDS,
    ENFORCEMENT,
    ENFORCEMENT_CLAIM_FIELDS,
    FINISH_FIELDS,
    MANAGED_FIELDS,
    MARK,
    loads,
)
from ..errors import InvalidTask, TaskNotAvailable, TaskPoolError
from ..listing import claims_of, read_task, task_files
from ..literals import State
from ..pool import TaskPool
from ..tokens import new_token
from ..whole_file import write_new
from . import listing, recovery
from .documents import COLUMNS as ROW_COLUMNS
from .documents import Row
from .pool import PostgresPool
from .publication import COLUMNS, row

# Whose claims say that a task is on its way.
MOVER: Final = "fastclaim-migrate"
# How long others may be in the middle of a transition of a task.
_HOLD_TIMEOUT_S: Final = 10.0
_ENDED: Final = (layout.COMPLETED, layout.FAILED)
# What a claim or an end has written into a task, and a waiting one does not have.
_STAMPS: Final = frozenset((MARK, *CLAIM_FIELDS, *FINISH_FIELDS))

Task = dict[str, Any]


class Migration(NamedTuple):
    """What a run of `migrate` came to.

    Attributes
    ----------
    moved : int
        How many tasks are in the other pool now.
    left : list of (object, str)
        Ids of tasks that stayed where they were, each with the reason.
    """

    moved: int
    left: list[tuple[object, str]]


def migrate(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Migration:
    """Move all tasks of one pool into another; one of the two is on PostgreSQL.

    Agents may go on working on either. Run it again for what was left, or after an interruption.

    Parameters
    ----------
    source, target : str or os.PathLike
        A directory, or a URL; see `TaskPool`.

    Returns
    -------
    Migration
        How many were moved, and which were not.

    Raises
    ------
    TaskPoolError, OSError
        A pool cannot be worked with; what was moved is moved, and all else is where it was.
    """
    move = _Move(_side(source), _side(target))
    # Claims first: those of the mover's an earlier run has begun to move.
    for state in (layout.CLAIMED, layout.AVAILABLE, *_ENDED):
        move.all_in(state)
    return move.result()


class Side(Protocol):
    """One of the two pools, as a mover sees it."""

    def tasks(self, state: State) -> Iterator[Task | InvalidTask]:
        """The tasks in a state, each of which may have moved on by now; or why one is none."""

    def find(self, task_id: object) -> Task | None:
        """A task of that id, in whatever state."""

    def hold(self, task_id: object) -> Task:
        """Claim a task for the mover; TaskNotAvailable if it cannot be claimed."""

    def let_go(self, task_id: object) -> None:
        """Give back what the mover has claimed."""

    def adopt(self, task: Task, state: State) -> bool:
        """Put a task there, whole, unless one of its id is there."""

    def remove(self, task: Task, state: State) -> None:
        """Remove a task that the mover holds, or that has ended."""

    def settle(self) -> None:
        """Let tasks whose blockers have arrived be claimed."""


class _Move:
    def __init__(self, source: Side, target: Side) -> None:
        self._source, self._target = source, target
        self._moved = 0
        self._left: list[tuple[object, str]] = []

    def all_in(self, state: State) -> None:
        for found in self._source.tasks(state):
            if isinstance(found, InvalidTask):
                self._left.append((found.task_id, f"{found}"))
                continue
            try:
                self._one(found, state)
            except TaskPoolError as error:
                if isinstance(error, OSError):
                    raise  # a server that has gone, not a task that cannot be moved
                self._left.append((found.get("task_id"), f"{error}"))

    def result(self) -> Migration:
        self._target.settle()
        return Migration(self._moved, self._left)

    def _one(self, task: Task, state: State) -> None:
        if "task_id" not in task:
            raise InvalidTask(f"a task in {state} has no task_id")
        if state == layout.AVAILABLE:
            self._hold_and_move(task["task_id"])
        elif state != layout.CLAIMED:
            self._move(task, state, task)
        elif "claimed_by" not in task:
            raise TaskPoolError("somebody is just claiming it, or died doing so: see recover()")
        elif f"{task['claimed_by']}" == MOVER:
            self._move(task, state, _unclaimed(task))
        else:
            raise TaskPoolError(f"it is claimed by {task['claimed_by']!r}")

    def _hold_and_move(self, task_id: object) -> None:
        if self._target.find(task_id) is not None:
            raise TaskPoolError("the other pool has a task of this id")
        held = self._source.hold(task_id)
        try:
            self._move(held, layout.CLAIMED, _unclaimed(held))
        except TaskPoolError:
            self._source.let_go(task_id)
            raise

    def _move(self, task: Task, state: State, arriving: Task) -> None:
        if not self._target.adopt(arriving, arriving["status"]):
            # An earlier run has put it there, and it may have moved on since; or is it another?
            there = self._target.find(task["task_id"])
            if there is None or _callers(there) != _callers(task):
                raise TaskPoolError("the other pool has another task of this id")
        self._source.remove(task, state)
        self._moved += 1


def _callers(task: Task) -> str:
    """The caller's fields, in a form in which NaN is equal to itself."""
    names = task.keys() - MANAGED_FIELDS
    return json.dumps({name: task[name] for name in names}, sort_keys=True)


def _unclaimed(task: Task) -> Task:
    """A claimed task as it waits, with the attempts that were made at it."""
    waiting = {name: value for name, value in task.items() if name not in _STAMPS}
    if isinstance(task.get(ENFORCEMENT), dict):
        waiting[ENFORCEMENT] = {
            name: value
            for name, value in task[ENFORCEMENT].items()
            if name not in ENFORCEMENT_CLAIM_FIELDS
        }
    return waiting | {"status": layout.AVAILABLE}


def _side(place: str | os.PathLike[str]) -> Side:
    return _Server(str(place)) if layout.is_url(place) else _Directory(place)


_HOLD: Final = f"""
UPDATE {{schema}}.tasks t SET
    state = 'claimed', agent = %s, claimed_by = %s, claimed_at = {{now}}, token = %s
WHERE t.task_id = %s AND t.state = 'available'
RETURNING {ROW_COLUMNS}
"""
# Not by a release: that would forget the task's time.
_LET_GO: Final = """
WITH given_back AS (
    UPDATE {schema}.tasks SET state = 'available', delayed = coalesce(not_before > {now}, false)
    WHERE task_id = %(task_id)s AND state = 'claimed' AND agent = %(mover)s RETURNING task_id
)
SELECT {notify_one} FROM given_back
"""
# Only this claim, or this end: it may have been published anew since, and be in the same state.
_REMOVE: Final = """
DELETE FROM {schema}.tasks WHERE task_id = %(task_id)s AND state = %(state)s
    AND (state = 'failed' OR token IS NOT DISTINCT FROM %(token)s)
    AND (state = 'claimed' OR ended_at IS NOT DISTINCT FROM %(ended_at)s)
RETURNING task_id
"""
_NAMES: Final = (
    *COLUMNS,
    *("state", "attempts", "failures", "agent", "claimed_by", "claimed_at", "token"),
    *("ended_at", "result"),
)
_ADOPT: Final = f"""
WITH new AS (
    INSERT INTO {{schema}}.tasks ({", ".join(_NAMES)})
    VALUES ({", ".join(["%s"] * len(_NAMES))}) ON CONFLICT (task_id) DO NOTHING RETURNING task_id
)
SELECT {{notify_one}} FROM new
"""


class _Server:
    """A pool on PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._pool = PostgresPool(url, bind_claims=False)
        self._database = self._pool._database

    def tasks(self, state: State) -> Iterator[Task | InvalidTask]:
        return self._pool.tasks(state)

    def find(self, task_id: object) -> Task | None:
        found = listing.one(self._database, task_id)
        return None if found is None else found.task()

    def hold(self, task_id: object) -> Task:
        # Not by a claim: that would wait for a task's time, and for the end of a pause.
        mover = [MOVER, f'"{MOVER}"', new_token(), f"{task_id}"]
        try:
            held = self._database.query(_HOLD, mover)
        except pg_errors.UniqueViolation:
            raise TaskNotAvailable("a claim holds its exclusive key", task_id) from None
        if not held:
            raise TaskNotAvailable("it was claimed meanwhile", task_id)
        return Row(*held[0]).task()

    def let_go(self, task_id: object) -> None:
        self._database.query(_LET_GO, {"task_id": f"{task_id}", "mover": MOVER})

    def adopt(self, task: Task, state: State) -> bool:
        return bool(self._database.query(_ADOPT, (*row(task), *_history(task, state))))

    def remove(self, task: Task, state: State) -> None:
        one = {
            "task_id": f"{task['task_id']}",
            "state": state,
            "token": task.get("claim_token"),
            "ended_at": _ended_at(task),
        }
        self._database.query(_REMOVE, one)

    def settle(self) -> None:
        recovery.unblock(self._database)


def _history(task: Task, state: State) -> tuple[Any, ...]:
    """What a task has gone through, in the order of the last of `_NAMES`."""
    claimed_by = task.get("claimed_by")
    failures = task.get("failures")
    return (
        state,
        task.get("attempts", 0),
        None if failures is None else json.dumps(failures),
        None if claimed_by is None else f"{claimed_by}",
        json.dumps(claimed_by),
        task.get("claimed_at"),
        task.get("claim_token"),
        _ended_at(task),
        json.dumps(task["result"]) if "result" in task else None,
    )


def _ended_at(task: Task) -> Any:
    return task.get("completed_at", task.get("failed_at"))


class _Directory:
    """A pool in a directory; what is put there is plain JSON, as an original would write it."""

    def __init__(self, place: str | os.PathLike[str]) -> None:
        # A claim that dies with the mover would be given back, while its task is on its way.
        self._pool = TaskPool(place, bind_claims=False)
        self._tasks_dir = self._pool.tasks_dir

    def tasks(self, state: State) -> Iterator[Task | InvalidTask]:
        for path in task_files(os.fsencode(self._tasks_dir / state)):
            try:
                yield read_task(path)
            except FileNotFoundError:
                continue  # it has moved on
            except InvalidTask as error:
                yield error

    def find(self, task_id: object) -> Task | None:
        # In the order in which tasks move on, so that none slips past.
        for state in (layout.AVAILABLE, layout.CLAIMED, *_ENDED):
            if state == layout.CLAIMED:
                for task in claims_of(self._pool._directories, task_id):
                    return task
                continue
            try:
                return read_task(os.fspath(self._path(task_id, state)))
            except FileNotFoundError:
                continue
        return None

    def hold(self, task_id: object) -> Task:
        document = claim_to_move(self._pool._directories, task_id, MOVER, _HOLD_TIMEOUT_S)
        if document is None:
            raise TaskNotAvailable("it was claimed meanwhile", task_id)
        return loads(document)

    def let_go(self, task_id: object) -> None:
        self._pool.release(task_id, MOVER)

    def adopt(self, task: Task, state: State) -> bool:
        task_id = task["task_id"]
        if self.find(task_id) is not None:
            return False
        target = self._path(task_id, state)
        target.parent.mkdir(parents=True, exist_ok=True)
        return write_new(target, json.dumps(task))

    def remove(self, task: Task, state: State) -> None:
        self._path(task["task_id"], state).unlink(missing_ok=True)

    def settle(self) -> None:
        pass  # who claims looks at the blockers

    def _path(self, task_id: object, state: State) -> Path:
        suffix = {
            layout.AVAILABLE: layout.TASK_SUFFIX,
            layout.CLAIMED: f"_{MOVER}{layout.TASK_SUFFIX}",
            layout.COMPLETED: layout.COMPLETED_SUFFIX,
            layout.FAILED: layout.FAILED_SUFFIX,
        }[state]
        return self._tasks_dir / state / os.fsdecode(layout.encode_name(f"{task_id}{suffix}"))
