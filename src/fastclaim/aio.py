"""`AsyncTaskPool`: the same verbs as coroutines.

Each call runs in a thread, because files have no other way; waiting for a task takes none: the
event loop itself listens to inotify. A coroutine that is cancelled leaves no claim behind: what its
thread still claims is given back before the cancellation goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
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
    Mapping,
)
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar

from .claim import Claim
from .diagnosis import Finding
from .errors import LockTimeout, TaskPoolError
from .layout import AVAILABLE
from .pausing import Pause
from .pool import TaskPool
from .recovery import RecoveryReport
from .selection import Selection
from .views import View
from .waiters import Waiter

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MOST_THREADS: Final = 32
# A thread cannot be interrupted: no call of one lasts longer than this, or a cancellation would.
_LONGEST_CALL_S: Final = 0.1


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


class Claiming(Generic[_T]):
    """A claim to come: ``await`` it, or use it as ``async with ... as claim``."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._start = start
        self._claim: _T | None = None

    def __await__(self) -> Generator[Any, Any, _T]:
        return self._start().__await__()

    async def __aenter__(self) -> _T:
        self._claim = await self._start()
        return self._claim

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(self._claim, AsyncClaim):
            await self._claim.__aexit__(kind, error, traceback)


class AsyncTaskPool:
    """A `TaskPool` for coroutines.

    Parameters
    ----------
    pool : TaskPool, or what a TaskPool takes as its first argument
        The pool to use, or where it is.
    **settings
        As for `TaskPool`, if it is not one already.
    """

    def __init__(self, pool: Any = None, **settings: Any) -> None:
        self.pool = pool if isinstance(pool, TaskPool) else TaskPool(pool, **settings)
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="fastclaim")
        self._ears: dict[asyncio.AbstractEventLoop, _Ear] = {}

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

        return Claiming(lambda: self._claim(claim, timeout))

    def claim_next(
        self,
        agent_id: object,
        capabilities: Iterable[str] = (),
        *,
        order: str = "priority",
        wait: float | None = 0.0,
        lease_s: float | None = None,
        bind: bool | None = None,
        max_claims: int | None = None,
    ) -> Claiming[AsyncClaim | None]:
        """As `TaskPool.claim_next`; to be awaited, or used as ``async with``.

        ``async with pool.claim_next(...) as claim`` gives None for a claim if there was none.
        """
        call = functools.partial(
            self.pool.claim_next,
            agent_id,
            capabilities,
            order=order,
            lease_s=lease_s,
            bind=bind,
            max_claims=max_claims,
        )
        select = functools.partial(self._view, order, capabilities)
        return Claiming(lambda: self._claim_in_time(call, select, wait, max_claims is not None))

    async def claim_many(
        self,
        agent_id: object,
        n: int,
        capabilities: Iterable[str] = (),
        *,
        order: str = "priority",
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
        order: str = "priority",
        wait: float | None = None,
        lease_s: float | None = None,
        bind: bool | None = None,
        max_claims: int | None = None,
    ) -> AsyncGenerator[AsyncClaim]:
        """One claim after the other, until there is none for `wait` seconds (None: never).

        Each is completed, with its ``result``, when the next one is asked for. Who leaves the loop
        early should do so inside ``contextlib.aclosing``, which gives the last one back at once.
        """
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
        if_exists: str = "error",
        **fields: Any,
    ) -> bool:
        """As `TaskPool.publish`."""
        return await self._run(self.pool.publish, task, description, if_exists=if_exists, **fields)

    async def publish_many(
        self, tasks: Iterable[Mapping[str, Any]], *, if_exists: str = "error"
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

    async def tasks(self, state: str = AVAILABLE) -> AsyncIterator[dict[str, Any]]:
        """As `TaskPool.tasks`."""
        tasks = await self._run(self.pool.tasks, state)
        while (task := await self._run(next, tasks, None)) is not None:
            yield task

    async def counts(self) -> dict[str, int]:
        """As `TaskPool.counts`."""
        return await self._run(self.pool.counts)

    async def mine(self, agent_id: object) -> list[AsyncClaim]:
        """As `TaskPool.mine`."""
        return [AsyncClaim(self, claim) for claim in await self._run(self.pool.mine, agent_id)]

    async def why(self, task_id: object, capabilities: Iterable[str] | None = None) -> str:
        """As `TaskPool.why`."""
        return await self._run(self.pool.why, task_id, capabilities)

    async def prune(self, state: str, older_than: float, *, dry_run: bool = True) -> list[str]:
        """As `TaskPool.prune`."""
        return await self._run(self.pool.prune, state, older_than, dry_run=dry_run)

    # ----------------------------------------------------------------------------------------------

    async def _run(self, verb: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a verb in a thread; if cancelled, go on only when it has ended."""
        future = self._start(functools.partial(verb, *args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _ended(future)
            raise

    async def _run_claiming(self, call: Callable[[], list[Claim]]) -> list[Claim]:
        """Claim in a thread; if cancelled, give back what it claims."""
        future = self._start(call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            try:
                await _ended(future)
            finally:
                if future.exception() is None:
                    await _ended(self._start(functools.partial(_release_all, future.result())))
            raise

    def _start(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _claim(
        self, claim: Callable[[float], list[Claim]], timeout: float | None
    ) -> AsyncClaim:
        until_s = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left_s = until_s - time.monotonic()
            call = functools.partial(claim, min(left_s, _LONGEST_CALL_S))
            try:
                return AsyncClaim(self, (await self._run_claiming(call))[0])
            except LockTimeout:
                if left_s <= _LONGEST_CALL_S:
                    raise

    async def _claim_in_time(
        self,
        claim_next: Callable[[], Claim | None],
        select: Callable[[], tuple[Selection, View]],
        wait: float | None,
        at_claimed: bool,
    ) -> AsyncClaim | None:
        until_s = float("inf") if wait is None else time.monotonic() + wait

        def call() -> list[Claim]:
            claim = claim_next()
            return [] if claim is None else [_read(claim)]

        while not (claims := await self._run_claiming(call)):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return None
            await self._nap(select, left_s, at_claimed)
        return AsyncClaim(self, claims[0])

    def _view(self, order: str, capabilities: Iterable[str]) -> tuple[Selection, View]:
        selection = self.pool._selected()
        return selection, selection.view(order, capabilities)

    async def _nap(
        self, select: Callable[[], tuple[Selection, View]], left_s: float, at_claimed: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        selection, view = await self._run(select)
        wake = functools.partial(loop.call_soon_threadsafe, _resolve, woken)
        waiter = Waiter(view, wake, at_claimed=at_claimed, can_lead=False)
        was_interrupted = True
        try:
            pause_s = min(await self._run(selection.enlist, waiter), left_s)
            if pause_s > 0:
                with self._listening(selection, loop):
                    await asyncio.wait([woken], timeout=pause_s)
            was_interrupted = False
        finally:
            dismiss = functools.partial(selection.dismiss, waiter, was_interrupted=was_interrupted)
            await _ended(self._start(dismiss))

    @contextlib.contextmanager
    def _listening(self, selection: Selection, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Let the loop take in what the kernel tells, once for all who wait on it."""
        ear = self._ears.get(loop)
        if ear is None:
            ear = self._ears[loop] = _Ear(selection, loop, self._threads)
        ear.users += 1
        try:
            yield
        finally:
            ear.users -= 1
            if ear.users == 0:
                ear.close()
                del self._ears[loop]


class _Ear:
    """Hears for one event loop that something has changed, and has a thread take it in."""

    def __init__(
        self, selection: Selection, loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
    ) -> None:
        self.users = 0
        self._selection = selection
        self._loop = loop
        self._threads = threads
        descriptor = selection.fileno()
        # Our own: a loop knows one reader of a descriptor, and another pool may listen here, too.
        self._descriptor = None if descriptor is None else os.dup(descriptor)
        self._listen()

    def _listen(self, _: object = None) -> None:
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._hear)

    def _hear(self) -> None:
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)  # until it has been taken in
            refreshed = self._loop.run_in_executor(self._threads, self._selection.refresh)
            refreshed.add_done_callback(self._listen)

    def close(self) -> None:
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


async def _ended(future: asyncio.Future[Any]) -> None:
    """Wait until a thread has ended its call, and only then be cancelled."""
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            was_cancelled = True
    if was_cancelled:
        raise asyncio.CancelledError


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _read(claim: Claim) -> Claim:
    """Read the task while we are in a thread."""
    try:
        claim.task  # noqa: B018
    except (TaskPoolError, OSError):
        pass  # whoever asks for it will be told
    return claim


def _release_all(claims: Iterable[Claim]) -> None:
    for claim in claims:
        with contextlib.suppress(TaskPoolError, OSError):  # lost to us already
            claim.release()
