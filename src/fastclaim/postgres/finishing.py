"""The end of a claim: completed, given back, failed; or its lease prolonged.

Each is one statement that names the claim by its agent and, where given, its token. A claim's
token stays in its row when the claim ends: if the answer to a statement is lost and it is sent
again, that tells a claim that it has ended itself from one that somebody else took.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ..arguments import check_text
from ..errors import ClaimLost, InvalidTask, PoolUnavailable
from . import recovery
from .publication import agent_key, plain_text, task_key
from .schema import CLOCK

if TYPE_CHECKING:
    from psycopg import Connection

    from .database import Database

_OF_CLAIM: Final = """
    t.task_id = %(task_id)s AND t.state = 'claimed' AND t.agent = %(agent)s
    AND (%(token)s::text IS NULL OR t.token = %(token)s)
"""

_COMPLETE: Final = f"""
WITH {CLOCK}, done AS (
    UPDATE {{schema}}.tasks t SET state = 'completed', ended_at = clock.now, result = %(result)s
    FROM clock WHERE {_OF_CLAIM}
    RETURNING t.task_id
)
SELECT EXISTS (
    SELECT FROM {{schema}}.tasks b
    WHERE b.state = 'available' AND b.blocked AND b.blocked_by @> ARRAY[%(task_id)s]::text[])
FROM done
"""

_RELEASE: Final = f"""
WITH {CLOCK}, given_back AS (
    UPDATE {{schema}}.tasks t SET state = 'available', owner = NULL, lease_expires_at = NULL,
        not_before = %(not_before)s::float8,
        delayed = coalesce(%(not_before)s::float8 > clock.now, false)
    FROM clock WHERE {_OF_CLAIM}
    RETURNING t.task_id
)
SELECT {{notify_one}} FROM given_back
"""

_FAIL: Final = f"""
WITH {CLOCK}, ended AS (
    UPDATE {{schema}}.tasks t SET
        attempts = t.attempts + 1, owner = NULL, lease_expires_at = NULL,
        failures = {recovery.and_failure("%(error)s::text")},
        not_before = CASE WHEN {recovery.GIVES_UP}
            THEN NULL ELSE clock.now + %(retry_after_s)s::float8 END,
        delayed = CASE WHEN {recovery.GIVES_UP}
            THEN false ELSE coalesce(%(retry_after_s)s::float8 > 0, false) END,
        state = CASE WHEN {recovery.GIVES_UP} THEN 'failed' ELSE 'available' END,
        ended_at = CASE WHEN {recovery.GIVES_UP} THEN clock.now END
    FROM clock WHERE {_OF_CLAIM}
    RETURNING t.state
)
SELECT state, {{notify_one}} FROM ended
"""

_RENEW: Final = f"""
WITH {CLOCK}
UPDATE {{schema}}.tasks t SET lease_expires_at = clock.now + %(lease_s)s::float8
FROM clock WHERE {_OF_CLAIM}
RETURNING t.lease_expires_at
"""

# Where the task is now, whether its last claim was this one, and whether it never was claimed:
# then the claim was one of an earlier publication.
_WHERE: Final = """
SELECT t.state, t.claimed_by,
    t.agent = %(agent)s AND (%(token)s::text IS NULL OR t.token = %(token)s),
    %(token)s::text IS NOT NULL AND t.token IS NULL
FROM {schema}.tasks t WHERE t.task_id = %(task_id)s
"""

_RELEASE_BY_TOKEN: Final = """
WITH given_back AS (
    UPDATE {schema}.tasks t SET state = 'available', owner = NULL, lease_expires_at = NULL
    WHERE t.state = 'claimed' AND t.agent = %(agent)s AND t.token = ANY(%(tokens)s::text[])
    RETURNING t.task_id
)
SELECT {notify} FROM given_back
"""


class ClaimOf:
    """Which claim is meant.

    Parameters
    ----------
    database : Database
        Where.
    task_id, agent_id : object
        Of which task, by whom.
    token : str or None
        The claim's; None means whatever claim the agent has of that task.

    Raises
    ------
    InvalidName
        There can be no such claim.
    """

    def __init__(
        self, database: Database, task_id: object, agent_id: object, token: str | None
    ) -> None:
        if token is not None:
            check_text("token", token)
        self._database = database
        self._task_id, self._agent_id = task_id, agent_id
        self._parameters: dict[str, Any] = {
            "task_id": task_key(task_id),
            "agent": agent_key(task_id, agent_id),
            "token": None if token is None else plain_text(token),  # an odd one is no claim's
        }

    def complete(self, result: object) -> None:
        """Complete the task; raises ClaimLost or InvalidTask."""
        task_id = self._task_id
        try:
            text = json.dumps(result)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidTask(
                f"the result of task {task_id!r} is not JSON-serialisable: {error}", task_id
            ) from error
        rows = self._end(_COMPLETE, {"result": text}, ended_as=("completed",))
        if rows[0][0]:
            recovery.unblock_after(self._database, self._parameters["task_id"])

    def release(self, not_before: float | None) -> None:
        """Give the task back; raises ClaimLost."""
        self._end(_RELEASE, {"not_before": not_before}, ended_as=("available",))

    def fail(self, error: object, retry_after_s: float | None, max_attempts: int | None) -> str:
        """Count a failed attempt; the task's new state. Raises ClaimLost."""
        parameters = {
            "error": json.dumps(f"{error}"),
            "retry_after_s": retry_after_s,
            "max_attempts": max_attempts,
        }
        state: str = self._end(_FAIL, parameters, ended_as=("available", "failed"))[0][0]
        return state

    def renew(self, lease_s: float) -> float:
        """Prolong the lease; when it ends, epoch seconds. Raises ClaimLost."""
        expires_at: float = self._end(_RENEW, {"lease_s": lease_s}, ended_as=())[0][0]
        return expires_at

    def _end(
        self, statement: str, parameters: dict[str, Any], ended_as: tuple[str, ...]
    ) -> list[tuple[Any, ...]]:
        database, task_id = self._database, self._task_id
        parameters |= self._parameters
        text, where = database.sql(statement), database.sql(_WHERE)

        def work(connection: Connection, retried: bool) -> list[tuple[Any, ...]]:
            rows = connection.execute(text, parameters).fetchall()
            if rows:
                return rows
            found = connection.execute(where, parameters).fetchone()
            if found is None:
                raise self._lost(None)
            state, claimed_by, was_this_one, is_new = found
            # The answer to an earlier try was lost, and that try had ended the claim.
            if retried and was_this_one and state in ended_as:
                return [(state if statement == _FAIL else True,)]
            holder = json.loads(claimed_by) if state == "claimed" and claimed_by else None
            raise self._lost(holder, "; it was published again" if is_new else "")

        return database.run(work, task_id)

    def _lost(self, holder: object, why: str = "") -> ClaimLost:
        if holder is not None and f"{holder}" == f"{self._agent_id}":
            words = f"is claimed by {holder!r}, but not with that token"
        else:
            by = why if holder is None else f"; it is claimed by {holder!r}"
            words = f"is not claimed by {self._agent_id!r}{by}"
        return ClaimLost(f"task {self._task_id!r} {words}", self._task_id, holder)


def release_by_token(database: Database, agent_id: object, tokens: Sequence[str]) -> None:
    """Give back claims that were made, perhaps, and of which nobody will ever be told.

    Raises
    ------
    PoolUnavailable
        The server cannot be reached, or refuses: they are given back once it can.
    """
    parameters = {"agent": f"{agent_id}", "tokens": [*tokens]}
    try:
        database.query(_RELEASE_BY_TOKEN, parameters)
    except PoolUnavailable:
        database.owe(_RELEASE_BY_TOKEN, parameters)
        raise


def release_by_token_later(database: Database, agent_id: object, tokens: Sequence[str]) -> None:
    """The same by this process's session, as soon as it reaches the server."""
    database.owe(_RELEASE_BY_TOKEN, {"agent": f"{agent_id}", "tokens": [*tokens]})
