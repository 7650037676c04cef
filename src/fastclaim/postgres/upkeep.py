"""What people do to a whole pool: pause it, retry what was given up, remove what is old."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import TaskNotAvailable
from ..layout import AVAILABLE, COMPLETED, FAILED
from ..pausing import Pause
from ..pruning import check_state
from .publication import plain_text, task_key

if TYPE_CHECKING:
    from .database import Database

_PAUSE: Final = "UPDATE {schema}.pool SET paused_until = %s, paused_reason = %s RETURNING true"
_RESUME: Final = """
WITH ended AS (UPDATE {schema}.pool SET paused_until = NULL, paused_reason = NULL RETURNING one)
SELECT {notify_all} FROM ended
"""
_PAUSED: Final = "SELECT paused_until, paused_reason FROM {schema}.pool WHERE paused_until > {now}"

_RETRY_FAILED: Final = """
WITH retried AS (
    UPDATE {schema}.tasks SET state = 'available', attempts = 0, ended_at = NULL,
        not_before = NULL, delayed = false
    WHERE state = 'failed' AND (%(task_id)s::text IS NULL OR task_id = %(task_id)s)
    RETURNING task_id
)
SELECT task_id, {notify} FROM retried
"""
_STATE: Final = "SELECT state FROM {schema}.tasks WHERE task_id = %(task_id)s"

# What a task's age is counted from, by its state.
_SINCE: Final = {AVAILABLE: "created_at", COMPLETED: "ended_at", FAILED: "ended_at"}
# Read once, and not for each completed task: as many may wait as have been completed.
_NEEDED: Final = """
WITH needed AS MATERIALIZED (
    SELECT DISTINCT unnest(blocked_by) AS blocker FROM {schema}.tasks
    WHERE state <> 'completed' AND blocked_by IS NOT NULL
)"""
_NOT_NEEDED: Final = "AND NOT EXISTS (SELECT FROM needed WHERE blocker = task_id)"
_OLD: Final = "state = %(state)s AND <since> <= {now} - %(older_than_s)s::float8 <and not needed>"
_WOULD_PRUNE: Final = f"<needed> SELECT task_id FROM {{schema}}.tasks WHERE {_OLD}"
_PRUNE: Final = f"<needed> DELETE FROM {{schema}}.tasks WHERE {_OLD} RETURNING task_id"


def pause(database: Database, until: float, reason: str) -> None:
    """Let nobody claim until then, seconds since the epoch by the server's clock."""
    database.query(_PAUSE, [until, plain_text(reason)])


def resume(database: Database) -> None:
    """Let agents claim again."""
    database.query(_RESUME, {})


def paused(database: Database) -> Pause | None:
    """The pause that holds now, if any."""
    for until, reason in database.query(_PAUSED, {}):
        return Pause(until, reason)
    return None


def retry_failed(database: Database, task_id: object) -> int:
    """Make one failed task, or all, available again; how many.

    Raises
    ------
    TaskNotAvailable
        One was named that has not failed.
    InvalidName
        One was named that cannot be.
    """
    parameters = {"task_id": None if task_id is None else task_key(task_id)}
    retried = len(database.query(_RETRY_FAILED, parameters))
    if task_id is not None and not retried:
        found = database.query(_STATE, parameters)
        state = found[0][0] if found else "not in the pool"
        raise TaskNotAvailable(f"task {task_id!r} has not failed: it is {state}", task_id)
    return retried


def prune(database: Database, state: str, older_than_s: float, dry_run: bool) -> list[str]:
    """See `fastclaim.TaskPool.prune`."""
    check_state(state)
    if older_than_s < 0:
        raise ValueError(f"older_than {older_than_s!r} is not a number of seconds")
    parameters = {"state": state, "older_than_s": older_than_s}
    return [row[0] for row in database.query(_prune(state, dry_run), parameters)]


def _prune(state: str, dry_run: bool) -> str:
    """The statement; only what is completed can be what others wait for."""
    is_completed = state == COMPLETED
    return (
        (_WOULD_PRUNE if dry_run else _PRUNE)
        .replace("<needed>", _NEEDED if is_completed else "")
        .replace("<and not needed>", _NOT_NEEDED if is_completed else "")
        .replace("<since>", _SINCE[state])
    )
