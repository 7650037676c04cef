"""Who in this process waits for tasks, and whom to wake for what. Not safe from threads by itself.

A wake is owed until somebody has looked. So whoever takes in news wakes as many of those who wait
for them as there are tasks, and whoever leaves, for whatever reason, passes on what its view still
has. Nobody counts as awake but who was woken, or takes in the news itself and then looks.
"""

from __future__ import annotations

from .views import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .bell import Bell


class Waiter:
    """Somebody who waits until a view may have something; `wake` is called at most once.

    Parameters
    ----------
    view : View
        What it waits for.
    wake : callable
        Lets it try again.
    at_claimed : bool
        Whether its agent may have all the claims it is allowed: any end of a claim is a reason to
        try again then, and what the view has may not be for it.
    can_lead : bool
        Whether it can listen to the kernel for the others.
    seen : int
        The `Selection.news` before its last look.
    """

    def __init__(
        self,
        view: View,
        wake: Callable[[], object],
        *,
        at_claimed: bool,
        can_lead: bool,
        seen: int = 0,
    ) -> None:
        self.view = view
        self.at_claimed = at_claimed
        self.can_lead = can_lead
        self.seen = seen
        self.is_awake = False
        self.bell: Bell | None = None  # of who listens to the kernel, and would not hear `wake`
        self._wake = wake

    def wake(self) -> None:
        """Let it try again."""
        if not self.is_awake:
            self.is_awake = True
            self._wake()
            if self.bell is not None:
                self.bell.ring()


class Waiters:
    """Those who wait, in their order, and the one of them that listens to the kernel.

    Attributes
    ----------
    all : list of Waiter
        In the order in which they came.
    leader : Waiter or None
        Who listens.
    """

    def __init__(self) -> None:
        self.all: list[Waiter] = []
        self.leader: Waiter | None = None

    def add(self, waiter: Waiter) -> None:
        """Begin to wait; lead, if nobody does."""
        self.all.append(waiter)
        if waiter.can_lead and self.leader is None:
            self.leader = waiter

    def remove(self, waiter: Waiter) -> None:
        """Wait no more; again: nothing."""
        if waiter in self.all:
            self.all.remove(waiter)
        if self.leader is waiter:
            self.leader = None

    def wake_for(self, tasks: int, reader: Waiter | None) -> None:
        """Of each view wake as many as there are new tasks, the one who reads of them included."""
        left: dict[View, int] = {}
        if reader is not None and not reader.at_claimed:
            left[reader.view] = tasks - 1
        for waiter in self.all:
            if waiter is reader or waiter.is_awake:
                continue
            if waiter.at_claimed:
                waiter.wake()  # besides: it may not be allowed any
            elif left.setdefault(waiter.view, tasks) > 0:
                left[waiter.view] -= 1
                waiter.wake()

    def wake_all(self) -> None:
        """Let all try again."""
        for waiter in self.all:
            waiter.wake()

    def wake_those_with_work(self, *, was_claimed: bool) -> None:
        """Some of what they wait for has come about: maybe the end of a claim (`was_claimed`)."""
        for waiter in self.all:
            if (waiter.at_claimed and was_claimed) or waiter.view.has_work:
                waiter.wake()

    def wake_somebody(self) -> None:
        """Have one look after dead owners."""
        if self.leader is not None:
            self.leader.wake()
        elif self.all:
            self.all[0].wake()

    def wake_one(self, view: View) -> None:
        """Let one more look at that view."""
        for waiter in self.all:
            if waiter.view is view and not waiter.at_claimed and not waiter.is_awake:
                waiter.wake()
                break

    def pass_on(self, view: View) -> None:
        """Somebody has looked at that view for the last time, or could not look."""
        if view.due_in_s() < float("inf"):
            self.wake_one(view)
        if self.leader is None and not any(w.is_awake and w.can_lead for w in self.all):
            for waiter in self.all:
                if waiter.can_lead:
                    waiter.wake()
                    break
