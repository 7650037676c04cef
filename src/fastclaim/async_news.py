"""What wakes a coroutine that waits for a task in a directory: its event loop hears inotify."""

from __future__ import annotations

import asyncio
import contextlib
import os
from _thread import start_new_thread
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol

from .selection import Selection
from .views import View
from .waiters import Waiter

if TYPE_CHECKING:
    from .aio import AsyncTaskPool

_MOST_THREADS: Final = 32


class News(Protocol):
    """What a coroutine that waits for a task is woken by."""

    async def sleep(self, left_s: float) -> None:
        """Return when there may be something, or after this many seconds; then a look is owed."""

    def close(self) -> None:
        """End the wait, after the look."""

    async def pass_on(self) -> None:
        """End the wait without the look: another is woken, if one was owed. Never cancelled."""

    def abandon(self) -> None:
        """The same where nothing can be awaited, and any lock may be held."""


class DirectoryNews:
    """What the kernel tells of a directory."""

    def __init__(
        self, tasks: AsyncTaskPool, order: str, capabilities: Iterable[str], *, at_claimed: bool
    ) -> None:
        self._tasks = tasks
        self._terms = order, capabilities
        self._at_claimed = at_claimed
        self._last: tuple[Selection, Waiter] | None = None
        self._seen = -1  # of the selection's news, before the last look

    def _view(self) -> tuple[Selection, View]:
        selection = self._tasks.pool._selected()
        return selection, selection.view(*self._terms)

    async def sleep(self, left_s: float) -> None:
        run = self._tasks._run
        selection, view = await run(self._view)
        bell = _Bell(asyncio.get_running_loop(), self.abandon)
        waiter = Waiter(
            view, bell.ring, at_claimed=self._at_claimed, can_lead=False, seen=self._seen
        )
        self._last = selection, waiter
        pause_s = min(await run(selection.enlist, waiter), left_s)
        if pause_s > 0:
            with self._tasks._in_process().listening(selection, bell.loop):
                await asyncio.wait([bell.rung], timeout=pause_s)
        await run(selection.dismiss, waiter)
        self._seen = selection.news

    def close(self) -> None:
        self._last = None  # it was dismissed when it woke

    async def pass_on(self) -> None:
        await ended(asyncio.wrap_future(self._tasks._start(self._pass_on)))

    def abandon(self) -> None:
        in_a_new_thread(self._pass_on)

    def _pass_on(self) -> None:
        if self._last is not None:
            selection, waiter = self._last
            selection.dismiss(waiter, was_interrupted=True)
            self._last = None


class _Bell:
    """Wakes a coroutine from any thread.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The coroutine's.
    without_loop : callable
        What to do instead when the loop was closed with the coroutine still waiting.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, without_loop: Callable[[], object]) -> None:
        self.loop = loop
        self.rung = loop.create_future()
        self._without_loop = without_loop

    def ring(self) -> None:
        try:
            self.loop.call_soon_threadsafe(_resolve, self.rung)
        except RuntimeError:
            self._without_loop()


class InProcess:
    """What an `AsyncTaskPool` has in one process: nothing of it works in a forked child."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="fastclaim")
        self._ears: dict[asyncio.AbstractEventLoop, _Ear] = {}

    @contextlib.contextmanager
    def listening(self, selection: Selection, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Let the loop take in what the kernel tells, once for all who wait on it."""
        ear = self._ears.get(loop)
        if ear is None:
            ear = self._ears[loop] = _Ear(selection, loop, self.threads)
        ear.users += 1
        try:
            yield
        finally:
            ear.users -= 1
            if ear.users == 0:
                ear.close()
                del self._ears[loop]

    def forget(self) -> None:
        """In a forked child: the loops, and what they poll with, are the parent's."""
        for ear in self._ears.values():
            ear.forget()


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
            self.forget()

    def forget(self) -> None:
        """Close the descriptor, and leave the loop alone."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def ended(future: asyncio.Future[Any]) -> None:
    """Wait until a thread has ended its call, and only then be cancelled."""
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            was_cancelled = True
    if was_cancelled:
        raise asyncio.CancelledError


def in_a_new_thread(call: Callable[[], object]) -> None:
    """Where locks may be held: by whom a callback is called, or whom the garbage collector stops.

    So this takes none itself, as `threading` and executors do.
    """

    def quietly() -> None:
        with contextlib.suppress(Exception):  # nobody is there to be told
            call()

    with contextlib.suppress(RuntimeError):  # no thread can be started: the interpreter ends
        start_new_thread(quietly, ())


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
