"""What is wrong with a pool, and why a task waits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ..diagnosis import Finding
from ..layout import AVAILABLE, CLAIMED, FAILED
from ..pausing import Pause, described_pause, local_time
from .publication import capability_keys

if TYPE_CHECKING:
    from .database import Database

_WHY: Final = """
WITH clock AS MATERIALIZED (SELECT {now} AS now)
SELECT t.state, t.claimed_by, t.not_before - clock.now, t.deadline < clock.now,
    (SELECT json_agg(json_build_array(blocker, d.state, d.claimed_by))
     FROM unnest(t.blocked_by) AS blocker LEFT JOIN {schema}.tasks d ON d.task_id = blocker
     WHERE d.state IS DISTINCT FROM 'completed'),
    (SELECT k.key || ' (task ' || k.task_id || ')' FROM {schema}.exclusive_keys k
     WHERE k.key = ANY(t.exclusive) LIMIT 1),
    t.requirements, t.required, t.attempts,
    CASE WHEN t.not_before = 'NaN' THEN t.payload END,
    p.paused_until, p.paused_reason
FROM clock LEFT JOIN {schema}.tasks t ON t.task_id = %s
    LEFT JOIN {schema}.pool p ON p.paused_until > clock.now
"""

_SERVER: Final = """
SELECT current_setting('server_version'), pg_is_in_recovery(),
    (SELECT count(*) FROM pg_stat_activity), current_setting('max_connections')::int,
    (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
     FROM pg_stat_activity WHERE backend_type = 'client backend'),
    (SELECT coalesce(max(n_dead_tup::float8 / greatest(n_live_tup, 1000)), 0)
     FROM pg_stat_user_tables WHERE relid = '{schema}.tasks'::regclass),
    current_setting('autovacuum')::bool,
    (SELECT paused_until IS NOT NULL AND paused_until > {now} FROM {schema}.pool)
"""
_WHEREABOUTS: Final = {
    FAILED: "failed for good; see retry_failed()",
    AVAILABLE: "waiting itself",
    None: "not there",
}
_LONG_TRANSACTION_S: Final = 300.0
_DEAD_ROWS_SHARE: Final = 0.5


def why(database: Database, task_id: object, capabilities: Iterable[str] | None) -> str:
    """Why a task waits, or where it is, in one sentence."""
    (found,) = database.query(_WHY, [f"{task_id}"])
    state, claimed_by, wait_s, late, blockers, key, requirements, required, attempts, *others = (
        found
    )
    name = f"task {task_id!r}"
    if state is None:
        return f"{name} is not in the pool."
    if state == "claimed":
        return f"{name} is claimed by {json.loads(claimed_by)!r}."
    if state == "failed":
        return f"{name} has failed after {attempts} attempts; retry_failed() makes it available."
    if state != "available":
        return f"{name} is {state}."
    unreadable, until, reason = others
    if until is not None:
        return f"{name} waits because {described_pause(Pause(until, reason))}."
    if unreadable is not None:
        return f"{name} cannot be claimed: not_before {_not_before(unreadable)!r} is no time."
    if blockers:
        waits_for = [f"{blocker} ({_whereabouts(*where)})" for blocker, *where in blockers]
        return f"{name} waits for {', '.join(waits_for)}."
    if wait_s is not None and wait_s > 0:
        return f"{name} may not be claimed before {local_time(time.time() + wait_s)}."
    if late:
        return f"{name} is past its deadline: claim_next leaves it out."
    if key is not None:
        return f"{name} waits for the exclusive key {key}."
    if capabilities is not None and (missing := _missing(requirements, required, capabilities)):
        return f"{name} needs a capability that is not among those given: {missing}."
    return f"{name} is available."


def _not_before(payload: str) -> object:
    return json.loads(payload).get("not_before")


def _whereabouts(state: str | None, claimed_by: str | None) -> str:
    """Where a task is that is not completed; as of one in a directory."""
    if state == CLAIMED:
        return f"claimed by {json.loads(claimed_by or 'null')}"
    return _WHEREABOUTS[state]


def _missing(requirements: list[str], required: list[str], capabilities: Iterable[str]) -> str:
    have = set(capability_keys(capabilities))
    lacking = [capability for capability in required if capability not in have]
    if lacking:
        return " and ".join(lacking)
    if requirements and have and not have & set(requirements):
        return " or ".join(requirements)
    return ""


def findings(database: Database) -> list[Finding]:
    """What could keep the pool from working well.

    Raises
    ------
    PoolUnavailable
        The server cannot be reached, or refuses.
    """
    (found,) = database.query(_SERVER, {})
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
        _judge("pause", "paused" if paused else "not paused", paused, "resume() when it is time"),
    ]


def _judge(check: str, message: str, is_bad: bool, advice: str) -> Finding:
    return Finding("warning" if is_bad else "ok", check, message, advice if is_bad else "")
