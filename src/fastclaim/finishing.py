"""How a claim ends or goes on: completed, released, failed, renewed."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod

from . import layout, leases, outcome
from .arguments import check_text
from .directories import Directories
from .document import (
    NOT_BEFORE,
    STATE_AVAILABLE,
    STATUS,
    Document,
    lay_out,
    parse_held,
    timestamp,
)
from .errors import ClaimLost, InvalidTask, LockTimeout, TaskExists
from .named_tuple import NamedTuple
from .stamps import (
    COMPLETED_AT,
    STATE_COMPLETED,
    available_fields,
    claimed_by_member,
    completed_fields,
    failed_fields,
    managed,
    result_member,
    token_member,
)
from .waiting import turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

# Whoever holds a claim's inode is in the middle of a system call or two.
HOLD_TIMEOUT_S: Final = 10.0


class Ending(NamedTuple):
    """What a claim's document becomes, and where it goes."""

    fields: dict[str, Any]  # the managed ones
    target: bytes
    directory: bytes  # of the target
    replace: bool  # what stands at the target
    stamped: bool = False  # it says so already, and has only to be moved


def rewrite(pool: Directories, held: Any, document: Document, ending: Ending) -> int:
    """Give a held document other managed fields, and move it.

    Returns
    -------
    int
        What `Held.finish` returns; all but DONE leave it as it was.
    """
    from .terms import marked_ns, terms_of  # most transitions keep them

    if ending.stamped:
        return int(held.move(ending.target, ending.replace))
    mtime_ns = marked_ns(document.fields, time.time_ns())
    terms = terms_of(document.fields, mtime_ns)
    content = lay_out(ending.fields, document.payload, mtime_ns, terms)
    held.prepare(pool.temporary_file(pool.claimed), content, mtime_ns, pool.sync)
    directories = (ending.directory, os.path.dirname(held.path))
    return int(held.finish(ending.target, directories, pool.sync, ending.replace))


def waiting_or_failed(pool: Directories, task_id: object, fields: dict[str, Any]) -> Ending:
    """Where a claim that came to nothing goes, by its `status`."""
    if fields[STATUS] == layout.FAILED:
        return Ending(fields, pool.failed_file(task_id), pool.failed, True)
    return Ending(fields, pool.available_file(task_id), pool.available, False)


class _Transition(ABC):
    """One transition of an agent's claim, for as many tries as it takes.

    Parameters
    ----------
    token : str or None
        The claim's; None means whatever claim the agent has of that task.
    """

    lock: bytes | None = None

    def __init__(
        self, pool: Directories, task_id: object, agent_id: object, token: str | None
    ) -> None:
        self.pool = pool
        if token is not None:
            check_text("token", token)
        self.task_id, self.agent_id, self.token = task_id, agent_id, token
        self.path = pool.claimed_file(task_id, agent_id)

    def run(self) -> None:
        for _ in turns(HOLD_TIMEOUT_S):
            came_to = self._once()
            if came_to in (outcome.LOST, outcome.STALE):
                self.pool.make()  # a directory has gone
                self.pool.current()
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
            if came_to not in (outcome.BUSY, outcome.STALE):
                raise self._lost(None)
        raise LockTimeout(
            f"the claim of task {self.task_id!r} was held by others for {HOLD_TIMEOUT_S} s",
            self.task_id,
        )

    def _once(self) -> int:
        came_to, held = self.pool.core.hold(self.pool.opened(), self.path, self.lock)
        if held is None:
            return int(came_to)
        with held:
            return self._rewrite(held)

    def _rewrite(self, held: Any) -> int:
        """The transition of a document as Python's json reads it."""
        try:
            document = parse_held(held)
        except ValueError as error:
            raise InvalidTask(
                f"the claim of task {self.task_id!r} is {error}", self.task_id
            ) from error
        self._check_claim(document)
        ending = self._ending(document.fields, float(timestamp(time.time_ns())))
        return rewrite(self.pool, held, document, ending)

    @abstractmethod
    def _ending(self, fields: dict[str, Any], now_s: float) -> Ending:
        """What the claim becomes."""

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
        if holder is not None and f"{holder}" == f"{self.agent_id}":
            words = f"is claimed by {holder!r}, but not with that token"
        else:
            by = "" if holder is None else f"; it is claimed by {holder!r}"
            words = f"is not claimed by {self.agent_id!r}{by}"
        return ClaimLost(f"task {self.task_id!r} {words}", self.task_id, holder)

    def _expected(self) -> bytes:
        if self.token is None:
            return claimed_by_member(self.agent_id)
        return token_member(self.token)

    def _in_place(self, ending: Ending, status: bytes, fields: bytes | None, result: bytes) -> int:
        """The same in the core, as far as it can tell from the sector."""
        came_to, found = self.pool.core.finish(
            self.pool.opened(),
            self.path,
            self.lock,
            ending.target,
            (ending.directory, self.pool.claimed),
            self._expected(),
            status,
            fields,
            result,
            self.pool.temporary_file(self.pool.claimed),
            self.pool.sync,
            ending.replace,
        )
        if came_to == outcome.UNPROVEN:
            with found:
                return self._rewrite(found)
        return int(came_to)


class Complete(_Transition):
    """Move a claim to completed/, with its result; see `TaskPool.complete`."""

    def __init__(
        self,
        pool: Directories,
        task_id: object,
        agent_id: object,
        token: str | None,
        result: object,
    ) -> None:
        super().__init__(pool, task_id, agent_id, token)
        self.result, self.member = result, result_member(result, task_id)
        self.target = pool.completed_file(task_id)

    def _once(self) -> int:
        ending = Ending({}, self.target, self.pool.completed, True)
        return self._in_place(ending, STATE_COMPLETED, COMPLETED_AT, self.member)

    def _ending(self, fields: dict[str, Any], now_s: float) -> Ending:
        completed = completed_fields(fields, self.result, now_s)
        return Ending(completed, self.target, self.pool.completed, True)


class Release(_Transition):
    """Move a claim back to available/; see `TaskPool.release`."""

    def __init__(
        self,
        pool: Directories,
        task_id: object,
        agent_id: object,
        token: str | None,
        not_before: float | None,
    ) -> None:
        super().__init__(pool, task_id, agent_id, token)
        self.not_before = not_before
        self.target = pool.available_file(task_id)
        self.lock = pool.lock_file(self.target)

    def _once(self) -> int:
        if self.not_before is not None:
            return super()._once()
        ending = Ending({}, self.target, self.pool.available, False)
        return self._in_place(ending, STATE_AVAILABLE, None, b"")

    def _ending(self, fields: dict[str, Any], now_s: float) -> Ending:
        waiting = available_fields(fields)
        if self.not_before is not None:
            waiting[NOT_BEFORE] = self.not_before
        return Ending(waiting, self.target, self.pool.available, False)


class Fail(_Transition):
    """Give a claim up, for another try or for good; see `TaskPool.fail`.

    Attributes
    ----------
    state : str
        What the task then is: "available" or "failed".
    """

    state: str

    def __init__(
        self,
        pool: Directories,
        task_id: object,
        agent_id: object,
        token: str | None,
        error: str,
        retry_after_s: float | None,
        max_attempts: int | None,
    ) -> None:
        super().__init__(pool, task_id, agent_id, token)
        self.error, self.retry_after_s, self.max_attempts = error, retry_after_s, max_attempts
        self.lock = pool.lock_file(pool.available_file(task_id))

    def _ending(self, fields: dict[str, Any], now_s: float) -> Ending:
        tried = failed_fields(fields, self.error, self.max_attempts, now_s)
        self.state = tried[STATUS]
        if self.retry_after_s is not None and self.state == layout.AVAILABLE:
            tried[NOT_BEFORE] = now_s + self.retry_after_s
        return waiting_or_failed(self.pool, self.task_id, tried)


class Renew(_Transition):
    """Let a claim last longer; see `TaskPool.renew`.

    Attributes
    ----------
    lease_expires_at : float
        When it ends, seconds since the epoch.
    """

    lease_expires_at: float

    def __init__(
        self,
        pool: Directories,
        task_id: object,
        agent_id: object,
        token: str | None,
        lease_s: float,
    ) -> None:
        super().__init__(pool, task_id, agent_id, token)
        self.lease_s = lease_s

    def run(self) -> None:
        super().run()
        leases.note_again(self.pool.tasks, self.lease_expires_at)

    def _ending(self, fields: dict[str, Any], now_s: float) -> Ending:
        self.lease_expires_at = now_s + self.lease_s
        leases.note(self.pool.tasks, self.lease_expires_at)
        renewed = managed(fields) | {"lease_expires_at": self.lease_expires_at}
        return Ending(renewed, self.path, self.pool.claimed, True)
