"""Reading what nobody holds."""

from __future__ import annotations

import contextlib
import errno
import os

from ..document import SECTOR_BYTES, Sector, admits, waiting_state
from ..tasks_directory import TasksDirectory
from . import posix
from .stamp import as_left


def open_to_read(path: bytes, tasks: TasksDirectory | None) -> int:
    flags = os.O_RDONLY | posix.OPEN_FLAGS
    if tasks is not None:
        with contextlib.suppress(OSError):
            return os.open(path[tasks.prefix_bytes :], flags, dir_fd=tasks.descriptor)
    return os.open(path, flags)


def read_file(path: bytes, at_most_bytes: int, tasks: TasksDirectory | None) -> bytes | None:
    """None if it is no regular file."""
    with posix.NamedErrors(path):
        try:
            descriptor = open_to_read(path, tasks)
            try:
                return os.pread(descriptor, at_most_bytes, 0)
            finally:
                with contextlib.suppress(OSError):
                    os.close(descriptor)  # it is closed all the same
        except OSError as error:
            # A directory can be opened, and so can a FIFO, but neither be read from at a position.
            if error.errno in (*posix.NOT_REGULAR, errno.ESPIPE):
                return None
            raise


def peek_at(path: bytes, capabilities: bytes, tasks: TasksDirectory) -> Sector | None:
    """The sector if the task proves to wait, these are enough for it, and it has a rank."""
    try:
        name = path[tasks.prefix_bytes :]
        descriptor = os.open(name, os.O_RDONLY | posix.OPEN_FLAGS, dir_fd=tasks.descriptor)
        try:
            status = os.fstat(descriptor)
            sector = as_left(os.pread(descriptor, SECTOR_BYTES, 0), status)
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)  # it is closed all the same
    except OSError:
        return None
    if sector is None or not sector.rank or not admits(sector, capabilities):
        return None
    return None if waiting_state(sector) is None else sector
