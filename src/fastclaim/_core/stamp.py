"""Stamp: what proves to be ours, its sector written in place, and the undoing of that."""

from __future__ import annotations

import contextlib
import os

from ..document import Sector, read_sector
from ..outcome import SYNC_DATA
from . import posix
from .step import Step


def as_left(raw: bytes, status: os.stat_result) -> Sector | None:
    """The sector, if the file proves to be as its last writer of ours left it."""
    sector = read_sector(raw)
    if (
        sector is not None
        and sector.size_bytes == status.st_size
        and sector.mtime_ns == status.st_mtime_ns
        and status.st_nlink == 1
    ):
        return sector
    return None


def proven_sector(step: Step, raw: bytes) -> Sector | None:
    """The sector, if that can be proven, and the file is ours to write."""
    return as_left(raw, step.status) if step.writable else None


def put_stamp(step: Step, stamp: bytes, mtime_ns: int, sync: int) -> None:
    posix.write_all(step.open["task"], stamp)
    if sync >= SYNC_DATA:
        os.fdatasync(step.open["task"])
    # After the sync, which then has no inode to write. Unproven is all that can come of a failure.
    with contextlib.suppress(OSError):
        os.utime(step.open["task"], ns=(step.status.st_atime_ns, mtime_ns))


def undo_stamp(step: Step, sector: bytes, mtime_ns: int) -> None:
    with contextlib.suppress(OSError):
        try:
            posix.write_all(step.open["task"], sector)
        except OSError:
            posix.write_all(step.open["task"], sector)  # half a sector would be worse than none
        os.utime(step.open["task"], ns=(step.status.st_atime_ns, mtime_ns))
