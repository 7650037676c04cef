"""`PostgresPool`: the verbs of `TaskPool`, and the original's five methods, on PostgreSQL."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

from .. import layout
from ..arguments import (
    as_task,
    check_is_agent,
    check_is_name,
    check_max_attempts,
    check_moment,
    check_seconds,
    check_text,
    check_whole,
)
from ..checking import check_task
from ..claim import Claim
from ..diagnosis import Finding
from ..directories import DURABILITIES
from ..errors import (
    AlreadyClaimed,
    ClaimLost,
    TaskNotAvailable,
    TaskPoolError,
)
from ..literals import Durability, IfExists, Order, PrunableState, State
from ..matching import capabilities_in, check_order
from ..pausing import Pause
from ..pool import TaskPool
from ..recovery import RecoveryReport
from ..tokens import new_token
from . import claiming, finishing, health, listing, publishing, recovery, selecting, upkeep
from .claiming import Hold, Taken, Wanted
from .database import Database
from .documents import Row
from .finishing import ClaimOf
from .news import News, Run
from .publication import check_agent_key, row, task_key
from .window import SIZES

logger = logging.getLogger("fastclaim.pool")

T = TypeVar("T")

# How many tasks one statement claims at most.
_MOST_TOGETHER: Final = SIZES[-1]


class _NoDirectory:
    """In the place of a property that says where a directory's files are."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pool: object, cls: type | None = None) -> Any:
        if pool is None:
            return self
        raise AttributeError(
            f"{self._name}: a pool on PostgreSQL has no directories", name=self._name, obj=pool
        )


class PostgresPool(TaskPool):
    """A pool of tasks in a PostgreSQL schema: `TaskPool` where it is given a URL.

    Parameters
    ----------
    base_dir : str
        ``postgresql://USER:PASSWORD@HOST/DATABASE?schema=NAME``; the schema is made if it is not
        there, and "fastclaim" if none is named.
    durability : {"data", "full", "none"}
        Whether a commit waits for the server's disk: "none" does not, and a crash of the server
        can undo the last fraction of a second.
    lock_files : bool
        Means nothing here.
    bind_claims : bool
        Whether claims are bound to their process, unless a call says otherwise.
    max_attempts : int or None
        After how many lost or failed claims a task is given up, unless it says so itself; None:
        never.

    Raises
    ------
    ValueError
        `durability` is none of the three.
    PoolUnavailable
        The server cannot be reached, or refuses.
    TaskPoolError
        The URL cannot be read, or the schema is newer than this code.
    """

    def __init__(
        self,
        base_dir: str | None = None,
        *,
        durability: Durability = "data",
        lock_files: bool = True,
        bind_claims: bool = True,
        max_attempts: int | None = None,
        _must_exist: bool = False,
    ) -> None:
        if durability not in DURABILITIES:
            raise ValueError(f"durability {durability!r} is none of {', '.join(DURABILITIES)}")
        check_max_attempts(max_attempts)
        url = layout.default_base_dir() if base_dir is None else base_dir
        self._database = Database(url, synchronous=durability != "none")
        self._bind_claims = bind_claims
        self._max_attempts = max_attempts
        self._database.make(must_exist=_must_exist)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.base_dir!r}>"

    @property
    def base_dir(self) -> str:
        """The pool's URL, without secrets."""
        return self._database.address.shown

    tasks_dir = _NoDirectory()
    available_dir = _NoDirectory()
    claimed_dir = _NoDirectory()
    completed_dir = _NoDirectory()
    failed_dir = _NoDirectory()

    # The verbs ----------------------------------------------------------------------------------

    def publish(
        self,
        task: str | Mapping[str, Any],
        description: str | None = None,
        *,
        if_exists: IfExists = "error",
        **fields: Any,
    ) -> bool:
        whole = as_task(task, description, fields)
        check_task(whole)
        values = row(whole)
        return publishing.publish(self._database, values, whole["task_id"], if_exists)

    def publish_many(
        self, tasks: Iterable[Mapping[str, Any]], *, if_exists: IfExists = "error"
    ) -> int:
        return publishing.publish_many(self._database, tasks, if_exists)

    def claim(
        self,
        task_id: object,
        agent_id: object,
        *,
        timeout: float | None = 10.0,
        lease_s: float | None = None,
        bind: bool | None = None,
    ) -> Claim:
        check_is_name("task id", task_id)
        check_is_agent(agent_id)
        check_seconds("timeout", timeout)
        token = new_token()
        hold = self._hold_for(lease_s, bind)

        def claim() -> Claim:
            taken = claiming.claim(self._database, task_id, agent_id, token, timeout, hold)
            return self._as_claim(taken, agent_id)

        return self._or_give_back(claim, agent_id, [token])

    def claim_next(
        self,
        agent_id: object,
        capabilities: Iterable[str] = (),
        *,
        order: Order = "priority",
        wait: float | None = 0.0,
        lease_s: float | None = None,
        bind: bool | None = None,
        max_claims: int | None = None,
    ) -> Claim | None:
        wait = _seconds("wait", wait)
        wanted = _wanted(agent_id, capabilities, order, max_claims)
        hold = self._hold_for(lease_s, bind)
        # In one line, so that nothing comes between a claim and who is told about it.
        return next(iter(self._claim_next(wanted, 1, hold, wait)), None)

    def claim_many(
        self,
        agent_id: object,
        n: int,
        capabilities: Iterable[str] = (),
        *,
        order: Order = "priority",
        lease_s: float | None = None,
        bind: bool | None = None,
    ) -> list[Claim]:
        wanted = _wanted(agent_id, capabilities, order, None)
        check_whole("n", n, least=0)
        hold = self._hold_for(lease_s, bind)
        claims: list[Claim] = []
        try:
            # Piece by piece: who wants all that there is may say any number.
            while (goal := min(n, len(claims) + _MOST_TOGETHER)) > len(claims):
                claims += self._claim_next(wanted, goal - len(claims), hold, 0.0)
                if len(claims) < goal:
                    break
        except BaseException:
            self._give_back_quietly(agent_id, [claim.token for claim in claims])
            raise
        return claims

    def complete(
        self,
        task_id: object,
        agent_id: object,
        result: object = None,
        *,
        token: str | None = None,
    ) -> None:
        ClaimOf(self._database, task_id, agent_id, token).complete(result)

    def release(
        self,
        task_id: object,
        agent_id: object,
        *,
        token: str | None = None,
        not_before: float | None = None,
    ) -> None:
        not_before = _moment("not_before", not_before)
        ClaimOf(self._database, task_id, agent_id, token).release(not_before)

    def fail(
        self,
        task_id: object,
        agent_id: object,
        error: object,
        *,
        token: str | None = None,
        retry_after_s: float | None = None,
    ) -> str:
        retry_after_s = _seconds("retry_after_s", retry_after_s)
        claim = ClaimOf(self._database, task_id, agent_id, token)
        return claim.fail(error, retry_after_s, self._max_attempts)

    def renew(
        self, task_id: object, agent_id: object, lease_s: float, *, token: str | None = None
    ) -> float:
        check_seconds("lease_s", lease_s, optional=False)
        return ClaimOf(self._database, task_id, agent_id, token).renew(float(lease_s))

    def retry_failed(self, task_id: object = None) -> int:
        return upkeep.retry_failed(self._database, task_id)

    def pause(self, until: float | None = None, reason: str = "") -> None:
        until = _moment("until", until)
        check_text("reason", reason)
        upkeep.pause(self._database, math.inf if until is None else until, reason)

    def resume(self) -> None:
        upkeep.resume(self._database)

    def paused(self) -> Pause | None:
        return upkeep.paused(self._database)

    def recover(self, older_than: float | None = None, dry_run: bool = False) -> RecoveryReport:
        check_seconds("older_than", older_than, least=0.0)
        found = recovery.recover(
            self._database, self._max_attempts, older_than_s=older_than, dry_run=dry_run
        )
        if not dry_run:
            recovery.unblock(self._database)
        return RecoveryReport(
            returned=[task_id for task_id, state in found if state == layout.AVAILABLE],
            failed=[task_id for task_id, state in found if state == layout.FAILED],
            completed=[],
            removed=[],
            problems=[],
        )

    def doctor(self) -> list[Finding]:
        return health.findings(self._database)

    def tasks(self, state: State = layout.AVAILABLE) -> Iterator[dict[str, Any]]:
        rows = listing.rows(self._database, state)
        return (task for row in rows if (task := _task_or_log(row)) is not None)

    def counts(self) -> dict[State, int]:
        return listing.counts(self._database)

    def _oldest_waiting(self) -> tuple[str, float] | None:
        """The id of the waiting task that was published first, and when, s since the epoch."""
        return listing.oldest_waiting(self._database)

    def find(self, task_id: object) -> dict[str, Any] | None:
        """The task of that id, in whatever state; InvalidName if there can be none."""
        row = listing.one(self._database, task_key(task_id))
        return None if row is None else _task_or_log(row)

    def _first(self, state: State, limit: int) -> list[dict[str, Any]]:
        """Some tasks: those longest in a state that comes to an end, or the latest in another."""
        rows = listing.first(self._database, state, limit)
        return [task for row in rows if (task := _task_or_log(row)) is not None]

    def _completed_lately(self, within_s: float) -> int:
        """How many tasks were completed in so many seconds."""
        return listing.completed_lately(self._database, within_s)

    def _endings(self) -> recovery.Endings:
        """What tells which claims have ended and are not taken back yet."""
        return recovery.Endings(self._database)

    def mine(self, agent_id: object) -> list[Claim]:
        return [
            self._as_claim(Taken(row.token, row), agent_id)
            for row in listing.mine(self._database, agent_id)
            if row.token is not None
        ]

    def why(self, task_id: object, capabilities: Iterable[str] | None = None) -> str:
        told = None if capabilities is None else capabilities_in(capabilities)
        return health.why(self._database, task_id, told)

    def prune(self, state: PrunableState, older_than: float, *, dry_run: bool = True) -> list[str]:
        check_seconds("older_than", older_than, optional=False)
        return upkeep.prune(self._database, state, float(older_than), dry_run)

    # What the original's five are made of -------------------------------------------------------

    def _publish_original(self, task: dict[str, Any]) -> None:
        values = row(task, layout.TASK_SUFFIX)
        publishing.publish(self._database, values, task["task_id"], "replace")

    def _claim_original(
        self, task_id: str, agent_id: str, token: str, timeout: float
    ) -> dict[str, Any]:
        hold = self._hold_for(None, None)
        try:
            taken = claiming.claim(self._database, task_id, agent_id, token, timeout, hold)
        except TaskNotAvailable as error:
            if isinstance(error, AlreadyClaimed):
                raise
            return {}
        # A claim that this process has already is no news, as with the original.
        return taken.row.task() if taken.token == token else {}

    def _release_quietly(self, task_id: object, agent_id: object, token: str) -> None:
        self._give_back_quietly(agent_id, [token])

    # ----------------------------------------------------------------------------------------------

    def _hold_for(self, lease_s: float | None, bind: bool | None) -> Hold:
        lease_s = _seconds("lease_s", lease_s)
        if bind is None:
            bind = self._bind_claims and lease_s is None
        return Hold(self._database.owner() if bind else None, lease_s, self._max_attempts)

    def _claim_next(self, wanted: Wanted, n: int, hold: Hold, wait_s: float | None) -> list[Claim]:
        tokens = [new_token() for _ in range(n)]

        def claim() -> list[Claim]:
            taken = selecting.claim_next(self._database, wanted, tokens, hold, wait_s)
            return [self._as_claim(one, wanted.agent_id) for one in taken]

        return self._or_give_back(claim, wanted.agent_id, tokens)

    def _news(
        self,
        agent_id: object,
        capabilities: Iterable[str],
        order: str,
        max_claims: int | None,
        run: Run,
    ) -> News:
        """What wakes a coroutine of `aio` that waits."""
        return News(self._database, _wanted(agent_id, capabilities, order, max_claims), run)

    def _or_give_back(self, claim: Callable[[], T], agent_id: object, tokens: list[str]) -> T:
        """Let nobody hold what nobody was told about."""
        try:
            return claim()
        except TaskPoolError:
            raise  # then nothing was claimed, or it will be given back as soon as it can be
        except BaseException:
            # Interrupted, or a task that Python cannot read any more.
            self._give_back_quietly(agent_id, tokens)
            raise

    def _give_back_quietly(self, agent_id: object, tokens: list[str]) -> None:
        try:
            finishing.release_by_token(self._database, agent_id, tokens)
        except TaskPoolError as error:
            logger.error("Failed to give back what %s has claimed: %s", agent_id, error)

    def _as_claim(self, taken: Taken, agent_id: object) -> Claim:
        task = taken.row.task()
        claim = Claim(self, task["task_id"], agent_id, taken.token)
        claim._task = task  # it came with the claim: no second question for it
        return claim

    def _read_claim(self, claim: Claim) -> dict[str, Any]:
        found = listing.one(self._database, claim.task_id)
        if found is None or found.state != layout.CLAIMED or found.token != claim.token:
            raise ClaimLost(
                f"task {claim.task_id!r} is not claimed by {claim.agent_id!r} any more",
                claim.task_id,
            )
        return found.task()


def become(pool: TaskPool, url: object, **settings: Any) -> None:
    """Let a pool that is being constructed, of whatever subclass, be one on PostgreSQL.

    Parameters
    ----------
    pool : TaskPool
        Which.
    url : str
        Where.
    **settings
        As for `PostgresPool`; the same errors.
    """
    pool.__class__ = _on_postgres(type(pool))
    PostgresPool.__init__(cast(PostgresPool, pool), str(url), **settings)


# One for each class, so that two pools of one class have one type.
_on_postgres_of: dict[type[TaskPool], type[TaskPool]] = {TaskPool: PostgresPool}


def _on_postgres(cls: type[TaskPool]) -> type[TaskPool]:
    """`cls` with `PostgresPool` in the place of `TaskPool`: its own methods come first."""
    if issubclass(cls, PostgresPool):
        return cls

    def reduce(pool: TaskPool) -> tuple[object, ...]:
        return _rebuild, (cls,), pool.__dict__

    if cls not in _on_postgres_of:
        bases = (cls, PostgresPool)
        _on_postgres_of[cls] = type(cls.__name__, bases, {"__reduce__": reduce})
    return _on_postgres_of[cls]


def _rebuild(cls: type[TaskPool]) -> TaskPool:
    on_postgres = _on_postgres(cls)
    return on_postgres.__new__(on_postgres)


def _wanted(
    agent_id: object, capabilities: Iterable[str], order: str, max_claims: int | None
) -> Wanted:
    check_is_agent(agent_id)
    check_agent_key(agent_id)
    named = capabilities_in(capabilities)
    if max_claims is not None:
        check_whole("max_claims", max_claims, least=0)
    check_order(order)
    return Wanted(agent_id, named, order, max_claims)


def _seconds(name: str, seconds: float | None) -> float | None:
    """A number of seconds, or None, as the server counts it; ValueError that names it."""
    check_seconds(name, seconds)
    return None if seconds is None else float(seconds)


def _moment(name: str, at_s: float | None) -> float | None:
    """The same for a time in seconds since the epoch."""
    check_moment(name, at_s)
    return None if at_s is None else float(at_s)


def _task_or_log(row: Row) -> dict[str, Any] | None:
    try:
        return row.task()
    except ValueError as error:  # more digits than Python takes by now
        logger.error("Failed to load task: %s", error)
        return None
