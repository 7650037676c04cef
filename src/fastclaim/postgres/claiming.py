"""From available to claimed: one statement, in which the database decides who gets a task."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg import errors as pg_errors

from ..errors import (
    AlreadyClaimed,
    KeyHeld,
    LockTimeout,
    PoolPaused,
    PoolUnavailable,
    TaskNotAvailable,
    TaskPoolError,
)
from ..pausing import Pause, described_pause, local_time
from ..waiting import turns
from . import finishing, recovery
from .documents import COLUMNS, Row
from .publication import agent_json, agent_key, capability_keys
from .schema import CLOCK

if TYPE_CHECKING:
    from psycopg import Connection

    from .database import Database

# How often a task may change under us before we call that being held by others.
_TRIES: Final = 8

# Each look at a task that others hold is a question to the server, which many may ask.
_LONGEST_PAUSE_S: Final = 0.05


# What must hold in the very moment of a claim, besides the state.
_CLAIMABLE: Final = """
    (t.exclusive IS NULL OR NOT EXISTS (
        SELECT FROM {schema}.exclusive_keys k WHERE k.key = ANY(t.exclusive)))
"""
_UNBLOCKED: Final = """
    (t.blocked_by IS NULL OR NOT EXISTS (
        SELECT FROM unnest(t.blocked_by) AS blocker WHERE NOT EXISTS (
            SELECT FROM {schema}.tasks d WHERE d.task_id = blocker AND d.state = 'completed')))
"""
_NOT_PAUSED: Final = "NOT EXISTS (SELECT FROM {schema}.pool p WHERE p.paused_until > clock.now)"

_TAKE: Final = f"""
UPDATE {{schema}}.tasks t SET
    state = 'claimed', agent = %(agent)s, claimed_by = %(claimed_by)s, claimed_at = clock.now,
    token = (%(tokens)s::text[])[picked.number], owner = %(owner)s::bigint,
    lease_expires_at = clock.now + %(lease_s)s::float8, not_before = NULL, delayed = false
FROM picked, clock WHERE t.task_id = picked.task_id
RETURNING picked.number, picked.was_delayed, {COLUMNS}
"""

_CLAIM: Final = f"""
WITH {CLOCK}, picked AS MATERIALIZED (
    SELECT t.task_id, 1 AS number, false AS was_delayed
    FROM {{schema}}.tasks t CROSS JOIN clock
    WHERE t.task_id = %(task_id)s AND t.state = 'available'
        AND (t.not_before IS NULL OR t.not_before <= clock.now OR t.not_before = 'NaN')
        AND {_CLAIMABLE} AND {_NOT_PAUSED}
    FOR UPDATE OF t NOWAIT
) {_TAKE}
"""

# The first tasks of each lane that the agent can work in, and those whose time has come. Without a
# claim it returns one empty row if there were any, and none if there were none.
_CLAIM_NEXT: Final = f"""
WITH {CLOCK}, open_lanes AS MATERIALIZED (
    SELECT l.lane FROM {{schema}}.lanes l CROSS JOIN clock
    WHERE (l.requirements = '{{{{}}}}' OR %(capabilities)s::text[] = '{{{{}}}}'
           OR l.requirements && %(capabilities)s::text[])
        AND l.required <@ %(capabilities)s::text[]
        AND {_NOT_PAUSED}
        AND (%(max_claims)s::bigint IS NULL OR %(max_claims)s > (
            SELECT count(*) FROM {{schema}}.tasks m
            WHERE m.state = 'claimed' AND m.agent = %(agent)s))
), candidates AS MATERIALIZED (
    SELECT c.* FROM open_lanes l CROSS JOIN clock CROSS JOIN LATERAL (
        SELECT t.task_id, t.publication, t.not_before, t.priority, t.created_at, t.exclusive,
            false AS was_delayed
        FROM {{schema}}.tasks t
        WHERE t.lane = l.lane AND t.state = 'available' AND NOT t.delayed AND NOT t.blocked
            AND (t.deadline IS NULL OR t.deadline >= clock.now)
            AND {_CLAIMABLE} AND {_UNBLOCKED}
        ORDER BY <in the lane> LIMIT <window>
    ) c
    UNION ALL
    SELECT * FROM (
        SELECT t.task_id, t.publication, t.not_before, t.priority, t.created_at, t.exclusive, true
        FROM clock CROSS JOIN {{schema}}.tasks t
        WHERE t.state = 'available' AND t.delayed AND NOT t.blocked AND t.not_before <= clock.now
            AND t.lane IN (SELECT lane FROM open_lanes)
            AND (t.deadline IS NULL OR t.deadline >= clock.now)
            AND {_CLAIMABLE} AND {_UNBLOCKED}
        ORDER BY t.not_before LIMIT <window>
    ) due
), locked AS MATERIALIZED (
    SELECT t.task_id, c.priority, c.created_at, c.was_delayed
    FROM candidates c JOIN {{schema}}.tasks t ON t.task_id = c.task_id
    -- Asked again of a row that was changed since it was looked at: published anew, put off.
    WHERE t.state = 'available' AND t.publication = c.publication
        AND t.not_before IS NOT DISTINCT FROM c.not_before <and no key of an earlier one>
    ORDER BY <among candidates> LIMIT %(wanted)s
    FOR UPDATE OF t SKIP LOCKED
), picked AS MATERIALIZED (
    SELECT task_id, was_delayed, row_number() OVER (ORDER BY <among all>)::int AS number
    FROM locked
), taken AS ({_TAKE})
SELECT taken.* FROM (SELECT count(*) FROM candidates) AS seen LEFT JOIN taken ON true
WHERE taken.number IS NOT NULL OR seen.count > 0
"""


# For several: what has no key of a candidate that comes before it. It may leave out more than it
# must, since that one may be left out itself.
_OWN_KEYS: Final = """
    AND c.task_id NOT IN (
        SELECT of_key.task_id FROM (
            SELECT k.task_id, row_number() OVER (
                PARTITION BY key ORDER BY <among keys>) AS place
            FROM candidates k CROSS JOIN LATERAL unnest(k.exclusive) AS key
        ) AS of_key WHERE of_key.place > 1)
"""

# In each lane, and among the first of all lanes.
_BY_PRIORITY: Final = (
    "t.priority DESC, t.created_at, t.task_id",
    ("priority DESC", "created_at", "task_id"),
)
_BY_AGE: Final = ("t.created_at, t.task_id", ("created_at", "task_id"))
# "any" is free to be whatever costs least.
ORDERS: Final = {"priority": _BY_PRIORITY, "oldest": _BY_AGE, "any": _BY_AGE}


@functools.cache
def _claim_next(order: str, window: int, several: bool = False) -> str:
    """The statement; the window is a part of its text, so that the planner knows that it is small.

    A plan for whatever number may come would rather sort all tasks.
    """
    in_lane, among_all = ORDERS[order]
    among_keys = ", ".join(f"k.{name}" for name in among_all)
    own_keys = _OWN_KEYS.replace("<among keys>", among_keys) if several else ""
    return (
        _CLAIM_NEXT.replace("<in the lane>", in_lane)
        .replace("<and no key of an earlier one>", own_keys)
        .replace("<among candidates>", ", ".join(f"c.{name}" for name in among_all))
        .replace("<among all>", ", ".join(among_all))
        .replace("<window>", f"{window}")
    )


_CLAIMED_ALREADY: Final = f"""
SELECT array_position(%(tokens)s::text[], t.token), false, {COLUMNS} FROM {{schema}}.tasks t
WHERE t.state = 'claimed' AND t.agent = %(agent)s AND t.token = ANY(%(tokens)s::text[])
"""
# An owner whose lock can be had is dead; it is given back with the end of this statement.
_WHY_NOT: Final = f"""
WITH {CLOCK}
SELECT t.state, t.claimed_by, t.token, t.owner,
    CASE WHEN t.not_before > clock.now AND t.not_before <> 'NaN' THEN t.not_before END AS early,
    t.lease_expires_at <= clock.now AS expired,
    t.owner <> %(owner)s AND pg_try_advisory_xact_lock(t.owner) AS dead,
    {recovery.SETTLED} AS settled,
    (SELECT k.key FROM {{schema}}.exclusive_keys k WHERE k.key = ANY(t.exclusive) LIMIT 1) AS key,
    p.paused_until > clock.now AS paused, p.paused_until, p.paused_reason
FROM clock CROSS JOIN {{schema}}.pool p LEFT JOIN {{schema}}.tasks t ON t.task_id = %(task_id)s
"""


# Or each of an agent's processes counts without the others'. One that is stopped while it has the
# lock is waited for as long as in a directory, and loses it to its successors after a while.
_ONE_AFTER_THE_OTHER: Final = """
SELECT set_config('lock_timeout', %s, true),
    set_config('idle_in_transaction_session_timeout', '5s', true), pg_advisory_xact_lock(%s)
"""
_PLACE_TIMEOUT: Final = "1s"


class Refusal(NamedTuple):
    """Why a task was not claimed: a row of `_WHY_NOT`."""

    state: str | None
    claimed_by: str | None
    token: str | None
    owner: int | None
    early_until_s: float | None
    expired: bool | None
    dead: bool | None
    settled: bool | None
    key: str | None
    paused: bool | None
    paused_until: float
    paused_reason: str


class Hold(NamedTuple):
    """How long a claim lasts: with its process, for a time, or until somebody ends it.

    Attributes
    ----------
    owner : int or None
        The lock of the process that the claim dies with; None: it outlives its process.
    lease_s : float or None
        How long it lasts, in seconds; None: until it ends.
    max_attempts : int or None
        The pool's; for claims that are found to be a dead process's.
    """

    owner: int | None
    lease_s: float | None
    max_attempts: int | None


class Taken(NamedTuple):
    """A claim that was made."""

    token: str
    row: Row


def claim(
    database: Database,
    task_id: object,
    agent_id: object,
    token: str,
    timeout_s: float | None,
    hold: Hold,
) -> Taken:
    """Claim one task; the claim that this process has of it for this agent counts.

    Raises
    ------
    AlreadyClaimed, TaskNotAvailable, PoolPaused, LockTimeout, InvalidTask, InvalidName
        See `fastclaim.errors`; the task is where and as it was.
    PoolUnavailable
        The server cannot be reached, or refuses.
    """
    parameters = _parameters(agent_key(task_id, agent_id), agent_id, [token], hold)
    parameters["task_id"] = f"{task_id}"
    tries = 0
    for _ in turns(timeout_s, _LONGEST_PAUSE_S):
        while tries < _TRIES:
            tries += 1
            try:
                rows = _run(database, _CLAIM, parameters, task_id)
            except pg_errors.UniqueViolation:
                continue  # of an exclusive key: now somebody has it
            except LockTimeout:
                break
            if rows:
                return Taken(token, rows[0].row)
            found = _look(database, parameters)
            if found.state == "claimed" and _ends(database, found, task_id, hold):
                continue
            if (held := _refuse(database, found, task_id, agent_id)) is not None:
                return held
        tries = 0
    raise LockTimeout(
        f"task {task_id!r} was in the middle of others' transactions for {timeout_s} s", task_id
    )


def _ends(database: Database, found: Refusal, task_id: object, hold: Hold) -> bool:
    """Whether the claim that stands is over, and given back by us or by others."""
    if not (found.expired or found.dead):
        return False
    is_back = bool(recovery.recover(database, hold.max_attempts, task_id=task_id))
    return is_back or bool(found.expired or found.settled)


def _look(database: Database, parameters: dict[str, Any]) -> Refusal:
    asked = {
        "task_id": parameters["task_id"],
        "owner": database.own_number,
        "grace_s": recovery.RECONNECT_GRACE_S,
    }
    return Refusal(*database.query(_WHY_NOT, asked)[0])


def _refuse(database: Database, found: Refusal, task_id: object, agent_id: object) -> Taken | None:
    """Raise what stands against the claim, or return it if it stands already; None: try again."""
    if found.state == "claimed":
        holder = json.loads(found.claimed_by or "null")
        is_ours = found.owner == database.own_number
        if is_ours and f"{holder}" == f"{agent_id}" and found.token is not None:
            rows = _claimed_already(database, f"{agent_id}", [found.token])
            return Taken(found.token, rows[0].row) if rows else None
        raise AlreadyClaimed(f"task {task_id!r} is claimed by {holder!r}", task_id, holder)
    if found.state != "available":
        raise TaskNotAvailable(f"task {task_id!r} is not available", task_id)
    if found.paused:
        pause = Pause(found.paused_until, found.paused_reason or "")
        raise PoolPaused(described_pause(pause), task_id, until=pause.until)
    if found.early_until_s is not None:
        when = local_time(found.early_until_s)
        raise TaskNotAvailable(f"task {task_id!r} may not be claimed before {when}", task_id)
    if found.key is not None:
        message = f"task {task_id!r} needs the key {found.key!r}, which another claim holds"
        raise KeyHeld(message, task_id, None, found.key)
    return None


class Wanted(NamedTuple):
    """What an agent that asks for the next tasks wants."""

    agent_id: object
    capabilities: Sequence[str]
    order: str
    max_claims: int | None


def claim_next(
    database: Database, wanted: Wanted, tokens: Sequence[str], hold: Hold
) -> list[Taken]:
    """Claim the next tasks, as many as there are tokens, or what there is.

    Raises
    ------
    PoolUnavailable
        The server cannot be reached, or refuses.
    """
    taken = some = _claim_some(database, wanted, tokens, hold)
    # What was left out for its keys may share none with what was claimed, and beyond the window
    # there are others: now that these keys are in use a look does not see those that need them.
    while len(taken) < len(tokens) and any(map(_has_keys, some)):
        try:
            some = _claim_some(database, wanted, tokens[len(taken) :], hold)
        except TaskPoolError:
            finishing.release_by_token_later(database, wanted.agent_id, tokens[: len(taken)])
            raise
        taken = [*taken, *some]
    return taken


def _has_keys(taken: Taken) -> bool:
    return bool(json.loads(taken.row.payload).get("exclusive"))


def _claim_some(
    database: Database, wanted: Wanted, tokens: Sequence[str], hold: Hold
) -> list[Taken]:
    """Claim by one statement, with the first of the tokens."""
    parameters = _parameters(f"{wanted.agent_id}", wanted.agent_id, tokens, hold)
    parameters |= {
        "capabilities": capability_keys(wanted.capabilities),
        "wanted": len(tokens),
        # As the server counts: nobody has so many.
        "max_claims": None if wanted.max_claims is None else min(wanted.max_claims, 2**63 - 1),
    }
    for window in database.window.sizes(len(tokens)):
        rows = _run_over_keys(
            database, _claim_next(wanted.order, window, len(tokens) > 1), parameters
        )
        claimed = sorted(row for row in rows if row.number is not None)
        if not claimed and rows:
            continue  # there are tasks, but others were faster at all that it looked at
        if claimed:
            database.window.worked(window)
        if any(row.was_delayed for row in claimed):
            recovery.wake_delayed(database)
        return [Taken(tokens[row.number - 1], row.row) for row in claimed]
    return []


def _run_over_keys(
    database: Database, statement: str, parameters: dict[str, Any]
) -> list[_Claimed]:
    for _ in range(_TRIES):
        try:
            return _run(database, statement, parameters)
        except pg_errors.UniqueViolation:
            pass  # of an exclusive key: the next look sees that somebody has it
        except LockTimeout:
            break
    return []  # others are faster, again and again: a wider look would be no better


class _Claimed(NamedTuple):
    number: Any  # which of the tokens, from 1; None: nothing was claimed
    was_delayed: bool
    row: Row


def _parameters(agent: str, agent_id: object, tokens: Sequence[str], hold: Hold) -> dict[str, Any]:
    return {
        "agent": agent,
        "claimed_by": agent_json(agent_id),
        "tokens": list(tokens),
        "owner": hold.owner,
        "lease_s": hold.lease_s,
    }


def _run(
    database: Database, statement: str, parameters: dict[str, Any], task_id: object = None
) -> list[_Claimed]:
    text, already = database.sql(statement), database.sql(_CLAIMED_ALREADY)

    sent = False

    def work(connection: Connection, retried: bool) -> list[tuple[Any, ...]]:
        nonlocal sent
        sent = True
        # The answer to an earlier try was lost: was it carried out?
        if retried and (rows := connection.execute(already, parameters).fetchall()):
            return rows
        if parameters.get("max_claims") is None:
            return connection.execute(text, parameters).fetchall()
        with connection.transaction():
            lock = database.address.key(f"max_claims of {parameters['agent']} in")
            connection.execute(_ONE_AFTER_THE_OTHER, [_PLACE_TIMEOUT, lock])
            return connection.execute(text, parameters).fetchall()

    try:
        rows = database.run(work, task_id)
    except PoolUnavailable:
        if sent:  # it may have been carried out, and nobody will ever be told
            finishing.release_by_token_later(database, parameters["agent"], parameters["tokens"])
        raise
    return [_Claimed(number, was_delayed, Row(*row)) for number, was_delayed, *row in rows]


def _claimed_already(database: Database, agent: str, tokens: list[str]) -> list[_Claimed]:
    rows = database.query(_CLAIMED_ALREADY, {"agent": agent, "tokens": tokens})
    return [_Claimed(number, was_delayed, Row(*row)) for number, was_delayed, *row in rows]
