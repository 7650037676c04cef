"""Move a live pool from a directory to PostgreSQL, or back.

A task that waits is claimed by the mover, put into the other pool, and removed; one that has ended
is put there and removed. At no moment can two agents get it, and an interruption between any two
steps leaves something that the next run (the same way) recognises: a claim of the mover's, or the
same task in both pools. A run the other way leaves it there, and says so. A claim of somebody
else's stays until it ends: its holder completes it where it is, and the next run moves it. So it is
with a task whose exclusive key a claim holds. A pause holds nothing up, and stays with the pool
that was paused. Messages and the registry: `migrate_agents`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeGuard

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
    dumps_payload,
    lay_out,
    loads,
)
from ..errors import InvalidTask, PoolUnavailable, TaskNotAvailable, TaskPoolError
from ..listing import read_task, task_files
from ..literals import State
from ..matching import epoch_s
from ..pool import TaskPool
from ..stamps import managed, positive_int
from ..terms import marked_ns, terms_of
from ..tokens import new_token
from ..whole_file import write_new
from . import listing, recovery
from .documents import COLUMNS as ROW_COLUMNS
from .documents import Row
from .pool import PostgresPool
from .publication import COLUMNS, plain_text, row, task_key

# Whose claims say that a task is on its way.
MOVER: Final = "fastclaim-migrate"
_COMING: Final = "the other pool is moving it here: finish that run first"
# How long others may be in the middle of a transition of a task.
_HOLD_TIMEOUT_S: Final = 10.0
_ENDED: Final = (layout.COMPLETED, layout.FAILED)
# What a claim or an end has written into a task, and a waiting one does not have.
_STAMPS: Final = frozenset((*CLAIM_FIELDS, *FINISH_FIELDS))
# More than anybody has tried; what a server counts has an end.
_MOST_ATTEMPTS: Final = 2**30

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
                if isinstance(error, PoolUnavailable):
                    raise  # a server that has gone, not a task that cannot be moved
                self._left.append((found.get("task_id"), f"{error}"))

    def result(self) -> Migration:
        told = {f"{task_id}" for task_id, _ in self._left}
        for found in self._target.tasks(layout.CLAIMED):
            if _is_on_its_way(found) and f"{found['task_id']}" not in told:
                self._left.append((found["task_id"], _COMING))
        self._target.settle()
        return Migration(self._moved, self._left)

    def _one(self, task: Task, state: State) -> None:
        if "task_id" not in task:
            raise InvalidTask(f"a task in {state} has no task_id")
        if state == layout.AVAILABLE:
            self._hold_and_move(task["task_id"])
        elif state != layout.CLAIMED:
            self._bring(task, state)
            self._remove(task, state)
        elif "claimed_by" not in task:
            raise TaskPoolError("somebody is just claiming it, or died doing so: see recover()")
        elif _is_on_its_way(task):
            self._bring(_unclaimed(task), layout.AVAILABLE)
            self._remove(task, state)
        else:
            raise TaskPoolError(f"it is claimed by {task['claimed_by']!r}")

    def _hold_and_move(self, task_id: object) -> None:
        if self._target.find(task_id) is not None:
            raise TaskPoolError("the other pool has a task of this id")
        held = self._source.hold(task_id)
        try:
            self._bring(_unclaimed(held), layout.AVAILABLE)
        except PoolUnavailable:
            raise  # it may have arrived: the claim tells the next run that it is on its way
        except TaskPoolError:
            self._source.let_go(task_id)
            raise
        self._remove(held, layout.CLAIMED)

    def _bring(self, task: Task, state: State) -> None:
        """Put a task into the target, if no earlier run has."""
        if self._target.adopt(task, state):
            return
        # An earlier run has put it there, and it may have moved on since; or is it another?
        there = self._target.find(task["task_id"])
        if there is None or _callers(there) != _callers(task):
            raise TaskPoolError("the other pool has another task of this id")
        if _is_on_its_way(there):
            # Or rather it is what came from there, and was not removed.
            raise TaskPoolError(_COMING)

    def _remove(self, task: Task, state: State) -> None:
        self._source.remove(task, state)
        self._moved += 1


def _is_on_its_way(found: Task | InvalidTask) -> TypeGuard[Task]:
    """Whether the mover has claimed it."""
    return (
        not isinstance(found, InvalidTask)
        and found.get("status") == layout.CLAIMED
        and f"{found.get('claimed_by')}" == MOVER
    )


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
RETURNING t.created_at, {ROW_COLUMNS}
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
        found = listing.one(self._database, task_key(task_id))
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
        created_at_s, *columns = held[0]
        return _marked(Row(*columns).task(), created_at_s)

    def let_go(self, task_id: object) -> None:
        self._database.query(_LET_GO, {"task_id": f"{task_id}", "mover": MOVER})

    def adopt(self, task: Task, state: State) -> bool:
        values = dict(zip(COLUMNS, row(task), strict=True))
        if values["created_at"] is None:
            # Who comes next then goes by what the document's mark says.
            values["created_at"] = marked_ns(task, time.time_ns()) / 1e9
        return bool(self._database.query(_ADOPT, (*values.values(), *_history(task, state))))

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


def _marked(task: Task, published_s: float) -> Task:
    """A task with the mark that a directory's document has, as far as it says the task's age."""
    published_ns = round(min(max(published_s, 0.0), time.time()) * 1e9)
    return task | {MARK: f"1 0 {published_ns}"}


def _history(task: Task, state: State) -> tuple[Any, ...]:
    """What a task has gone through, in the order of the last of `_NAMES`.

    A document may have been written by anybody: what is no time, or no number, is left out.
    """
    claimed_by, token, failures = map(task.get, ("claimed_by", "claim_token", "failures"))
    return (
        state,
        min(positive_int(task.get("attempts")), _MOST_ATTEMPTS),
        json.dumps(failures) if failures and isinstance(failures, list) else None,
        None if claimed_by is None else plain_text(claimed_by),
        json.dumps(claimed_by),
        epoch_s(task.get("claimed_at")),
        None if token is None else plain_text(token),
        _ended_at(task),
        json.dumps(task["result"]) if "result" in task else None,
    )


def _ended_at(task: Task) -> float | None:
    return epoch_s(task.get("completed_at", task.get("failed_at")))


class _Directory:
    """A pool in a directory."""

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
        return self._pool.find(task_id)

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
        return write_new(target, _document(task, state).decode())

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


def _document(task: Task, state: State) -> bytes:
    """A task as the pool in a directory writes it: the mark says since when it has it."""
    fields = managed(task) | {"status": state}
    callers = {name: value for name, value in task.items() if name not in MANAGED_FIELDS}
    published_ns = marked_ns(task, time.time_ns())
    terms = terms_of(callers, published_ns)
    return lay_out(fields, dumps_payload(callers), published_ns, terms)
