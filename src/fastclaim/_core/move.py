"""Move: the one rename that decides who wins, and its way back."""

from __future__ import annotations

import contextlib

from ..outcome import BUSY, CHANGED, COLLISION, DONE, LOST, STALE
from . import posix
from .step import Step, errors_of, is_named, rename_new, rename_over


def rename_to(step: Step, source: bytes, target: bytes, replace: bool) -> int:
    """DONE, LOST or COLLISION."""
    try:
        if replace:
            rename_over(step, source, target)
        else:
            rename_new(step, source, target)
    except FileNotFoundError:
        return LOST
    except FileExistsError:
        return COLLISION
    return DONE


def move_back(step: Step, claimed: bytes) -> None:
    """Undo the move without writing a byte; what stands in our place by now, stays."""
    with contextlib.suppress(OSError):
        if is_named(step, claimed, step.status):
            rename_new(step, claimed, step.path)


def move(step: Step, target: bytes, replace: bool) -> int:
    """The arbiter: one claimer gets DONE, the others LOST."""
    with errors_of(step, step.path):
        outcome = rename_to(step, step.path, target, replace)
        if outcome != DONE:
            return outcome
        moved = posix.lstat(target)
        if moved is not None and posix.same_inode(moved, step.status):
            unchanged = (
                moved.st_size == step.status.st_size
                and moved.st_mtime_ns == step.status.st_mtime_ns
            )
            return DONE if unchanged else CHANGED
        if is_named(step, target, step.status):
            move_back(step, target)
            return STALE
        return BUSY if moved is None else CHANGED
