"""One flush of the disk for many claims.

What a flush costs is the disk's; sixty-four claims that share one cost what three cost alone. The
claims of a batch stamp without a flush, their sectors are then written out together
(sync_file_range), and one fsync of the directory that they moved into does the rest: it commits the
file system's journal up to and including the last of them, and flushes the disk. That is so where
overwritten blocks stay where they are and one journal keeps the order of all: ext4 and XFS. Any
other file system gets an fdatasync for each file.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, Final

from . import outcome
from .directories import Directories

_IN_PLACE_FILE_SYSTEMS: Final = ("ext4", "xfs")
_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE
_WRITE_AND_WAIT: Final = 7  # ... with both WAITs
_MOST_OPEN: Final = 128


def put_on_disk(pool: Directories, paths: Sequence[bytes]) -> None:
    """Flush claims whose stamps were not.

    Raises
    ------
    OSError
        Some may not be on disk.
    """
    if pool.sync < outcome.SYNC_DATA or not paths:
        return
    remaining = iter(paths)
    together = len(paths) > 1 and _stays_in_place(os.stat(pool.claimed).st_dev)
    while piece := list(islice(remaining, _MOST_OPEN)):
        with ExitStack() as stack:
            descriptors = list(_opened(piece, stack))
            if together:
                _write_out(descriptors)
            else:
                for descriptor in descriptors:
                    os.fdatasync(descriptor)
    if together or pool.sync >= outcome.SYNC_FULL:
        _sync_directory(pool.claimed)
    if pool.sync >= outcome.SYNC_FULL:
        _sync_directory(pool.available)


def _opened(paths: Sequence[bytes], stack: ExitStack) -> Iterator[int]:
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it has moved on, which put it on disk
        stack.callback(os.close, descriptor)
        yield descriptor


def _write_out(descriptors: Sequence[int]) -> None:
    for flags in (_WRITE, _WRITE_AND_WAIT):
        for descriptor in descriptors:
            if _sync_file_range()(descriptor, 0, 0, flags) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))


@functools.cache
def _sync_file_range() -> Callable[..., Any]:
    function = ctypes.CDLL(None, use_errno=True).sync_file_range
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


@functools.cache
def _stays_in_place(device: int) -> bool:
    """Whether this is a file system of which the above is true."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as file:
            for line in file:
                if line.split()[2] == number:
                    kind = line.partition(" - ")[2].split()[0]
                    return kind in _IN_PLACE_FILE_SYSTEMS
    except OSError:
        pass  # not Linux, or /proc is not mounted
    return False


def _sync_directory(path: bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
