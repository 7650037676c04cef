"""What a coroutine that waits for a task is woken by: `selecting.claim_next` without a thread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from . import selecting

if TYPE_CHECKING:
    from .claiming import Wanted
    from .database import Database
    from .session import Waiter

Run = Callable[..., Coroutine[Any, Any, Any]]


class News:
    """One coroutine's wait.

    Parameters
    ----------
    database : Database
        Where.
    wanted : Wanted
        What it waits for.
    run : callable
        Calls a function, with arguments, in a thread; a coroutine function.
    """

    def __init__(self, database: Database, wanted: Wanted, run: Run) -> None:
        self._database = database
        self._kind = selecting.kind(wanted)
        self._pauses = selecting.Pauses(database)
        self._run = run
        self._waiting = contextlib.ExitStack()
        self._waiter: Waiter | None = None
        self._rung = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def sleep(self, left_s: float) -> None:
        """Return when there may be a task, or after this many seconds; then a look is owed.

        Raises
        ------
        PoolUnavailable
            The server cannot be reached, or refuses.
        """
        if self._waiter is None:
            self._loop = asyncio.get_running_loop()
            listening = self._database.waiting(self._kind, self._ring)
            self._waiter = self._waiting.enter_context(listening)
            # What came before it was armed was not heard: that is for the look.
        else:
            await self._until_rung(left_s)
        # Not in a thread, and so without patience: it is rung as soon as the session listens.
        self._rung.clear()
        self._waiter.arm(0.0)

    async def _until_rung(self, left_s: float) -> None:
        until_s = time.monotonic() + left_s
        pause_s = await self._run(self._pauses.next_s, left_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(pause_s, until_s - time.monotonic())):
                await self._rung.wait()

    def _ring(self) -> bool:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:
            return False  # the loop was closed with the coroutine still waiting
        return True

    def close(self) -> None:
        """End the wait, after the look."""
        self._waiting.close()
        self._waiter = None

    async def pass_on(self) -> None:
        """End the wait without the look: another is woken in its place."""
        self.abandon()

    def abandon(self) -> None:
        """The same where nothing can be awaited; the session's lock may be held."""
        if self._waiter is not None:
            self._waiter.is_awake = True
        self.close()
