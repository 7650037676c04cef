"""The next tasks for an agent, and the wait for them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Final

from . import claiming, recovery
from .claiming import Hold, Taken, Wanted
from .publication import capability_keys

if TYPE_CHECKING:
    from .database import Database

# Behind the notifications: who has died, and what a broken line has swallowed, is found this late.
SLOW_POLL_S: Final = 5.0


def claim_next(
    database: Database,
    wanted: Wanted,
    tokens: Sequence[str],
    hold: Hold,
    wait_s: float | None,
) -> list[Taken]:
    """Claim the next tasks, and wait for the first of them if there is none.

    Parameters
    ----------
    wait_s : float or None
        How long, in seconds; None: as long as it takes.

    Raises
    ------
    PoolUnavailable
        The server cannot be reached, or refuses.
    """
    until_s = math.inf if wait_s is None else time.monotonic() + wait_s
    taken = _try(database, wanted, tokens, hold)
    if taken or until_s <= time.monotonic():
        return taken
    pauses = Pauses(database)
    with database.waiting(kind(wanted)) as waiter:
        while True:
            waiter.arm(min(SLOW_POLL_S, until_s - time.monotonic()))
            # Again after arming: what came in between was not heard.
            taken = _try(database, wanted, tokens, hold)
            left_s = until_s - time.monotonic()
            if taken or left_s <= 0:
                return taken
            waiter.wait(pauses.next_s(left_s))


def kind(wanted: Wanted) -> Hashable:
    """Equal for those who can all claim what one of them can."""
    capabilities = tuple(capability_keys(wanted.capabilities))
    if wanted.max_claims is None:
        return capabilities
    return capabilities, f"{wanted.agent_id}", wanted.max_claims


def _try(database: Database, wanted: Wanted, tokens: Sequence[str], hold: Hold) -> list[Taken]:
    taken = claiming.claim_next(database, wanted, tokens, hold)
    if taken:
        return taken
    # Nothing to do: time for what the dead have left, and for what nobody came to unblock.
    changed = recovery.recover(database, hold.max_attempts)
    if recovery.unblock(database) or changed:
        return claiming.claim_next(database, wanted, tokens, hold)
    return taken


class Pauses:
    """How long somebody who waits does so before each next look.

    Parameters
    ----------
    database : Database
        Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked_at_s = -math.inf

    def next_s(self, left_s: float) -> float:
        """For how many seconds to wait for news, of those that are left; between two looks.

        Raises
        ------
        PoolUnavailable
            The server cannot be reached, or refuses.
        """
        # What was due when this was asked the last time, the look since then has seen: if that
        # made nothing of it, it waits for something other than time.
        self._asked_at_s, due_s = recovery.next_change_s(self._database, self._asked_at_s)
        # Not all at the same moment: there may be thousands of us.
        poll_s = SLOW_POLL_S * random.uniform(0.5, 1.0)
        return min(left_s, poll_s, math.inf if due_s is None else max(due_s, 0.01))
