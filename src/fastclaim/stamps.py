"""What transitions write into a task: the stamps, as JSON text and as fields."""

from __future__ import annotations

import functools
import os

from . import tokens
from .document import (
    ATTEMPTS,
    CLAIM_FIELDS,
    ENFORCEMENT,
    ENFORCEMENT_CLAIM_FIELDS,
    FAILURES,
    FINISH_FIELDS,
    MANAGED_FIELDS,
    MARK,
    NOT_BEFORE,
    STATUS,
    TIME,
    dumps,
)
from .errors import InvalidTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

# The managed fields that a task keeps, or gets, while it waits.
_WAITING_FIELDS: Final = MANAGED_FIELDS.difference((MARK, *CLAIM_FIELDS, *FINISH_FIELDS))

STATE_COMPLETED: Final = b',"status":"completed"'
COMPLETED_AT: Final = b',"completed_at":' + TIME


class Hold:
    """How long a claim lasts: with its process, until a time, or until somebody ends it.

    Attributes
    ----------
    owner : str or None
        The process that it dies with.
    lease_expires_at : float or None
        When it ends, seconds since the epoch.
    """

    __slots__ = ("lease_expires_at", "owner")  # read faster than those of a named tuple

    def __init__(self, owner: str | None, lease_expires_at: float | None) -> None:
        self.owner, self.lease_expires_at = owner, lease_expires_at

    def fields(self) -> dict[str, Any]:
        """What a claim says of it."""
        said = {"owner": self.owner, "lease_expires_at": self.lease_expires_at}
        return {name: value for name, value in said.items() if value is not None}


UNTIL_ENDED: Final = Hold(None, None)
# As long as this process. (A variable, as calls are a good part of what a claim takes in Python.)
own_hold = UNTIL_ENDED


def _seed() -> None:
    global own_hold
    own_hold = Hold(tokens.own_id, None)


_seed()
os.register_at_fork(after_in_child=_seed)  # after that of `tokens`, which was imported first


def claim_stamp(agent_id: object, hold: Hold) -> tuple[bytes, bytes]:
    """What a claim for `agent_id` writes, as JSON text in which `TIME` stands for when.

    Parameters
    ----------
    agent_id : object
        For whom.
    hold : Hold
        How long it lasts.

    Returns
    -------
    tuple of bytes
        What goes into ``constraint_enforcement``, and the claim's fields but for its token.

    Raises
    ------
    InvalidTask
        `agent_id` is not JSON-serialisable.
    """
    if type(agent_id) is str:
        stamp = agents_stamp(agent_id, hold.owner)
    else:  # 7 and "7" and True are different agents' JSON, but not different cache keys
        stamp = agents_stamp.__wrapped__(agent_id, hold.owner)
    if hold.lease_expires_at is None:
        return stamp
    enforcement, fields = stamp
    return enforcement, fields + b',"lease_expires_at":%b' % dumps(hold.lease_expires_at).encode()


@functools.lru_cache(maxsize=256)
def agents_stamp(agent_id: object, owner: str | None) -> tuple[bytes, bytes]:
    """The same of a claim without a lease; only with a `str` may this be called, it is cached."""
    agent = _agent_json(agent_id)
    bound = b"" if owner is None else b',"owner":"%b"' % owner.encode()
    return (
        b',"claimed_at":%b,"claimed_by":%b' % (TIME, agent),
        b',"claimed_by":%b,"claimed_at":%b,"claim_lock_acquired_at":%b%b'
        % (agent, TIME, TIME, bound),
    )


def _agent_json(agent_id: object) -> bytes:
    try:
        return dumps(agent_id).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(f"agent id {agent_id!r} is not JSON-serialisable: {error}") from error


def claimed_by_member(agent_id: object) -> bytes:
    """What the stamp of a claim of `agent_id` contains."""
    return b'"claimed_by":%b,' % _agent_json(agent_id)


def token_member(token: str) -> bytes:
    """What the stamp of the claim with this token contains; any text may be asked for."""
    return b'"claim_token":"%b"' % token.encode(errors="backslashreplace")


def result_member(result: object, task_id: object) -> bytes:
    """A completion's last member; raises InvalidTask if it is not JSON-serialisable."""
    try:
        return b',"result":%b' % dumps(result).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(
            f"the result of task {task_id!r} is not JSON-serialisable: {error}", task_id
        ) from error


def published_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The managed fields of a task that a caller publishes: it has no past."""
    kept = available_fields(fields)
    kept.pop(ATTEMPTS, None)
    kept.pop(FAILURES, None)
    return kept


def available_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The managed fields of a document as they are while the task waits."""
    kept = {name: fields[name] for name in sorted(_WAITING_FIELDS.intersection(fields))}
    if ENFORCEMENT in kept:
        kept[ENFORCEMENT] = dict(kept[ENFORCEMENT])
        for name in ENFORCEMENT_CLAIM_FIELDS:
            kept[ENFORCEMENT].pop(name, None)
    kept[STATUS] = "available"
    return kept


def claimed_fields(
    fields: dict[str, Any], agent_id: object, hold: Hold, token: str, now_s: float
) -> dict[str, Any]:
    """The managed fields of a document once it is claimed."""
    kept = available_fields(fields)
    kept.pop(NOT_BEFORE, None)
    if ENFORCEMENT in kept:
        kept[ENFORCEMENT] |= {"claimed_at": now_s, "claimed_by": agent_id}
    claim = {
        STATUS: "claimed",
        "claimed_by": agent_id,
        "claimed_at": now_s,
        "claim_lock_acquired_at": now_s,
    }
    return kept | claim | hold.fields() | {"claim_token": token}


def completed_fields(fields: dict[str, Any], result: object, now_s: float) -> dict[str, Any]:
    """The managed fields of a document once it is completed."""
    return managed(fields) | {STATUS: "completed", "completed_at": now_s, "result": result}


def failed_fields(
    fields: dict[str, Any], error: str, max_attempts: int | None, now_s: float
) -> dict[str, Any]:
    """The managed fields of a claim that came to nothing: waiting again, or given up.

    Parameters
    ----------
    fields : dict
        The claim's.
    error : str
        What happened; it is added to ``failures``.
    max_attempts : int or None
        How many claims may come to nothing where the task does not say; None: any number.
    now_s : float
        When, seconds since the epoch.
    """
    attempts = positive_int(fields.get(ATTEMPTS)) + 1
    past = fields.get(FAILURES)
    failure = {"error": error, "at": now_s, "agent": fields.get("claimed_by")}
    failures = [*(past if isinstance(past, list) else []), failure]
    kept = available_fields(fields) | {ATTEMPTS: attempts, FAILURES: failures}
    most = positive_int(fields.get("max_attempts")) or max_attempts
    if most is not None and attempts >= most:
        return kept | {STATUS: "failed", "failed_at": now_s}
    return kept


def managed(fields: dict[str, Any]) -> dict[str, Any]:
    """Those of a document's fields that transitions own, but for the layout's mark."""
    return {n: value for n, value in fields.items() if n in MANAGED_FIELDS and n != MARK}


def positive_int(value: object) -> int:
    """What a document says, which anybody may have written; 0 if that is no positive integer."""
    return value if type(value) is int and value > 0 else 0
