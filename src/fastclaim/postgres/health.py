"""What is wrong with a pool, and why a task waits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ..diagnosis import Finding, as_findings
from ..errors import InvalidName
from ..layout import AVAILABLE, CLAIMED, COMPLETED, FAILED
from ..matching import Task, names_in
from ..pausing import Pause, described_pause
from ..stuck import Problem, never_met
from ..why import claimed_since, completed_sentence, failed_sentence, reason_in
from . import recovery
from .documents import COLUMNS, Row
from .publication import indexable, task_key

if TYPE_CHECKING:
    from .database import Database

_WHY: Final = f"""
WITH clock AS MATERIALIZED (SELECT {{now}} AS now)
SELECT {COLUMNS}, clock.now, {recovery.ended("t")}, p.paused_until, p.paused_reason,
    (SELECT json_object_agg(blocker, json_build_array(
        d.state, d.claimed_by, d.claimed_at, {recovery.ended("d")}))
     FROM unnest(t.blocked_by) AS blocker LEFT JOIN {{schema}}.tasks d ON d.task_id = blocker
     WHERE d.state IS DISTINCT FROM 'completed'),
    (SELECT json_build_array(
        k.key, h.task_id, h.claimed_by, h.claimed_at, {recovery.ended("h")})
     FROM {{schema}}.exclusive_keys k JOIN {{schema}}.tasks h ON h.task_id = k.task_id
     WHERE k.key = ANY(t.exclusive) ORDER BY k.key LIMIT 1)
FROM clock LEFT JOIN {{schema}}.tasks t ON t.task_id = %(task_id)s
    LEFT JOIN {{schema}}.pool p ON p.paused_until > clock.now
"""

_SERVER: Final = """
SELECT current_setting('server_version'), pg_is_in_recovery(),
    (SELECT count(*) FROM pg_stat_activity), current_setting('max_connections')::int,
    (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
     FROM pg_stat_activity WHERE backend_type = 'client backend'),
    (SELECT coalesce(max(n_dead_tup::float8 / greatest(n_live_tup, 1000)), 0)
     FROM pg_stat_user_tables WHERE relid = %(tasks)s::regclass),
    current_setting('autovacuum')::bool,
    (SELECT paused_until IS NOT NULL AND paused_until > {now} FROM {schema}.pool)
"""
_BLOCKED: Final = """
SELECT t.task_id, blocker, d.state FROM {schema}.tasks t
    CROSS JOIN unnest(t.blocked_by) AS blocker
    LEFT JOIN {schema}.tasks d ON d.task_id = blocker
WHERE t.state = 'available' AND t.blocked AND d.state IS DISTINCT FROM 'completed'
ORDER BY t.task_id, blocker
"""
_WHEREABOUTS: Final = {
    FAILED: "failed for good; see retry_failed()",
    AVAILABLE: "waiting itself",
    None: "not there",
}
_LONG_TRANSACTION_S: Final = 300.0
_DEAD_ROWS_SHARE: Final = 0.5


def why(database: Database, task_id: object, capabilities: Iterable[object] | None) -> str:
    """Why a task waits, or where it is, in one sentence: the one that a directory has for it.

    Raises
    ------
    InvalidName
        No task can have that id.
    PoolUnavailable
        The server cannot be reached, or refuses.
    """
    parameters = {"task_id": task_key(task_id), "grace_s": recovery.RECONNECT_GRACE_S}
    (found,) = database.query(_WHY, parameters)
    row, others = Row(*found[: len(Row._fields)]), found[len(Row._fields) :]
    told = None if capabilities is None else tuple(capabilities)
    return f"task {task_id!r} {_sentence(row, told, *others)}"


def _sentence(
    row: Row,
    capabilities: tuple[object, ...] | None,
    now_s: float,
    ended: str | None,
    paused_until_s: float | None,
    paused_reason: str | None,
    blockers: dict[str, tuple[Any, ...]] | None,
    held: tuple[Any, ...] | None,
) -> str:
    """All but the task's name."""
    if row.state is None:
        return "is not there"
    if row.state == CLAIMED:
        return f"is {claimed_since(row._claim(), ended)}"
    try:
        task = row.task()
        if row.state == COMPLETED:
            return completed_sentence(task)
        if row.state == FAILED:
            return failed_sentence(task)
        if paused_until_s is not None:
            pause = Pause(paused_until_s, paused_reason or "")
            return f"waits because {described_pause(pause)}"
        reason = _reason(task, capabilities, now_s, blockers or {}, held)
    except (TypeError, ValueError) as error:
        return f"cannot be claimed: {error}"
    return reason or "waits for an agent to claim it"


def _reason(
    task: Task,
    capabilities: tuple[object, ...] | None,
    now_s: float,
    blockers: dict[str, tuple[Any, ...]],
    held: tuple[Any, ...] | None,
) -> str | None:
    reason = reason_in(task, capabilities, now_s)
    if reason is not None:
        return reason
    for dependency in names_in(task, "blocked_by"):
        where = blockers.get(indexable(f"{dependency}"))
        if where is not None:
            return f"waits for {dependency} ({_whereabouts(dependency, *where)})"
    if held is not None:
        key, holder, *claim = held
        return f'is held by key "{key}" ({holder} {_claimed(*claim)})'
    return None


def _whereabouts(task_id: object, state: str | None, *claim: Any) -> str:
    """Where a task is that is not completed."""
    try:
        task_key(task_id)
    except InvalidName as error:
        return f"can never be there: {error}"
    return _claimed(*claim) if state == CLAIMED else _WHEREABOUTS[state]


def _claimed(claimed_by: str | None, claimed_at: float, ended: str | None) -> str:
    holder = json.loads(claimed_by or "null")
    return claimed_since({"claimed_by": holder, "claimed_at": claimed_at}, ended)


def findings(database: Database) -> list[Finding]:
    """What could keep the pool from working well.

    Raises
    ------
    PoolUnavailable
        The server cannot be reached, or refuses.
    """
    (found,) = database.query(_SERVER, {"tasks": f"{database.schema}.tasks"})
    version, standby, sessions, sessions_max, longest_s, dead, autovacuum, paused = found
    return [
        Finding(
            "error" if standby else "ok",
            "server",
            f"PostgreSQL {version}{', a standby' if standby else ''}",
            "name the server that takes writes" if standby else "",
        ),
        _judge(
            "connections",
            f"{sessions} of {sessions_max} are in use",
            sessions > 0.8 * sessions_max,
            "raise max_connections, or give fewer processes a pool",
        ),
        _judge(
            "transactions",
            f"the longest has been open for {longest_s:.0f} s",
            longest_s > _LONG_TRANSACTION_S,
            "end it: vacuum can remove nothing that is younger, and claims slow down",
        ),
        _judge(
            "vacuum",
            f"dead rows are {dead:.0%} of the live ones",
            dead > _DEAD_ROWS_SHARE or not autovacuum,
            "switch autovacuum on, or let it work faster",
        ),
        _judge(
            "pause", "paused" if paused else "not paused", paused, "run resume() when it is time"
        ),
        *as_findings(_blocked(database)),
    ]


def _blocked(database: Database) -> Iterator[Problem]:
    """What is wrong with the tasks that wait for others."""
    waits_for: dict[str, list[str]] = {}
    states: dict[str, str | None] = {}
    for task_id, blocker, state in database.query(_BLOCKED, {}):
        waits_for.setdefault(task_id, []).append(blocker)
        states[blocker] = state
    nowhere = {blocker for blocker, state in states.items() if state is None}
    given_up = {blocker for blocker, state in states.items() if state == FAILED}
    return never_met(waits_for, nowhere, given_up)


def _judge(check: str, message: str, is_bad: bool, advice: str) -> Finding:
    return Finding("warning" if is_bad else "ok", check, message, advice if is_bad else "")
