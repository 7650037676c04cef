"""Replace: what cannot be stamped in place changes places with a temporary file."""

from __future__ import annotations

import contextlib
import os

from ..descriptors import try_flock
from ..outcome import BUSY, DONE, SYNC_DATA
from . import posix
from .step import Step, errors_of, exchange_names, is_named, name_of, remove, rename_over


def prepare(step: Step, temporary: bytes, content: bytes, mtime_ns: int, sync: int) -> None:
    """Write `content` into a temporary file, flocked and synced."""
    with errors_of(step, temporary):
        step.temporary = temporary
        step.open["replacement"] = os.open(
            name_of(step, temporary),
            os.O_CREAT | os.O_EXCL | os.O_RDWR | posix.OPEN_FLAGS,
            0o666,
            dir_fd=step.at,
        )
        descriptor = step.open["replacement"]
        if not try_flock(descriptor):
            # Taken for a dead process's: it must not be there to change places with a task.
            with contextlib.suppress(FileNotFoundError):
                remove(step, temporary)
        posix.write_all(descriptor, content)
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        if sync >= SYNC_DATA:
            os.fsync(descriptor)


def exchange(step: Step, path: bytes) -> int:
    """The prepared document and the one at `path` change places; BUSY if it has gone."""
    assert step.temporary is not None
    try:
        exchange_names(step, step.temporary, path)
    except FileNotFoundError:
        return BUSY
    except OSError as error:
        if error.errno not in posix.UNSUPPORTED:
            raise
        # Only a directory that cannot be synced could still make us want the old one back.
        rename_over(step, step.temporary, path)
    return DONE


def undo_exchange(step: Step, path: bytes) -> None:
    with contextlib.suppress(OSError):
        if step.temporary is not None and is_named(step, step.temporary, step.status):
            exchange_names(step, step.temporary, path)
