"""From a prepared document to a waiting task."""

from __future__ import annotations

import contextlib
import os

from ..outcome import COLLISION, DONE, LOST, SYNC_FULL
from . import posix
from .move import rename_to
from .replace import exchange
from .step import Destination, Step, errors_of, exchange_names, is_named, remove, sync_directories


def undo_publish(step: Step, target: bytes, exchanged: bool) -> None:
    with contextlib.suppress(OSError):
        # Nobody of ours can have claimed it: we hold it.
        if is_named(step, target, os.fstat(step.open["replacement"])):
            if exchanged:
                assert step.temporary is not None
                exchange_names(step, step.temporary, target)
            else:
                remove(step, target)


def publish_prepared(step: Step, to: Destination) -> int:
    """DONE, COLLISION or LOST (no directory, or somebody else was faster)."""
    assert step.temporary is not None
    with errors_of(step, to.path):
        # Only where something can fail after the rename does the old one have to be kept for it.
        exchanged = to.replace and to.sync >= SYNC_FULL and posix.lstat(to.path) is not None
        replace = to.replace and to.sync < SYNC_FULL
        try:
            if exchanged:
                outcome = DONE if exchange(step, to.path) == DONE else LOST
            else:
                outcome = rename_to(step, step.temporary, to.path, replace)
                if outcome == COLLISION and to.replace:
                    outcome = LOST  # somebody published it meanwhile
                if outcome == DONE:
                    step.temporary = None
            if outcome == DONE:
                sync_directories(to)
        except OSError:
            if exchanged or not replace:  # else the old one is no more, and ours is all there is
                undo_publish(step, to.path, exchanged)
            raise
        return outcome
