"""What became of a task that a command of `fastclaim work` settled itself."""

from __future__ import annotations

from .. import layout
from ..claim import Claim
from ..pool import TaskPool
from . import fields, lookup
from .survey import last_error


def outcome(pool: TaskPool, claim: Claim) -> tuple[str, str | None] | None:
    """The task's state and, if the attempt failed, the error; None if the claim was lost otherwise.

    Who gave a task back, or gave it up, is not written anywhere: it may also have been somebody
    else. But that, too, is what became of it.

    Raises
    ------
    TaskPoolError, OSError
        What is there cannot be read.
    """
    found = dict(lookup.find(pool, claim.task_id))
    completed = found.get(layout.COMPLETED)
    if completed is not None and completed.get("claim_token") == claim.token:
        return layout.COMPLETED, None
    if layout.FAILED in found:
        return layout.FAILED, last_error(found[layout.FAILED])
    if layout.AVAILABLE not in found:
        return None
    task = found[layout.AVAILABLE]
    in_vain = fields.attempts(task) > fields.attempts(claim.task)
    return layout.AVAILABLE, last_error(task) if in_vain else None
