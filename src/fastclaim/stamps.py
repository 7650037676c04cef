"""What transitions write into a task: the stamps, as JSON text and as fields."""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

from .document import (
    CLAIM_FIELDS,
    COMPLETION_FIELDS,
    ENFORCEMENT,
    ENFORCEMENT_CLAIM_FIELDS,
    MANAGED_FIELDS,
    MARK,
    STATUS,
    TIME,
    dumps,
)
from .errors import InvalidTask

STATE_COMPLETED: Final = b', "status": "completed"'
COMPLETED_AT: Final = b', "completed_at": ' + TIME


class ClaimStamp(NamedTuple):
    """The two places that a claim writes to, as JSON text; `TIME` stands for when."""

    enforcement: bytes
    fields: bytes


def claim_stamp(agent_id: object, token: str) -> ClaimStamp:
    """What a claim for `agent_id` writes; raises InvalidTask if that is not JSON-serialisable."""
    if type(agent_id) is str:
        enforcement, fields = _agents_stamp(agent_id)
    else:  # 7 and "7" and True are different agents' JSON, but not different cache keys
        enforcement, fields = _agents_stamp.__wrapped__(agent_id)
    return ClaimStamp(enforcement, b'%b, "claim_token": "%b"' % (fields, token.encode()))


@functools.lru_cache(maxsize=256)
def _agents_stamp(agent_id: object) -> tuple[bytes, bytes]:
    agent = _agent_json(agent_id)
    return (
        b', "claimed_at": %b, "claimed_by": %b' % (TIME, agent),
        b', "claimed_by": %b, "claimed_at": %b, "claim_lock_acquired_at": %b' % (agent, TIME, TIME),
    )


def _agent_json(agent_id: object) -> bytes:
    try:
        return dumps(agent_id).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(f"agent id {agent_id!r} is not JSON-serialisable: {error}") from error


def claimed_by_member(agent_id: object) -> bytes:
    """What the stamp of a claim of `agent_id` contains."""
    return b'"claimed_by": %b,' % _agent_json(agent_id)


def token_member(token: str) -> bytes:
    """What the stamp of the claim with this token contains."""
    return b'"claim_token": "%b"' % token.encode()


def result_member(result: object, task_id: object) -> bytes:
    """A completion's last member; raises InvalidTask if it is not JSON-serialisable."""
    try:
        return b', "result": %b' % dumps(result).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(
            f"the result of task {task_id!r} is not JSON-serialisable: {error}", task_id
        ) from error


def available_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The managed fields of a document as they are while the task waits."""
    kept = {
        name: value
        for name, value in fields.items()
        if name in MANAGED_FIELDS and name not in (MARK, *CLAIM_FIELDS, *COMPLETION_FIELDS)
    }
    if ENFORCEMENT in kept:
        kept[ENFORCEMENT] = {
            name: value
            for name, value in kept[ENFORCEMENT].items()
            if name not in ENFORCEMENT_CLAIM_FIELDS
        }
    return kept | {STATUS: "available"}


def claimed_fields(
    fields: dict[str, Any], agent_id: object, token: str, now_s: float
) -> dict[str, Any]:
    """The managed fields of a document once it is claimed."""
    kept = available_fields(fields)
    if ENFORCEMENT in kept:
        kept[ENFORCEMENT] |= {"claimed_at": now_s, "claimed_by": agent_id}
    return kept | {
        STATUS: "claimed",
        "claimed_by": agent_id,
        "claimed_at": now_s,
        "claim_lock_acquired_at": now_s,
        "claim_token": token,
    }


def completed_fields(fields: dict[str, Any], result: object, now_s: float) -> dict[str, Any]:
    """The managed fields of a document once it is completed."""
    kept = {name: value for name, value in fields.items() if name in MANAGED_FIELDS - {MARK}}
    return kept | {STATUS: "completed", "completed_at": now_s, "result": result}
