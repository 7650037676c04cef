"""Which task next: the waiting tasks that a process knows of, and waiting for more.

Each process keeps, per pool, the views that its agents asked for (`views`), fed from one inotify
instance (`changes`). Any number of threads share them: one of those that wait, the *leader*, blocks
on inotify and wakes as many of the others as there is work for.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock  # `threading` takes ten times as long to import

from . import layout
from .changes import TASKS, Change, Changes
from .directories import Directories
from .matching import ANY, Capabilities, check_order, no_capabilities
from .search import Search
from .views import BUSY_S, AnyView, OrderedView, View
from .waiters import Waiter, Waiters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

    from .claim import Claim
    from .search import Attempt
    from .turnstile import Turnstile

# What the views of one process may take together; a view of a million names has some 40 MiB.
_BUDGET_BYTES: Final = 48 * 1024 * 1024
_MOST_VIEWS: Final = 8
# So many are read anew in a millisecond or two.
_FEW_NAMES: Final = 250
# How often to look by ourselves: for what the kernel does not tell (another host's changes), and
# where it tells nothing.
_SLOW_LOOK_S: Final = 30.0
_BLIND_LOOK_S: Final = 0.1
_BLIND_OWNERS_S: Final = 1.0
# ... but for no more than this share of the time.
_LOOKING_SHARE: Final = 0.05
# The kernel tells that an owner's file was closed a moment before it drops the flock.
_OWNER_LOOKS_S: Final = (0.0, 0.002, 0.02, 0.2)


class Selection:
    """What one process knows of a pool's waiting tasks. Safe from threads, not across a fork."""

    def __init__(self, pool: Directories, ask_kernel: bool) -> None:
        self._pool = pool
        self._asks_kernel = ask_kernel
        self._changes = Changes(pool, ask_kernel)
        self._changes.follow(layout.AVAILABLE)  # before anything is read
        self.lock = allocate_lock()
        self._views: dict[tuple[str, Capabilities], View] = {}
        self._waiters = Waiters()
        self.news = 0  # counts what has come about, as far as is known
        # The turnstile that one of this process's threads is at.
        self._queueing: Callable[[], Turnstile | None] = lambda: None
        self._owner_looks_s: list[float] = []
        self._looked_at_s = time.monotonic()
        self._paused_until_s = 0.0  # since the epoch

    def view(self, order: str, capabilities: Iterable[object]) -> View:
        """The tasks for agents with these capabilities, in this order.

        Raises
        ------
        ValueError
            There is no such order.
        TypeError
            `capabilities` is a string, or not made of strings.
        """
        try:
            key = (order, tuple(capabilities))
            view = self._views.get(key)
        except TypeError:
            check_order(order)
            raise no_capabilities(capabilities) from None
        if view is not None:
            return view
        check_order(order)
        if isinstance(capabilities, str | bytes):
            raise no_capabilities(capabilities)
        with self.lock:
            if len(self._views) >= _MOST_VIEWS:
                del self._views[next(iter(self._views))]
            return self._views.setdefault(key, self._new_view(*key))

    def _told_views(self) -> set[View]:
        """Those that hear of changes: a view may be waited with though there are newer ones."""
        return {*self._views.values(), *(waiter.view for waiter in self._waiters.all)}

    def _new_view(self, order: str, capabilities: Capabilities) -> View:
        if order == ANY:
            return AnyView(self._pool, self._changes, capabilities)
        budget_bytes = _BUDGET_BYTES // (len(self._views) + 1)
        return OrderedView(self._pool, self._changes, capabilities, order, budget_bytes)

    # Selecting --------------------------------------------------------------------------------

    def claim_at_once(self, view: View, claim_one: Callable[[], Claim | None]) -> Claim | None:
        """Call `claim_one`, and let those who wait know what it has left."""
        claim = claim_one()
        if self._waiters.all:
            self.pass_on(view)
        return claim

    def claim_one(self, view: View, attempt: Attempt) -> Claim | None:
        """Claim the first of a view's tasks that can be claimed; None if there is none.

        Raises
        ------
        OSError
            The system refused; if it was one task alone that it refused, there was no other.
        """
        search = Search(self, view, attempt)
        if (claim := search.run()) is not None or not search.was_busy:
            return claim
        # Whoever looks whether a task is for him holds it for microseconds.
        time.sleep(BUSY_S)
        return search.run()

    def take(self, view: View, started_s: float, due_s: float) -> str | None:
        """The next task to try, as a search that began then (monotonic) finds it.

        For `due_s` see `View.take`.
        """
        with self.lock:
            try:
                name = None
                if view.is_eager and self._changes.blind and self._is_late(view, _BLIND_LOOK_S):
                    view.rescan()
                if view.names:
                    name = view.take(due_s)
                if name is None:
                    self._refresh()
                    name = view.take(due_s)
                if name is None and self._may_have_more(view, started_s):
                    self._check()
                    view.rescan()
                    name = view.take(due_s)
            except BaseException:
                view.invalidate()
                raise
        return name

    def invalidate(self, view: View) -> None:
        """Let a view be read anew: a task that it no more knows of may not have been tried."""
        with self.lock:
            view.invalidate()
            self._waiters.pass_on(view)

    def _check(self) -> None:
        """Follow what stands there now, if it is not what was followed."""
        if not self._changes.check():
            self._invalidate_all()

    def _may_have_more(self, view: View, started_s: float) -> bool:
        """Whether a view that has nothing should read the directory again, though not told to."""
        if self._changes.blind:
            return view.scanned_at_s < started_s
        return self._is_late(view, _BLIND_LOOK_S if view.has_forgotten else _SLOW_LOOK_S)

    def _is_late(self, view: View, every_s: float) -> bool:
        every_s = max(every_s, view.scan_took_s / _LOOKING_SHARE)
        return time.monotonic() - view.scanned_at_s > every_s

    def park(self, view: View, name: str, until: Change) -> None:
        """Leave a task alone until something changes."""
        with self.lock:
            self._changes.follow(until.state)
            view.park(name, until)
            # It may have come about before we followed it, or while we did not hold the lock.
            if not os.path.lexists(os.path.join(self._pool.tasks_path, until.state, until.name)):
                view.fire(until)

    def put_back(self, view: View, names: list[str]) -> None:
        """These could not be claimed, and nothing says that others cannot."""
        with self.lock:
            view.tell(names)
            self._waiters.pass_on(view)

    def refuse(self, view: View, name: str, agent_id: object) -> None:
        """This agent cannot claim that task, though others of the view may."""
        with self.lock:
            if view.refuse(name, agent_id):
                self._waiters.wake_one(view)

    def heed_pause(self, view: View, name: str, until_s: float) -> bool:
        """The pool is paused; whether we have only now begun to listen for the end of it."""
        with self.lock:
            view.tell([name])  # the next to try, once the pause is over
            if self._changes.follow(TASKS):
                return True
            self._paused_until_s = until_s
            return False

    # What has changed -------------------------------------------------------------------------

    def fileno(self) -> int | None:
        """What becomes readable when `refresh` would have something to tell, if it can be told."""
        return None if self._changes.blind else self._changes.fileno()

    def refresh(self) -> None:
        """Take in what has changed, and wake those who wait for it."""
        with self.lock:
            self._refresh()

    def _refresh(self, reader: Waiter | None = None) -> None:
        """Take in what has changed; `reader` is the waiter who does, and then looks."""
        try:
            changes = self._changes.read()
            if changes is None:
                self._invalidate_all()
                return
            for state, names in changes.items():
                self.news += 1
                self._take_in(state, names, reader)
        except BaseException:
            self._invalidate_all()  # what was read and not told is lost
            raise

    def _take_in(self, state: str, names: list[str], reader: Waiter | None) -> None:
        if state == layout.AVAILABLE:
            for view in self._told_views():
                view.tell(names)
            self._waiters.wake_for(len(names), reader)
        elif state == layout.OWNERS:
            if any(name.endswith(layout.OWNER_SUFFIX) for name in names):
                now_s = time.monotonic()
                self._owner_looks_s = [now_s + after_s for after_s in _OWNER_LOOKS_S]
            if reader is None:
                self._waiters.wake_somebody()
        elif state == TASKS:
            if layout.PAUSED in names:
                self._paused_until_s = 0.0
                self._waiters.wake_all()
        else:
            for name in names:
                self._fire(Change(state, name))

    def _fire(self, change: Change) -> None:
        for view in self._told_views():
            view.fire(change)
        self._waiters.wake_those_with_work(was_claimed=change.state == layout.CLAIMED)

    def _invalidate_all(self) -> None:
        self.news += 1
        for view in self._told_views():
            view.invalidate()
        self._waiters.wake_all()

    # Waiting ----------------------------------------------------------------------------------

    def claim_later(
        self,
        view: View,
        claim_one: Callable[[], Claim | None],
        look_after_owners: Callable[[], bool],
        wait_s: float | None,
        *,
        at_claimed: bool,
    ) -> Claim | None:
        """Call `claim_one`, which has claimed nothing, again whenever there may be something.

        Parameters
        ----------
        look_after_owners : callable
            Gives back the claims of dead processes; says whether something came back.
        wait_s : float or None
            Seconds; None waits as long as it takes.
        at_claimed : bool
            Whether any end of a claim is a reason to try again.

        Returns
        -------
        Claim or None
            None if the time is over.
        """
        until_s = float("inf") if wait_s is None else time.monotonic() + wait_s
        looks_due = True
        turnstile = None if at_claimed or wait_s == 0.0 else self._turnstile(view)
        seen = -1
        try:
            while True:
                if not (looks_due and look_after_owners()):
                    left_s = until_s - time.monotonic()
                    if left_s <= 0:
                        return None
                    if turnstile is None or _may_listen(turnstile):
                        self._nap(view, left_s, at_claimed, seen)
                        looks_due = self.is_look_due()
                    else:
                        looks_due = self._sleep(turnstile, view, left_s)
                seen = self.news
                claim = claim_one()
                if claim is not None:
                    return claim
                if turnstile is not None and view.refused:
                    # Others may have what we cannot, and need our place to hear of it.
                    turnstile.leave()
                    turnstile = None
        finally:
            if turnstile is not None:
                turnstile.leave()
            self.pass_on(view)

    def _turnstile(self, view: View) -> Turnstile | None:
        """Where this process queues with others that wait for the same tasks, if it can.

        One of its threads does; the others wait as if there were no other process.
        """
        with self.lock:
            if self._queueing() is not None or self._waiters.all or not self._asks_kernel:
                return None
            try:
                import weakref  # that takes a descriptor, too

                from .turnstile import Turnstile

                turnstile = Turnstile(self._pool.tasks_path, view.kind)
            except OSError:
                return None
            self._queueing = weakref.ref(turnstile)
        return turnstile

    def _sleep(self, turnstile: Turnstile, view: View, left_s: float) -> bool:
        """Leave it to others to listen until it is our turn; whether somebody may have died."""
        with self.lock:
            # Others need the instances more, but what takes long to read is not to be read anew.
            if not self._waiters.all and view.names_read < _FEW_NAMES:
                self._changes.release()
                self._pool.deaths().release()
        turnstile.sleep(min(left_s, _SLOW_LOOK_S))
        if not _may_listen(turnstile):
            return False
        with self.lock:
            if self._changes.resume():
                self._invalidate_all()
        return self.is_look_due()

    def enlist(self, waiter: Waiter) -> float:
        """Wake this waiter when there may be something; returns for how many seconds to wait."""
        with self.lock:
            if waiter.view not in self._views.values():
                waiter.view.invalidate()  # it was told of nothing meanwhile
            self._waiters.add(waiter)
            if self._changes.resume():
                self._invalidate_all()
            followed = self._changes.follow(layout.OWNERS)
            if waiter.at_claimed:
                followed |= self._changes.follow(layout.CLAIMED)
                followed |= waiter.seen != self.news
            if followed:
                return 0.0  # what came about before must be looked for
            return self._pause_s(waiter)

    def dismiss(self, waiter: Waiter, *, was_interrupted: bool = False) -> None:
        """Wake it no more."""
        with self.lock:
            try:
                if waiter is self._waiters.leader:
                    self._refresh(None if was_interrupted else waiter)
            finally:
                self._waiters.remove(waiter)
                if was_interrupted:
                    self._waiters.pass_on(waiter.view)

    def pass_on(self, view: View) -> None:
        """Whoever looks at a view no more leaves to others what it still has, and listening."""
        with self.lock:
            self._waiters.pass_on(view)

    def is_look_due(self) -> bool:
        """Whether the one who asks should look after dead owners, and after the watch itself."""
        deaths = self._pool.deaths()
        is_time_over = deaths.next_look_in_s() <= 0
        now_s = time.monotonic()
        with self.lock:
            every_s = _BLIND_OWNERS_S if self._changes.blind else _SLOW_LOOK_S
            is_slow_look = now_s - self._looked_at_s > every_s
            due = [look_s for look_s in self._owner_looks_s if look_s <= now_s]
            self._owner_looks_s = self._owner_looks_s[len(due) :]
            if is_slow_look:
                self._looked_at_s = now_s
                self._check()
        return is_slow_look or is_time_over or bool(due) or deaths.owes_look

    def _pause_s(self, waiter: Waiter) -> float:
        view = waiter.view
        due_s = view.due_in_s()
        if waiter.at_claimed and due_s <= 0:
            due_s = float("inf")  # it has just looked: what is there is not for it
        paused_s = self._paused_until_s - time.time()
        pause_s = min(paused_s if paused_s > 0 else due_s, _SLOW_LOOK_S)
        if self._changes.blind:
            pause_s = min(pause_s, max(_BLIND_LOOK_S, view.scan_took_s / _LOOKING_SHARE))
        if waiter is self._waiters.leader or not waiter.can_lead:
            if self._owner_looks_s:
                pause_s = min(pause_s, self._owner_looks_s[0] - time.monotonic())
            pause_s = min(pause_s, self._pool.deaths().next_look_in_s())
        return max(pause_s, 0.0)

    def _nap(self, view: View, left_s: float, at_claimed: bool, seen: int) -> None:
        gate = allocate_lock()
        gate.acquire()
        waiter = Waiter(view, gate.release, at_claimed=at_claimed, can_lead=True, seen=seen)
        was_interrupted = True
        try:
            pause_s = min(self.enlist(waiter), left_s)
            if pause_s > 0:
                if waiter is self._waiters.leader:
                    self._listen(waiter, pause_s)
                else:
                    gate.acquire(timeout=pause_s)
            was_interrupted = False
        finally:
            try:
                self.dismiss(waiter, was_interrupted=was_interrupted)
            except BaseException:
                self.dismiss(waiter, was_interrupted=True)  # again: it was interrupted itself
                raise

    def _listen(self, waiter: Waiter, pause_s: float) -> None:
        """Wait for the kernel's word, or for that of another thread, who may have read it first."""
        if self._changes.blind:
            self._changes.wait(pause_s)
            return
        try:
            from .bell import Bell  # which takes a descriptor, too

            bell = Bell()
        except OSError:
            self._changes.wait(min(pause_s, _BLIND_LOOK_S))
            return
        with self.lock:
            waiter.bell = bell
        if not waiter.is_awake:
            self._changes.wait(pause_s, bell)


def _may_listen(turnstile: Turnstile) -> bool:
    """Whether we have a place among those who listen, or there can be none."""
    try:
        return turnstile.enter()
    except OSError:
        return True  # somebody has cleared it away, or the process has no descriptor left
