"""From claimed to completed, or back to available."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

from . import outcome
from .directories import Directories
from .document import STATE_AVAILABLE, Document, lay_out, parse_held, timestamp
from .errors import ClaimLost, InvalidTask, LockTimeout, TaskExists
from .stamps import (
    COMPLETED_AT,
    STATE_COMPLETED,
    available_fields,
    claimed_by_member,
    completed_fields,
    result_member,
    token_member,
)
from .waiting import turns

# Whoever holds a claim's inode is in the middle of a system call or two.
HOLD_TIMEOUT_S: Final = 10.0


def complete(
    pool: Directories, task_id: object, agent_id: object, token: str | None, result: object
) -> None:
    """Move a claim to completed/, with its result.

    Parameters
    ----------
    token : str or None
        The claim's; None means whatever claim the agent has of that task.

    Raises
    ------
    ClaimLost, InvalidTask, InvalidName, LockTimeout, OSError
        The claim is as it was, and completing again works.
    """
    completion = _Completion(result, result_member(result, task_id))
    _Finish(pool, task_id, agent_id, token, completion).run()


def release(pool: Directories, task_id: object, agent_id: object, token: str | None) -> None:
    """Move a claim back to available/.

    Raises
    ------
    TaskExists
        The task was published again meanwhile; the claim stays.
    ClaimLost, InvalidTask, InvalidName, LockTimeout, OSError
        The claim is as it was.
    """
    _Finish(pool, task_id, agent_id, token, None).run()


class _Completion(NamedTuple):
    result: object
    member: bytes  # the result as JSON text


class _Finish:
    """What stays the same from one try to the next; without a completion it is a release."""

    def __init__(
        self,
        pool: Directories,
        task_id: object,
        agent_id: object,
        token: str | None,
        completion: _Completion | None,
    ) -> None:
        self.pool = pool
        self.task_id, self.agent_id, self.token = task_id, agent_id, token
        self.completion = completion
        self.path = pool.claimed_file(task_id, agent_id)
        self.expected = claimed_by_member(agent_id) if token is None else token_member(token)
        if completion is None:
            self.target = pool.available_file(task_id)
            self.lock = pool.lock_file(self.target)
            self.changed_directories = (pool.claimed, pool.available)
        else:
            self.target = pool.completed_file(task_id)
            self.lock = None
            self.changed_directories = (pool.claimed, pool.completed)

    def run(self) -> None:
        for _ in turns(HOLD_TIMEOUT_S):
            came_to = self._once()
            if came_to == outcome.LOST:
                self.pool.make()  # a directory has gone
                came_to = self._once()
            if came_to == outcome.DONE:
                return
            if came_to == outcome.COLLISION:
                raise TaskExists(
                    f"task {self.task_id!r} was published again; the claim stays", self.task_id
                )
            if came_to == outcome.NOT_REGULAR:
                raise InvalidTask(
                    f"the claim of task {self.task_id!r} is not a regular file", self.task_id
                )
            if came_to != outcome.BUSY:
                raise self._lost(None)
        raise LockTimeout(
            f"the claim of task {self.task_id!r} was held by others for {HOLD_TIMEOUT_S} s",
            self.task_id,
        )

    def _once(self) -> int:
        completion = self.completion
        came_to, found = self.pool.core.finish(
            self.path,
            self.lock,
            self.target,
            self.changed_directories,
            self.expected,
            STATE_AVAILABLE if completion is None else STATE_COMPLETED,
            None if completion is None else COMPLETED_AT,
            b"" if completion is None else completion.member,
            self.pool.temporary_file(self.pool.claimed),
            self.pool.sync,
            completion is not None,
        )
        if came_to == outcome.UNPROVEN:
            with found:
                return self._replace(found)
        return int(came_to)

    def _replace(self, held: Any) -> int:
        """Finish a claim that is not proven to be ours, as Python's json reads it."""
        now_ns = time.time_ns()
        try:
            document = parse_held(held)
        except ValueError as error:
            raise InvalidTask(
                f"the claim of task {self.task_id!r} is {error}", self.task_id
            ) from error
        self._check_claim(document)
        content = lay_out(self._fields(document, now_ns), document.payload, now_ns)
        held.prepare(self.pool.temporary_file(self.pool.claimed), content, now_ns, self.pool.sync)
        return int(
            held.finish(
                self.target, self.changed_directories, self.pool.sync, self.completion is not None
            )
        )

    def _fields(self, document: Document, now_ns: int) -> dict[str, Any]:
        if self.completion is None:
            return available_fields(document.fields)
        now_s = float(timestamp(now_ns))
        return completed_fields(document.fields, self.completion.result, now_s)

    def _check_claim(self, document: Document) -> None:
        if self.token is not None:
            if document.fields.get("claim_token") != self.token:
                raise self._lost(document.fields.get("claimed_by"))
            return
        # A claim without `claimed_by` is whoever's the file name says, as in the original.
        holder = document.fields.get("claimed_by", self.agent_id)
        if f"{holder}" != f"{self.agent_id}":
            raise self._lost(holder)

    def _lost(self, holder: object) -> ClaimLost:
        by = "" if holder is None else f"; it is claimed by {holder!r}"
        return ClaimLost(
            f"task {self.task_id!r} is not claimed by {self.agent_id!r}{by}", self.task_id, holder
        )
