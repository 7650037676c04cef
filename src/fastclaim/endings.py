"""Claims that have ended, and whose tasks the next claimer takes back: for people who look."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from . import owners
from .recovery import why_ended


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
        return why_ended(claim, self._is_alive, time.time())

    def _is_alive(self, owner: str) -> bool:
        if owner not in self._alive:
            try:
                self._alive[owner] = owners.is_alive(owners.owner_path(self._tasks, owner))
            except (ValueError, OSError):  # no name of ours; or the system does not tell
                self._alive[owner] = True
        return self._alive[owner]
