"""Publications of tasks that must be new to the pool.

A look tells whether the pool knows an id. But between the look and the name in available/ somebody
else may publish a task of that id, which is then claimed, so that the name is free again. While a
publication is held nobody can claim it, and no other comes to wait beside it: what the pool knows
of its id stands in claimed/, completed/ or failed/ then, and is found by a second look. That is
spared where nothing was claimed meanwhile.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from . import outcome
from .directories import Directories
from .listing import is_taken

# A change that comes so soon after another may leave a directory with the same time.
_TICK_NS: Final = 3_000_000_000


class Newcomers:
    """Judges publications of a pool; made before it is looked whether the pool knows their ids."""

    def __init__(self, pool: Directories) -> None:
        self._pool = pool
        self._claimed_ns = _changed_ns(pool)
        self._was_settled = time.time_ns() - self._claimed_ns > _TICK_NS

    def admit(self, task_id: object, target: bytes, held: Any) -> bool:
        """Withdraw a publication, still held, if its id is known from elsewhere; False then.

        Raises
        ------
        OSError
            The system refused the second look, and the publication is withdrawn; or refused that.
        """
        if self._was_settled and _changed_ns(self._pool) == self._claimed_ns:
            return True
        try:
            is_new = not is_taken(self._pool, task_id)
        except OSError:
            self._withdraw(target, held)
            raise
        return is_new or not self._withdraw(target, held)

    def _withdraw(self, target: bytes, held: Any) -> bool:
        """False if it stands there no more: an original has claimed it, or another replaced it."""
        from .pruning import aside
        from .recovery import put_back

        with aside(self._pool, self._pool.available) as directory:
            taken = os.path.join(directory, os.path.basename(target))
            try:
                os.rename(target, taken)
                is_ours = os.path.samestat(os.lstat(taken), os.fstat(held.fileno()))
            except FileNotFoundError:
                return False
            if not is_ours:
                put_back(taken, target)
                return False
            os.unlink(taken)
        if self._pool.sync >= outcome.SYNC_FULL:
            from .batches import sync_directory

            sync_directory(self._pool.available)
        return True


def _changed_ns(pool: Directories) -> int:
    """When something last came into claimed/ or left it; no time if that is not there."""
    try:
        return os.stat(os.fsdecode(pool.claimed)).st_mtime_ns
    except FileNotFoundError:
        return -1
