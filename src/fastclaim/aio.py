"""`AsyncTaskPool`: the same verbs as coroutines.

Each call runs in a thread, because files have no other way; waiting for a task takes none: the
event loop itself listens to inotify (`async_news`), or is woken by what hears a server
(`postgres.news`). A coroutine that is cancelled leaves no claim behind: what its thread still
claims is given back before the cancellation goes on.

Who is woken owes a look: a coroutine that ends in any way between being woken and having looked
has another one, or a thread, woken in its place.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from concurrent.futures import Future
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
)

from . import tokens
from .arguments import check_seconds
from .async_news import DirectoryNews, InProcess, News, ended, in_a_new_thread
from .claim import Claim
from .diagnosis import Finding
from .errors import LockTimeout, TaskPoolError
from .layout import AVAILABLE
from .pausing import Pause
from .pool import TaskPool
from .recovery import RecoveryReport

if TYPE_CHECKING:
    from .literals import Durability, IfExists, Order, PrunableState, State

_P = ParamSpec("_P")
_T = TypeVar("_T")

# A thread cannot be interrupted, and a cancellation waits for the end of its call. So a claim waits
# for others in turns of this length. The other verbs are one call each, which takes up to 10 s if
# others are in the middle of a transition of the very task, and on PostgreSQL up to 30 s while the
# server cannot be reached.
_LONGEST_TURN_S: Final = 0.1


class AsyncClaim:
    """A `Claim` whose verbs are coroutines; as ``async with`` it ends like `Claim` does."""

    def __init__(self, pool: AsyncTaskPool, claim: Claim) -> None:
        self._pool = pool
        self._claim = claim

    @property
    def task_id(self) -> object:
        """Which task."""
        return self._claim.task_id

    @property
    def agent_id(self) -> object:
        """Who has it."""
        return self._claim.agent_id

    @property
    def token(self) -> str:
        """What tells this claim from every other claim of the task."""
        return self._claim.token

    @property
    def task(self) -> dict[str, Any]:
        """The claimed task; it has been read already."""
        return self._claim.task

    @property
    def result(self) -> object:
        """What leaving an ``async with`` block completes the task with; None at first."""
        return self._claim.result

    @result.setter
    def result(self, result: object) -> None:
        self._claim.result = result

    async def complete(self, result: object = None) -> None:
        """As `Claim.complete`."""
        await self._pool._run(self._claim.complete, result)

    async def release(self, not_before: float | None = None) -> None:
        """As `Claim.release`."""
        await self._pool._run(self._claim.release, not_before)

    async def fail(self, error: object, retry_after_s: float | None = None) -> str:
        """As `Claim.fail`."""
        return await self._pool._run(self._claim.fail, error, retry_after_s)

    async def renew(self, lease_s: float) -> float:
        """As `Claim.renew`."""
        return await self._pool._run(self._claim.renew, lease_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._pool._run(self._claim.__exit__, kind, error, traceback)

    def __repr__(self) -> str:
        return f"<Async{repr(self._claim)[1:]}"


class Claiming(Coroutine[Any, Any, _T], Generic[_T]):
    """A claim to come: ``await`` it, or use it as ``async with ... as claim``.

    It is a coroutine in all else, too: Python warns if it was never awaited.
    """

    def __init__(self, verb: str, coroutine: Coroutine[Any, Any, _T]) -> None:
        # What Python calls it, where it warns.
        self.__qualname__ = coroutine.__qualname__ = f"AsyncTaskPool.{verb}"  # type: ignore[attr-defined]
        self._coroutine = coroutine
        self._claim: _T | None = None

    def __await__(self) -> Generator[Any, Any, _T]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """As of a coroutine."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """As of a coroutine."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """As of a coroutine."""
        self._coroutine.close()

    async def __aenter__(self) -> _T:
        self._claim = await self
        return self._claim

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(self._claim, AsyncClaim):
            await self._claim.__aexit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<Claiming: {self._coroutine!r}>"


class Settings(TypedDict, total=False):
    """What a `TaskPool` takes besides its place."""

    durability: Durability
    lock_files: bool
    bind_claims: bool
    max_attempts: int | None


class AsyncTaskPool:
    """A `TaskPool` for coroutines.

    Parameters
    ----------
    pool : TaskPool, or what a TaskPool takes as its first argument
        The pool to use, or where it is.
    **settings
        As for `TaskPool`.

    Raises
    ------
    TypeError
        The pool is one already, and has its settings.
    ValueError, OSError
        As for `TaskPool`.
    """

    def __init__(
        self,
        pool: TaskPool | str | os.PathLike[str] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        if not isinstance(pool, TaskPool):
            pool = TaskPool(pool, **settings)
        elif settings:
            raise TypeError(f"{pool!r} has its settings; not also {', '.join(settings)}")
        self.pool = pool
        self._here: dict[str, InProcess] = {}  # by the process

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_here": {}}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {os.fspath(self.pool.base_dir)!r}>"

    # Claiming -----------------------------------------------------------------------------------

    def claim(
        self,
        task_id: object,
        agent_id: object,
        *,
        timeout: float | None = 10.0,
        lease_s: float | None = None,
        bind: bool | None = None,
    ) -> Claiming[AsyncClaim]:
        """As `TaskPool.claim`; to be awaited, or used as ``async with``."""

        def claim(timeout_s: float) -> list[Claim]:
            claim = self.pool.claim(
                task_id, agent_id, timeout=timeout_s, lease_s=lease_s, bind=bind
            )
            return [_read(claim)]

        return Claiming("claim", self._claim(claim, timeout))

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
    ) -> Claiming[AsyncClaim | None]:
        """As `TaskPool.claim_next`; to be awaited, or used as ``async with``.

        ``async with pool.claim_next(...) as claim`` gives None for a claim if there was none.
        """
        capabilities = _kept(capabilities)
        call = functools.partial(
            self.pool.claim_next,
            agent_id,
            capabilities,
            order=order,
            lease_s=lease_s,
            bind=bind,
            max_claims=max_claims,
        )
        terms = (agent_id, capabilities, order, max_claims)
        claiming = self._claim_in_time(call, lambda: self._news(*terms), wait)
        return Claiming("claim_next", claiming)

    async def claim_many(
        self,
        agent_id: object,
        n: int,
        capabilities: Iterable[str] = (),
        *,
        order: Order = "priority",
        lease_s: float | None = None,
        bind: bool | None = None,
    ) -> list[AsyncClaim]:
        """As `TaskPool.claim_many`."""

        def call() -> list[Claim]:
            return self.pool.claim_many(
                agent_id, n, capabilities, order=order, lease_s=lease_s, bind=bind
            )

        return [AsyncClaim(self, claim) for claim in await self._run_claiming(call)]

    async def work(
        self,
        agent_id: object,
        capabilities: Iterable[str] = (),
        *,
        order: Order = "priority",
        wait: float | None = None,
        lease_s: float | None = None,
        bind: bool | None = None,
        max_claims: int | None = None,
    ) -> AsyncGenerator[AsyncClaim]:
        """One claim after the other, until there is none for `wait` seconds (None: never).

        Each is completed, with its ``result``, when the next one is asked for, if the loop's body
        has not ended it. Of an exception in the body nothing is known here, and the task is given
        back: ``async with claim:`` in the body fails it. Who leaves the loop early should do so
        inside ``contextlib.aclosing``, which gives the last one back at once.

        Raises
        ------
        ClaimLost, InvalidTask, InvalidName, TypeError, ValueError, OSError
            What `TaskPool.claim_next` and `Claim.complete` raise; no more claims come after it.
        """
        capabilities = _kept(capabilities)
        claim: AsyncClaim | None
        while True:
            async with self.claim_next(
                agent_id,
                capabilities,
                order=order,
                wait=wait,
                lease_s=lease_s,
                bind=bind,
                max_claims=max_claims,
            ) as claim:
                if claim is None:
                    return
                yield claim

    # The other verbs ----------------------------------------------------------------------------

    async def publish(
        self,
        task: str | Mapping[str, Any],
        description: str | None = None,
        *,
        if_exists: IfExists = "error",
        **fields: Any,
    ) -> bool:
        """As `TaskPool.publish`."""
        return await self._run(self.pool.publish, task, description, if_exists=if_exists, **fields)

    async def publish_many(
        self, tasks: Iterable[Mapping[str, Any]], *, if_exists: IfExists = "error"
    ) -> int:
        """As `TaskPool.publish_many`."""
        return await self._run(self.pool.publish_many, tasks, if_exists=if_exists)

    async def complete(
        self,
        task_id: object,
        agent_id: object,
        result: object = None,
        *,
        token: str | None = None,
    ) -> None:
        """As `TaskPool.complete`."""
        await self._run(self.pool.complete, task_id, agent_id, result, token=token)

    async def release(
        self,
        task_id: object,
        agent_id: object,
        *,
        token: str | None = None,
        not_before: float | None = None,
    ) -> None:
        """As `TaskPool.release`."""
        await self._run(self.pool.release, task_id, agent_id, token=token, not_before=not_before)

    async def fail(
        self,
        task_id: object,
        agent_id: object,
        error: object,
        *,
        token: str | None = None,
        retry_after_s: float | None = None,
    ) -> str:
        """As `TaskPool.fail`."""
        return await self._run(
            self.pool.fail, task_id, agent_id, error, token=token, retry_after_s=retry_after_s
        )

    async def renew(
        self, task_id: object, agent_id: object, lease_s: float, *, token: str | None = None
    ) -> float:
        """As `TaskPool.renew`."""
        return await self._run(self.pool.renew, task_id, agent_id, lease_s, token=token)

    async def retry_failed(self, task_id: object = None) -> int:
        """As `TaskPool.retry_failed`."""
        return await self._run(self.pool.retry_failed, task_id)

    async def pause(self, until: float | None = None, reason: str = "") -> None:
        """As `TaskPool.pause`."""
        await self._run(self.pool.pause, until, reason)

    async def resume(self) -> None:
        """As `TaskPool.resume`."""
        await self._run(self.pool.resume)

    async def paused(self) -> Pause | None:
        """As `TaskPool.paused`."""
        return await self._run(self.pool.paused)

    async def doctor(self) -> list[Finding]:
        """As `TaskPool.doctor`."""
        return await self._run(self.pool.doctor)

    async def recover(
        self, older_than: float | None = None, dry_run: bool = False
    ) -> RecoveryReport:
        """As `TaskPool.recover`."""
        return await self._run(self.pool.recover, older_than, dry_run)

    async def tasks(self, state: State = AVAILABLE) -> AsyncIterator[dict[str, Any]]:
        """As `TaskPool.tasks`."""
        tasks = await self._run(self.pool.tasks, state)
        while (task := await self._run(next, tasks, None)) is not None:
            yield task

    async def find(self, task_id: object) -> dict[str, Any] | None:
        """As `TaskPool.find`."""
        return await self._run(self.pool.find, task_id)

    async def counts(self) -> dict[State, int]:
        """As `TaskPool.counts`."""
        return await self._run(self.pool.counts)

    async def mine(self, agent_id: object) -> list[AsyncClaim]:
        """As `TaskPool.mine`."""
        return [AsyncClaim(self, claim) for claim in await self._run(self.pool.mine, agent_id)]

    async def why(self, task_id: object, capabilities: Iterable[str] | None = None) -> str:
        """As `TaskPool.why`."""
        return await self._run(self.pool.why, task_id, capabilities)

    async def prune(
        self, state: PrunableState, older_than: float, *, dry_run: bool = True
    ) -> list[str]:
        """As `TaskPool.prune`."""
        return await self._run(self.pool.prune, state, older_than, dry_run=dry_run)

    # ----------------------------------------------------------------------------------------------

    async def _run(self, verb: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a verb in a thread; if cancelled, go on only when it has ended."""
        future = asyncio.wrap_future(self._start(functools.partial(verb, *args, **kwargs)))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await ended(future)
            raise

    async def _run_claiming(self, call: Callable[[], list[Claim]]) -> list[Claim]:
        """Claim in a thread; if cancelled, give back what it claims."""
        started = self._start(call)
        future = asyncio.wrap_future(started)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            try:
                await ended(future)
            finally:
                if future.exception() is None:
                    give_back = functools.partial(self._release_all, future.result())
                    await ended(asyncio.wrap_future(self._start(give_back)))
            raise
        except GeneratorExit:  # the loop was closed: nothing can be awaited any more
            in_a_new_thread(lambda: self._release_all(started.result()))
            raise

    def _release_all(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self.pool._release_quietly(claim.task_id, claim.agent_id, claim.token)

    def _start(self, call: Callable[[], _T]) -> Future[_T]:
        return self._in_process().threads.submit(call)

    def _in_process(self) -> InProcess:
        process_id = tokens.own_id
        here = self._here.get(process_id)
        if here is None:
            for parent_id in self._here.keys() - {process_id}:  # a fork copied it
                copied = self._here.pop(parent_id, None)
                if copied is not None:
                    copied.forget()
            # Of two threads that come here at once, one's is used.
            here = self._here.setdefault(process_id, InProcess())
        return here

    async def _claim(
        self, claim: Callable[[float], list[Claim]], timeout: float | None
    ) -> AsyncClaim:
        check_seconds("timeout", timeout)
        until_s = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left_s = until_s - time.monotonic()
            call = functools.partial(claim, min(left_s, _LONGEST_TURN_S))
            try:
                return AsyncClaim(self, (await self._run_claiming(call))[0])
            except LockTimeout as error:
                if left_s <= _LONGEST_TURN_S:
                    # Its words tell how long the last turn was.
                    task_id = error.task_id
                    raise LockTimeout(
                        f"task {task_id!r} was held by others for {timeout} s", task_id
                    ) from None

    async def _claim_in_time(
        self,
        claim_next: Callable[[], Claim | None],
        news_of: Callable[[], News],
        wait: float | None,
    ) -> AsyncClaim | None:
        check_seconds("wait", wait)
        until_s = float("inf") if wait is None else time.monotonic() + wait

        def call() -> list[Claim]:
            claim = claim_next()
            return [] if claim is None else [_read(claim)]

        claims = await self._run_claiming(call)
        if not claims and until_s > time.monotonic():
            claims = await self._claim_later(call, news_of(), until_s)
        return AsyncClaim(self, claims[0]) if claims else None

    async def _claim_later(
        self, call: Callable[[], list[Claim]], news: News, until_s: float
    ) -> list[Claim]:
        """Call it again whenever there may be something, until it has claimed or it is late."""
        claims: list[Claim] = []
        try:
            while not claims and (left_s := until_s - time.monotonic()) > 0:
                await news.sleep(left_s)
                claims = await self._run_claiming(call)
        except GeneratorExit:  # the loop was closed: nothing can be awaited any more
            news.abandon()
            raise
        except BaseException:
            await news.pass_on()
            raise
        news.close()
        return claims

    def _news(
        self, agent_id: object, capabilities: Iterable[str], order: Order, max_claims: int | None
    ) -> News:
        # A pool on a server brings its own.
        of_server: Callable[..., News] | None = getattr(self.pool, "_news", None)
        if of_server is not None:
            return of_server(agent_id, capabilities, order, max_claims, self._run)
        return DirectoryNews(self, order, capabilities, at_claimed=max_claims is not None)


def _kept(capabilities: Iterable[str]) -> Iterable[str]:
    """For more than one call: an iterator is empty after the first."""
    return tuple(capabilities) if isinstance(capabilities, Iterator) else capabilities


def _read(claim: Claim) -> Claim:
    """Read the task while we are in a thread."""
    try:
        claim.task  # noqa: B018
    except (TaskPoolError, OSError):
        pass  # whoever asks for it will be told
    return claim
