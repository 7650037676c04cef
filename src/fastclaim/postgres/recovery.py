"""Claims whose time is over, and tasks whose time has come."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ..errors import TaskPoolError
from ..recovery import LEASE_EXPIRED, OLDER_THAN, PROCESS_ENDED
from .schema import CLOCK

if TYPE_CHECKING:
    from .database import Database

logger = logging.getLogger("fastclaim.pool")


def and_failure(error: str) -> str:
    """SQL for the failures of a claimed task ``t``, and one more, now.

    Parameters
    ----------
    error : str
        SQL for what happened, as JSON.
    """
    return f"""concat(
            coalesce(left(t.failures, -1) || ', ', '['),
            '{{{{"error": ', {error}, ', "at": ', clock.now::text,
            ', "agent": ', t.claimed_by, '}}}}]')"""


# Whether one more attempt in vain at a task ``t`` is its last; null: there is no such number.
GIVES_UP: Final = "t.attempts + 1 >= coalesce(t.max_attempts, %(max_attempts)s)"

# After a restart of the server every session is gone; so long the living have to make theirs anew.
RECONNECT_GRACE_S: Final = 10.0

# Whether that is over: null if the sessions are gone and nobody has written down since when.
SETTLED: Final = """(
    pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => %(grace_s)s)
    AND (SELECT since FROM {schema}.sessions_since) < {now} - %(grace_s)s::float8)
"""
_SINCE_NOW: Final = """
    INSERT INTO {schema}.sessions_since (since)
    SELECT {now} WHERE NOT EXISTS (SELECT FROM {schema}.sessions_since) ON CONFLICT DO NOTHING
"""

# The owners that live, and others' locks. A bigint's lock shows as two halves.
_LIVING: Final = """
    SELECT classid::bigint << 32 | objid::bigint FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

# The owners of claims, one index look-up each however many claims they have, and of these the dead.
_DEAD: Final = f"""
RECURSIVE owners AS (
    (SELECT owner FROM {{schema}}.tasks WHERE state = 'claimed' AND owner IS NOT NULL
     ORDER BY owner LIMIT 1)
    UNION ALL
    SELECT (SELECT t.owner FROM {{schema}}.tasks t
            WHERE t.state = 'claimed' AND t.owner IS NOT NULL AND t.owner > owners.owner
            ORDER BY t.owner LIMIT 1)
    FROM owners WHERE owners.owner IS NOT NULL
), dead AS MATERIALIZED (
    SELECT owner FROM owners WHERE owner IS NOT NULL
    AND {SETTLED}
    EXCEPT {_LIVING}
)"""


def ended(claim: str) -> str:
    """SQL for why a claim has ended that is not taken back yet; null if it stands.

    Parameters
    ----------
    claim : str
        The name of its row.
    """
    return f"""CASE
        WHEN {claim}.owner IS NOT NULL AND {claim}.owner NOT IN ({_LIVING}) AND {SETTLED}
            THEN '{PROCESS_ENDED}'
        WHEN {claim}.lease_expires_at <= clock.now THEN '{LEASE_EXPIRED}' END"""


# The numbers are those of `_reasons`.
_LOST: Final = f"""
WITH {_DEAD}, clock AS MATERIALIZED (SELECT {{now}} AS now), found AS MATERIALIZED (
    SELECT task_id, token, lease_expires_at, min(reason) AS reason FROM (
        SELECT t.task_id, t.token, t.lease_expires_at, 1 AS reason FROM dead
            JOIN {{schema}}.tasks t ON t.owner = dead.owner
        WHERE t.state = 'claimed' AND t.owner IS NOT NULL
        UNION ALL
        SELECT t.task_id, t.token, t.lease_expires_at, 2 FROM clock
            JOIN {{schema}}.tasks t ON t.lease_expires_at <= clock.now
        WHERE t.state = 'claimed' AND t.lease_expires_at IS NOT NULL
        UNION ALL
        SELECT t.task_id, t.token, t.lease_expires_at, 3 FROM clock
            JOIN {{schema}}.tasks t ON t.claimed_at <= clock.now - %(older_than_s)s::float8
        WHERE t.state = 'claimed' AND t.owner IS NULL AND t.lease_expires_at IS NULL
            AND %(older_than_s)s::float8 IS NOT NULL
    ) AS one GROUP BY task_id, token, lease_expires_at
), lost AS MATERIALIZED (
    SELECT t.task_id, f.reason FROM found f JOIN {{schema}}.tasks t ON t.task_id = f.task_id
    -- Asked again of a row that was changed meanwhile: released, claimed anew, renewed.
    WHERE t.state = 'claimed' AND t.token = f.token
        AND t.lease_expires_at IS NOT DISTINCT FROM f.lease_expires_at
        AND (%(task_id)s::text IS NULL OR t.task_id = %(task_id)s)
    FOR UPDATE OF t SKIP LOCKED
)"""

_RECOVER: Final = f"""
{_LOST}, restarted AS ({_SINCE_NOW}), back AS (
    UPDATE {{schema}}.tasks t SET
        attempts = t.attempts + 1, owner = NULL, lease_expires_at = NULL,
        failures = {and_failure("(%(reasons)s::text[])[lost.reason]")},
        state = CASE WHEN {GIVES_UP} THEN 'failed' ELSE 'available' END,
        ended_at = CASE WHEN {GIVES_UP} THEN clock.now END
    FROM lost, clock WHERE t.task_id = lost.task_id
    RETURNING t.task_id, t.state
)
SELECT task_id, state, {{notify}} FROM back
"""
_WOULD_RECOVER: Final = f"""
{_LOST}
SELECT t.task_id, CASE WHEN {GIVES_UP} THEN 'failed' ELSE 'available' END
FROM lost JOIN {{schema}}.tasks t ON t.task_id = lost.task_id
"""

_WAKE_DELAYED: Final = """
WITH due AS MATERIALIZED (
    SELECT task_id FROM {schema}.tasks
    WHERE state = 'available' AND delayed AND NOT blocked AND not_before <= {now}
    ORDER BY not_before LIMIT 1000 FOR UPDATE SKIP LOCKED
)
UPDATE {schema}.tasks t SET delayed = false FROM due WHERE t.task_id = due.task_id
RETURNING t.task_id
"""

# Right after a completion, in a transaction of its own: of two blockers that are completed at the
# same time the later one's look sees both.
_FREE: Final = """
    t.state = 'available' AND t.blocked AND NOT EXISTS (
        SELECT FROM unnest(t.blocked_by) AS blocker WHERE NOT EXISTS (
            SELECT FROM {schema}.tasks d WHERE d.task_id = blocker AND d.state = 'completed'))
"""
_UNBLOCK: Final = f"""
WITH free AS (
    UPDATE {{schema}}.tasks t SET blocked = false
    WHERE t.blocked_by @> ARRAY[%(blocker)s]::text[] AND {_FREE}
    RETURNING t.task_id
)
SELECT task_id, {{notify}} FROM free
"""
# Whoever holds one of these is at work on it, or is somebody that nobody should wait for.
_UNBLOCK_ALL: Final = f"""
WITH found AS MATERIALIZED (
    SELECT t.task_id FROM {{schema}}.tasks t WHERE {_FREE} FOR UPDATE SKIP LOCKED
), free AS (
    UPDATE {{schema}}.tasks t SET blocked = false FROM found WHERE t.task_id = found.task_id
    RETURNING t.task_id
)
SELECT task_id, {{notify}} FROM free
"""

_ENDED: Final = f"""
WITH {CLOCK}, claims AS (
    SELECT t.token, {ended("t")} AS ended FROM clock CROSS JOIN {{schema}}.tasks t
    WHERE t.state = 'claimed'
)
SELECT token, ended FROM claims WHERE ended IS NOT NULL
"""

_NEXT_CHANGE: Final = f"""
WITH {CLOCK}
SELECT clock.now, least(
    (SELECT min(not_before) FROM {{schema}}.tasks
     WHERE state = 'available' AND delayed AND NOT blocked
        AND not_before > %(after)s::float8 AND not_before < 'infinity'),
    (SELECT min(lease_expires_at) FROM {{schema}}.tasks
     WHERE state = 'claimed' AND lease_expires_at > %(after)s::float8),
    (SELECT paused_until FROM {{schema}}.pool WHERE paused_until > %(after)s::float8)
) - clock.now FROM clock
"""


def recover(
    database: Database,
    max_attempts: int | None,
    *,
    task_id: object = None,
    older_than_s: float | None = None,
    dry_run: bool = False,
) -> list[tuple[str, str]]:
    """Give back the claims of dead processes, and those past their lease.

    Parameters
    ----------
    max_attempts : int or None
        After how many lost or failed claims a task is given up, unless the task says so itself.
    task_id : object
        Only this one's.
    older_than_s : float or None
        Also claims without owner and lease that are older than this, in seconds.
    dry_run : bool
        Change nothing.

    Returns
    -------
    list of (str, str)
        The tasks' ids, and whether each is "available" or "failed" now.
    """
    parameters: dict[str, Any] = {
        "max_attempts": max_attempts,
        "task_id": None if task_id is None else f"{task_id}",
        "older_than_s": older_than_s,
        "grace_s": RECONNECT_GRACE_S,
        "reasons": _reasons(older_than_s),
    }
    rows = database.query(_WOULD_RECOVER if dry_run else _RECOVER, parameters, task_id)
    return [(row[0], row[1]) for row in rows]


def _reasons(older_than_s: float | None) -> list[str]:
    """Why a claim has come to nothing, as JSON and as a directory's tasks tell it."""
    reasons = (PROCESS_ENDED, LEASE_EXPIRED, f"{OLDER_THAN}{older_than_s} s")
    return [json.dumps(reason) for reason in reasons]


def wake_delayed(database: Database) -> None:
    """Put tasks whose `not_before` has come among those that wait for nothing, after a claim."""
    _after(database, "the tasks whose time has come wait for the next claim", _WAKE_DELAYED, {})


def unblock_after(database: Database, blocker: str) -> None:
    """Put tasks that have waited for this one, just completed, among those that wait for nothing.

    Unless they are blocked by others, too.
    """
    told = f"what waits for {blocker} waits until somebody finds nothing to claim"
    _after(database, told, _UNBLOCK, {"blocker": blocker})


def _after(
    database: Database, otherwise: str, statement: str, parameters: Mapping[str, Any]
) -> None:
    """Tidy up; what has just been done was done, also if this fails."""
    try:
        database.query(statement, parameters)
    except TaskPoolError as error:
        logger.warning("%s: %s", otherwise, error)


def unblock(database: Database) -> int:
    """The same for all that are blocked, in case a completion did not come to it; how many."""
    return len(database.query(_UNBLOCK_ALL, {}))


class Endings:
    """Tells which claims have ended and are not taken back yet, as `fastclaim.endings` does.

    Parameters
    ----------
    database : Database
        Where; it is asked once, now.
    """

    def __init__(self, database: Database) -> None:
        rows = database.query(_ENDED, {"grace_s": RECONNECT_GRACE_S})
        self._ended: dict[object, str] = dict(rows)

    def of(self, claim: Mapping[str, Any]) -> str | None:
        """Why a claim has ended; None if it stands, or nobody can tell."""
        return self._ended.get(claim.get("claim_token"))


def next_change_s(database: Database, after_s: float) -> tuple[float, float | None]:
    """What time it is, and in how many seconds time alone may make a task available.

    Parameters
    ----------
    after_s : float
        Only moments after this count, by the server's clock; they may be over by now.

    Returns
    -------
    tuple of float and (float or None)
        Seconds since the epoch; and None if there is no such moment.
    """
    now_s, left_s = database.query(_NEXT_CHANGE, {"after": after_s})[0]
    return now_s, left_s
