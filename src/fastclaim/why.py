"""Why nobody claims a task: one sentence for people."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from . import exclusive
from .directories import Directories
from .endings import Endings
from .errors import InvalidName, InvalidTask
from .listing import claims_of, read_task
from .matching import (
    Task,
    capabilities_in,
    deadline,
    epoch_s,
    missing_capability,
    names_in,
    not_before,
)
from .pausing import described_pause, local_time, read_pause
from .views import is_completed

# Of a task that nobody has, and nobody can claim.
HALF_CLAIMED = "stands in available/ with the status 'claimed', which recover() puts right"


def why(pool: Directories, task_id: object, capabilities: Iterable[object] | None) -> str:
    """See `fastclaim.TaskPool.why`."""
    told = None if capabilities is None else capabilities_in(capabilities)
    # In the order in which tasks move on, and once more should it have been given back meanwhile.
    for state_of in (_waiting, _claimed, _completed, _failed, _waiting):
        sentence = state_of(pool, task_id, told)
        if sentence is not None:
            return sentence
    return f"task {task_id!r} is not there"


def _waiting(
    pool: Directories, task_id: object, capabilities: tuple[object, ...] | None
) -> str | None:
    try:
        task = read_task(pool.available_file(task_id))
    except FileNotFoundError:
        return None
    except (InvalidTask, PermissionError) as error:
        return f"task {task_id!r} cannot be claimed: {error}"
    try:
        reason = _reason(pool, task, capabilities)
    except (TypeError, ValueError) as error:
        return f"task {task_id!r} cannot be claimed: {error}"
    return f"task {task_id!r} {reason or 'waits for an agent to claim it'}"


def _reason(pool: Directories, task: Task, capabilities: tuple[object, ...] | None) -> str | None:
    if task.get("status") == "claimed":
        return HALF_CLAIMED
    pause = read_pause(pool.tasks)
    if pause is not None:
        return f"waits because {described_pause(pause)}"
    reason = reason_in(task, capabilities, time.time())
    if reason is not None:
        return reason
    for dependency in names_in(task, "blocked_by"):
        if not is_completed(pool, dependency):
            return f"waits for {dependency} ({_whereabouts(pool, dependency)})"
    for key in sorted(exclusive.keys_of(task)):
        claim_name = exclusive.holder_of(pool, key)
        if claim_name is not None:
            holder, _, since = described_claim(pool, claim_name)
            return f'is held by key "{key}" ({holder} {since})'
    return None


def reason_in(task: Task, capabilities: tuple[object, ...] | None, now_s: float) -> str | None:
    """What in a waiting task itself keeps an agent from it; as `why` has it, after its name.

    Raises
    ------
    TypeError, ValueError
        A field is not what can be understood: nobody's `claim_next` gets the task.
    """
    until_s = deadline(task)
    if until_s is not None and until_s < now_s:
        return f"had to be claimed before {local_time(until_s)}"
    if capabilities is not None:
        missing = missing_capability(task, capabilities)
        if missing is not None:
            return f'needs capability "{missing}"'
    from_s = not_before(task)
    if from_s > now_s:
        return f"may not be claimed before {local_time(from_s)}"
    return None


def _whereabouts(pool: Directories, task_id: object) -> str:
    """Where a task is that is not completed."""
    try:
        for claim in claims_of(pool, task_id):
            return _claimed_since(pool, claim)
        if os.path.lexists(pool.failed_file(task_id)):
            return "failed for good; see retry_failed()"
        if os.path.lexists(pool.available_file(task_id)):
            return "waiting itself"
    except InvalidName as error:
        return f"can never be there: {error}"
    return "not there"


def _claimed(pool: Directories, task_id: object, _: object) -> str | None:
    for claim in claims_of(pool, task_id):
        return f"task {task_id!r} is {_claimed_since(pool, claim)}"
    return None


def _completed(pool: Directories, task_id: object, _: object) -> str | None:
    try:
        task = read_task(pool.completed_file(task_id))
    except FileNotFoundError:
        return None
    except InvalidTask:
        task = {}
    return f"task {task_id!r} {completed_sentence(task)}"


def completed_sentence(task: Task) -> str:
    """Who has completed a task, and when; after its name."""
    by, at_s = task.get("claimed_by"), epoch_s(task.get("completed_at"))
    return (
        "is completed"
        + (f" by {_named(by)}" if by is not None else "")
        + (f" since {local_time(at_s)}" if at_s is not None else "")
    )


def _failed(pool: Directories, task_id: object, _: object) -> str | None:
    try:
        task = read_task(pool.failed_file(task_id))
    except FileNotFoundError:
        return None
    except InvalidTask:
        task = {}
    return f"task {task_id!r} {failed_sentence(task)}"


def failed_sentence(task: Task) -> str:
    """Why a task was given up; after its name."""
    failures = task.get("failures")
    last = failures[-1] if isinstance(failures, list) and failures else None
    error = last.get("error") if isinstance(last, dict) else None
    reason = "" if error is None else f": {error}"
    return f"has failed for good (retry_failed() brings it back){reason}"


def described_claim(pool: Directories, claim_name: str) -> tuple[str, object, str]:
    """Of the claim in a file: which task's it is, and whose, and that and since when for people.

    Where the file cannot be read, its name has to do for the task's.
    """
    try:
        claim = read_task(os.path.join(os.fsdecode(pool.claimed), claim_name))
    except (FileNotFoundError, InvalidTask):
        return claim_name, None, "claimed"
    since = _claimed_since(pool, claim)
    return f"{claim.get('task_id', claim_name)}", claim.get("claimed_by"), since


def claimed_since(claim: Task, ended: str | None) -> str:
    """Who has a task, and since when, and why that has ended, if it has."""
    at_s = epoch_s(claim.get("claimed_at"))
    since = "" if at_s is None else f" since {local_time(at_s)}"
    end = "" if ended is None else f", but {ended}: the next claimer takes it back"
    return f"claimed by {_named(claim.get('claimed_by', 'somebody'))}{since}{end}"


def _claimed_since(pool: Directories, claim: Task) -> str:
    return claimed_since(claim, Endings(pool.tasks).of(claim))


def _named(agent_id: object) -> str:
    """An agent's id; in quotes where nobody would see it."""
    name = f"{agent_id}"
    return name if name.strip() else repr(name)
