"""One agent's search through a view, to the first task that it can claim."""

from __future__ import annotations

import errno
import time

from . import layout, outcome
from .changes import Change
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
from .views import BUSY_S, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

    from .claim import Claim
    from .selection import Selection

    class Attempt(Protocol):
        """Claims for one agent, without waiting."""

        agent_id: object

        def __call__(self, name: str, capabilities: bytes | None) -> tuple[int, Claim | None]:
            """Claim the task in a file of this name with these capabilities.

            What `claiming.claim` came to, and the claim; ABSENT if somebody else was faster.
            """


# What the system says of one file: it is not ours, or it is no regular one where a lock file or a
# key's file should be. Of other tasks it may not say so.
_OF_ONE_TASK: Final = (
    *(errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL),
)


class Search:
    """Goes through a view until something could be claimed, or nothing is left.

    Attributes
    ----------
    was_busy : bool
        Whether others were in the middle of a transition of a task.
    """

    def __init__(self, selection: Selection, view: View, attempt: Attempt) -> None:
        self._selection, self._view, self._attempt = selection, view, attempt
        self.was_busy = False

    def run(self) -> Claim | None:
        """The claim, or None.

        Raises
        ------
        OSError
            The system refused; if it was one task alone that it refused, there was no other.
        """
        selection, view, agent_id = self._selection, self._view, self._attempt.agent_id
        forbidden: dict[str, OSError] = {}
        told: BaseException | None = None  # after which every task is in its place
        started_s, due_s = time.monotonic(), time.time() + BUSY_S
        try:
            if view.refused:
                with selection.lock:
                    view.offer_refused(agent_id)
            while (name := selection.take(view, started_s, due_s)) is not None:
                try:
                    claim = self._try(name)
                except PoolPaused as error:
                    if not selection.heed_pause(view, name, error.until):
                        return None
                except BaseException as error:
                    if isinstance(error, OSError) and error.errno in _OF_ONE_TASK:
                        forbidden[name] = error  # others may be ours to claim
                    elif not self._is_settled(name, error):
                        selection.put_back(view, [name])  # as far as we know it is still there
                        told = error
                        raise
                else:
                    if claim is not None:
                        for refused in forbidden:
                            selection.refuse(view, refused, agent_id)
                        return claim
            if forbidden:
                selection.put_back(view, list(forbidden))
                told = next(iter(forbidden.values()))
                raise told
        except BaseException as error:
            if error is not told:
                # Of an interrupt, which may have come between two lines that had a task in hand.
                selection.invalidate(view)
            raise
        return None

    def _try(self, name: str) -> Claim | None:
        """Claim it; it is read and judged before only if the claim itself cannot tell."""
        selection, view = self._selection, self._view
        try:
            came_to, claim = self._attempt(name, view.claims_with)
        except PermissionError:
            came_to, claim = outcome.UNJUDGED, None  # if we may not read it, it is not for us
        if came_to == outcome.UNJUDGED:
            with selection.lock:
                if not view.judge(name):
                    return None  # not for this agent, or not yet
            came_to, claim = self._attempt(name, None)
        if claim is not None:
            if view.misses:
                view.hit()
            return claim
        with selection.lock:
            if came_to == outcome.BUSY:
                self.was_busy = True
                view.busy(name)
            else:
                view.missed()
        return None

    def _is_settled(self, name: str, error: BaseException) -> bool:
        """Whether this only means that the task cannot be claimed, or not yet; `why` says so."""
        selection, view = self._selection, self._view
        if isinstance(error, KeyHeld):
            selection.park(view, name, Change(layout.CLAIMED, error.claim_name))
        elif isinstance(error, InvalidName | NameCollision):
            selection.refuse(view, name, self._attempt.agent_id)
        elif isinstance(error, LockTimeout | TaskNotAvailable):
            if not isinstance(error, AlreadyClaimed):
                self.was_busy = True
                with selection.lock:
                    view.busy(name)
        else:
            return isinstance(error, InvalidTask)
        return True
