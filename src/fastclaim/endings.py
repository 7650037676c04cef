"""Claims that have ended, and whose tasks the next claimer takes back: for people who look."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from . import owners
from .matching import NUMBER
from .recovery import LEASE_EXPIRED, PROCESS_ENDED


class Endings:
    """Tells which of a directory's claims have ended; each owner is asked once.

    Parameters
    ----------
    tasks : bytes
        The pool's `tasks/`.
    """

    def __init__(self, tasks: bytes) -> None:
        self._tasks = tasks
        self._alive: dict[str, bool] = {}

    def of(self, claim: Mapping[str, Any]) -> str | None:
        """Why a claim has ended; None if it stands, or nobody can tell."""
        if "completed_at" in claim:
            return None  # recovery will say more of it
        owner = claim.get("owner")
        if isinstance(owner, str) and not self._is_alive(owner):
            return PROCESS_ENDED
        until_s = claim.get("lease_expires_at")
        if isinstance(until_s, NUMBER) and until_s < time.time():
            return LEASE_EXPIRED
        return None

    def _is_alive(self, owner: str) -> bool:
        if owner not in self._alive:
            try:
                self._alive[owner] = owners.is_alive(owners.owner_path(self._tasks, owner))
            except (ValueError, OSError):  # no name of ours; or the system does not tell
                self._alive[owner] = True
        return self._alive[owner]
