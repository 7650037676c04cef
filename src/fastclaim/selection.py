"""Which task next: the waiting tasks that a process knows of, and waiting for more.

Each process keeps, per pool, the views that its agents asked for (`views`), fed from one inotify
instance (`changes`). Any number of threads share them: one of those that wait, the *leader*, blocks
on inotify and wakes as many of the others as there is work for.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock  # `threading` takes ten times as long to import

from . import layout, outcome
from .changes import TASKS, Change, Changes
from .directories import Directories
from .errors import (
    AlreadyClaimed,
    InvalidName,
    InvalidTask,
    KeyHeld,
    LockTimeout,
    NameCollision,
    PoolPaused,
    TaskNotAvailable,
)
from .matching import ANY, ORDERS, Capabilities
from .views import BUSY_S, AnyView, OrderedView, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final, TypeAlias

    from .claim import Claim
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


Attempt: TypeAlias = "Callable[[str, bytes | None], tuple[int, Claim | None]]"
"""Claims the task in a file of this name with these capabilities, without waiting: what
`claiming.claim` came to, and the claim; ABSENT if somebody else was faster."""


class Waiter:
    """Somebody who waits until a view may have something; `wake` is called at most once."""

    def __init__(
        self, view: View, wake: Callable[[], object], *, at_claimed: bool, can_lead: bool
    ) -> None:
        self.view = view
        self.at_claimed = at_claimed  # whether any end of a claim is a reason, too
        self.can_lead = can_lead
        self.is_awake = False
        self._wake = wake

    def wake(self) -> None:
        """Let it try again."""
        if not self.is_awake:
            self.is_awake = True
            self._wake()


class Selection:
    """What one process knows of a pool's waiting tasks. Safe from threads, not across a fork."""

    def __init__(self, pool: Directories, ask_kernel: bool) -> None:
        self._pool = pool
        self._asks_kernel = ask_kernel
        self._changes = Changes(pool, ask_kernel)
        self._changes.follow(layout.AVAILABLE)  # before anything is read
        self._lock = allocate_lock()
        self._views: dict[tuple[str, Capabilities], View] = {}
        self._waiters: list[Waiter] = []
        self._leader: Waiter | None = None
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
        key = (order, tuple(capabilities))
        view = self._views.get(key)
        if view is not None:
            return view
        if order not in ORDERS:
            raise ValueError(f"order {order!r} is none of {', '.join(ORDERS)}")
        if isinstance(capabilities, str | bytes):
            raise TypeError(f"capabilities is a list of names, not {capabilities!r}")
        with self._lock:
            if len(self._views) >= _MOST_VIEWS:
                del self._views[next(iter(self._views))]
            return self._views.setdefault(key, self._new_view(*key))

    def _new_view(self, order: str, capabilities: Capabilities) -> View:
        if order == ANY:
            return AnyView(self._pool, self._changes, capabilities)
        budget_bytes = _BUDGET_BYTES // (len(self._views) + 1)
        return OrderedView(self._pool, self._changes, capabilities, order, budget_bytes)

    # Selecting --------------------------------------------------------------------------------

    def claim_one(self, view: View, attempt: Attempt) -> Claim | None:
        """Claim the first of a view's tasks that can be claimed; None if there is none."""
        claim, was_busy = self._claim_first(view, attempt)
        if claim is None and was_busy:
            # Whoever looks whether a task is for him holds it for microseconds.
            time.sleep(BUSY_S)
            claim, _ = self._claim_first(view, attempt)
        return claim

    def _claim_first(self, view: View, attempt: Attempt) -> tuple[Claim | None, bool]:
        """The claim, or None, and whether others were in the middle of a transition of a task."""
        was_busy = False
        started_s = time.monotonic()
        while (name := self._take(view, started_s)) is not None:
            try:
                came_to, claim = self._try(view, name, attempt)
                if came_to == outcome.UNJUDGED:
                    continue  # not for this agent, or not yet
                if came_to == outcome.BUSY:
                    was_busy = True
                    with self._lock:
                        view.busy(name)
                    continue
            except KeyHeld as error:
                self._park(view, name, Change(layout.CLAIMED, error.claim_name))
            except (PoolPaused, LockTimeout, TaskNotAvailable) as error:
                if isinstance(error, AlreadyClaimed):
                    continue  # not waiting, though it stands there; `why` says so
                with self._lock:
                    if not isinstance(error, PoolPaused):
                        was_busy = True
                        view.busy(name)
                        continue
                    view.tell([name])  # the next to try, once the pause is over
                    if not self._changes.follow(TASKS):
                        self._paused_until_s = error.until
                        return None, was_busy
            except (InvalidTask, InvalidName, NameCollision):
                pass  # not claimable as it stands; `why` says why
            except BaseException:
                with self._lock:
                    view.tell([name])  # as far as we know it is still there
                raise
            else:
                if claim is not None:
                    view.hit()
                    return claim, was_busy
                with self._lock:
                    view.missed()
        return None, was_busy

    def _try(self, view: View, name: str, attempt: Attempt) -> tuple[int, Claim | None]:
        """Claim it; it is read and judged before only if the claim itself cannot tell."""
        try:
            came_to, claim = attempt(name, view.claims_with)
        except PermissionError:
            came_to, claim = outcome.UNJUDGED, None  # if we may not read it, it is not for us
        if came_to != outcome.UNJUDGED:
            return came_to, claim
        with self._lock:
            if not view.judge(name):
                return outcome.UNJUDGED, None
        return attempt(name, None)

    def _take(self, view: View, started_s: float) -> str | None:
        with self._lock:
            try:
                name = None
                if view.is_eager and self._changes.blind and self._is_late(view, _BLIND_LOOK_S):
                    view.rescan()
                if view.has_names:
                    name = view.take()
                if name is None:
                    self._refresh()
                    name = view.take()
                if name is None and self._may_have_more(view, started_s):
                    view.rescan()
                    name = view.take()
            except BaseException:
                view.invalidate()
                raise
        return name

    def _may_have_more(self, view: View, started_s: float) -> bool:
        """Whether a view that has nothing should read the directory again, though not told to."""
        if self._changes.blind:
            return view.scanned_at_s < started_s
        return self._is_late(view, _BLIND_LOOK_S if view.has_forgotten else _SLOW_LOOK_S)

    def _is_late(self, view: View, every_s: float) -> bool:
        every_s = max(every_s, view.scan_took_s / _LOOKING_SHARE)
        return time.monotonic() - view.scanned_at_s > every_s

    def _park(self, view: View, name: str, until: Change) -> None:
        with self._lock:
            self._changes.follow(until.state)
            view.park(name, until)
            # It may have come about before we followed it, or while we did not hold the lock.
            if not os.path.lexists(os.path.join(self._pool.tasks_path, until.state, until.name)):
                view.fire(until)

    # What has changed -------------------------------------------------------------------------

    def fileno(self) -> int | None:
        """What becomes readable when `refresh` would have something to tell, if it can be told."""
        return None if self._changes.blind else self._changes.fileno()

    def refresh(self) -> None:
        """Take in what has changed, and wake those who wait for it."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        changes = self._changes.read()
        if changes is None:
            self._invalidate_all()
            return
        for state, names in changes.items():
            if state == layout.AVAILABLE:
                self._tell(names)
            elif state == layout.OWNERS:
                if not all(name.endswith(layout.LEASE_SUFFIX) for name in names):
                    now_s = time.monotonic()
                    self._owner_looks_s = [now_s + after_s for after_s in _OWNER_LOOKS_S]
                if self._leader is None and self._waiters:
                    self._waiters[0].wake()  # somebody has to look
            elif state == TASKS:
                if layout.PAUSED in names:
                    self._paused_until_s = 0.0
                    self._wake_all()
            else:
                for name in names:
                    self._fire(Change(state, name))

    def _tell(self, names: list[str]) -> None:
        for view in self._views.values():
            view.tell(names)
        self._wake_for(len(names))

    def _fire(self, change: Change) -> None:
        for view in self._views.values():
            view.fire(change)
        for waiter in self._waiters:
            if (waiter.at_claimed and change.state == layout.CLAIMED) or waiter.view.has_work:
                waiter.wake()

    def _wake_for(self, tasks: int) -> None:
        """Of each view wake as many as there are new tasks; the leader is awake already."""
        left: dict[View, int] = {}
        if self._leader is not None:
            left[self._leader.view] = tasks - 1
        for waiter in self._waiters:
            if waiter is self._leader or waiter.is_awake:
                continue
            if left.setdefault(waiter.view, tasks) > 0:
                left[waiter.view] -= 1
                waiter.wake()

    def _invalidate_all(self) -> None:
        for view in self._views.values():
            view.invalidate()
        self._wake_all()

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            waiter.wake()

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
        try:
            while True:
                if not (looks_due and look_after_owners()):
                    left_s = until_s - time.monotonic()
                    if left_s <= 0:
                        return None
                    if turnstile is None or _may_listen(turnstile):
                        self._nap(view, left_s, at_claimed)
                        looks_due = self.is_look_due()
                    else:
                        looks_due = self._sleep(turnstile, view, left_s)
                claim = claim_one()
                if claim is not None:
                    return claim
        finally:
            if turnstile is not None:
                turnstile.leave()
            self._hand_over()

    def _turnstile(self, view: View) -> Turnstile | None:
        """Where this process queues with others that wait for the same tasks, if it can.

        One of its threads does; the others wait as if there were no other process.
        """
        import weakref

        from .turnstile import Turnstile

        with self._lock:
            if self._queueing() is not None or self._waiters or not self._asks_kernel:
                return None
            try:
                turnstile = Turnstile(self._pool.tasks_path, view.kind)
            except OSError:
                return None
            self._queueing = weakref.ref(turnstile)
        return turnstile

    def _sleep(self, turnstile: Turnstile, view: View, left_s: float) -> bool:
        """Leave it to others to listen until it is our turn; whether somebody may have died."""
        with self._lock:
            # Others need the instances more, but what takes long to read is not to be read anew.
            if not self._waiters and view.names_read < _FEW_NAMES:
                self._changes.release()
                self._pool.deaths().release()
        turnstile.sleep(min(left_s, _SLOW_LOOK_S))
        if not _may_listen(turnstile):
            return False
        with self._lock:
            if self._changes.resume():
                self._invalidate_all()
        return self.is_look_due()

    def enlist(self, waiter: Waiter) -> float:
        """Wake this waiter when there may be something; returns for how many seconds to wait."""
        with self._lock:
            self._waiters.append(waiter)
            if self._changes.resume():
                self._invalidate_all()
            followed = self._changes.follow(layout.OWNERS)
            if waiter.at_claimed:
                followed |= self._changes.follow(layout.CLAIMED)
            if followed:
                return 0.0  # what came about before must be looked for
            leads = waiter.can_lead and self._leader is None
            if leads:
                self._leader = waiter
            return self._pause_s(waiter.view, looks=leads or not waiter.can_lead)

    def dismiss(self, waiter: Waiter, *, was_interrupted: bool = False) -> None:
        """Wake it no more."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if self._leader is waiter:
                try:
                    self._refresh()
                finally:
                    self._leader = None
            if was_interrupted and waiter.is_awake:
                self._wake_for(1)  # what it was woken for is still to be had

    def is_look_due(self) -> bool:
        """Whether the one who asks should look after dead owners, and after the watch itself."""
        deaths = self._pool.deaths()
        is_lease_over = deaths.lease_ends_in_s() <= 0
        now_s = time.monotonic()
        with self._lock:
            every_s = _BLIND_OWNERS_S if self._changes.blind else _SLOW_LOOK_S
            is_slow_look = now_s - self._looked_at_s > every_s
            due = [look_s for look_s in self._owner_looks_s if look_s <= now_s]
            self._owner_looks_s = self._owner_looks_s[len(due) :]
            if is_slow_look:
                self._looked_at_s = now_s
                if not self._changes.check():
                    self._invalidate_all()
        return is_slow_look or is_lease_over or bool(due) or deaths.owes_look

    def _pause_s(self, view: View, looks: bool) -> float:
        paused_s = self._paused_until_s - time.time()
        pause_s = min(paused_s if paused_s > 0 else view.due_in_s(), _SLOW_LOOK_S)
        if self._changes.blind:
            pause_s = min(pause_s, max(_BLIND_LOOK_S, view.scan_took_s / _LOOKING_SHARE))
        if looks:
            if self._owner_looks_s:
                pause_s = min(pause_s, self._owner_looks_s[0] - time.monotonic())
            pause_s = min(pause_s, self._pool.deaths().lease_ends_in_s())
        return max(pause_s, 0.0)

    def _nap(self, view: View, left_s: float, at_claimed: bool) -> None:
        gate = allocate_lock()
        gate.acquire()
        waiter = Waiter(view, gate.release, at_claimed=at_claimed, can_lead=True)
        was_interrupted = True
        try:
            pause_s = min(self.enlist(waiter), left_s)
            if pause_s <= 0:
                pass
            elif waiter is self._leader:
                self._changes.wait(pause_s)
            else:
                gate.acquire(timeout=pause_s)
            was_interrupted = False
        finally:
            try:
                self.dismiss(waiter, was_interrupted=was_interrupted)
            except BaseException:
                self.dismiss(waiter, was_interrupted=True)  # again: it was interrupted itself
                raise

    def _hand_over(self) -> None:
        """Who stops waiting leaves somebody else to listen."""
        with self._lock:
            if self._leader is None:
                for waiter in self._waiters:
                    if waiter.can_lead:
                        waiter.wake()
                        return


def _may_listen(turnstile: Turnstile) -> bool:
    """Whether we have a place among those who listen, or there can be none."""
    try:
        return turnstile.enter()
    except OSError:
        return True  # somebody has cleared it away, or the process has no descriptor left
