"""One flush of the disk for many claims, or for many publications.

What a flush costs is the disk's; sixty-four claims that share one cost what three cost alone. The
claims of a batch stamp without a flush; new tasks are written under temporary names. What was
written is then written out together (sync_file_range), and one fsync of their directory does the
rest: it commits the file system's journal, in the order in which it was written, and flushes the
disk. The directory is changed once more before (its mtime): else the transaction that an fsync
commits would be that of the directory's last rename or creation, which may be on disk already, and
then nothing need be flushed; and the blocks of new files are allocated in later ones.

That is so where overwritten blocks stay where they are and one journal keeps the order of all: ext4
(which can also be made without a journal) and XFS. Any other gets a flush for each file, after the
writes of all have been started; where there is no one disk to start them on, claims flush by
themselves. New tasks get their names after the last of these flushes, so that no name can reach the
disk before what it is the name of.
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
from .descriptors import MOST_TOGETHER, ErrorsOf, sync_directory
from .directories import Directories
from .file_system import stays_in_order

_File = tuple[bytes, int]  # its path, and a descriptor
_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE
_WRITE_AND_WAIT: Final = 7  # ... with both WAITs


def directories_for_claims(pool: Directories) -> Directories:
    """`pool` for claims that `put_on_disk` is to flush; as it is, where that gains nothing."""
    tasks = pool.current().status
    is_on_disk = tasks is not None and _is_on_one_disk(tasks.st_dev)
    return pool.for_a_batch() if is_on_disk else pool


def put_on_disk(pool: Directories, paths: Sequence[bytes]) -> None:
    """Flush claims that were made in `directories_for_claims`.

    Raises
    ------
    OSError
        Some may not be on disk.
    """
    if pool.stamp_sync == pool.sync or not paths:
        return
    remaining = iter(paths)
    device = os.stat(pool.claimed).st_dev
    together = len(paths) > 1 and stays_in_order(device)
    while piece := list(islice(remaining, MOST_TOGETHER)):
        with ExitStack() as stack:
            opened = list(_opened(piece, stack))
            if together:
                _write_out(opened)
            else:
                _flush_each(opened, device, os.fdatasync)
    if together:
        _commit(pool.claimed)
    elif pool.sync >= outcome.SYNC_FULL:
        sync_directory(pool.claimed)
    if pool.sync >= outcome.SYNC_FULL:
        sync_directory(pool.available)


def put_new_on_disk(pool: Directories, prepared: Sequence[Any]) -> None:
    """Flush the documents of new tasks, as a core's `prepare_new` has written them.

    Raises
    ------
    OSError
        Some may not be on disk.
    """
    if not prepared:
        return
    files = [(new.path, new.fileno()) for new in prepared]
    with ErrorsOf(pool.available):
        device = os.fstat(files[0][1]).st_dev
    if len(files) > 1 and stays_in_order(device):
        _write_out(files)
        _commit(pool.claimed)
    else:
        _flush_each(files, device, os.fsync)


def _opened(paths: Sequence[bytes], stack: ExitStack) -> Iterator[_File]:
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it has moved on, which put it on disk
        stack.callback(os.close, descriptor)
        yield path, descriptor


def _write_out(files: Sequence[_File]) -> None:
    for flags in (_WRITE, _WRITE_AND_WAIT):
        for path, descriptor in files:
            if _sync_file_range()(descriptor, 0, 0, flags) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), os.fsdecode(path))


def _flush_each(files: Sequence[_File], device: int, flush: Callable[[int], None]) -> None:
    if len(files) > 1 and _is_on_one_disk(device):
        for _, descriptor in files:
            _sync_file_range()(descriptor, 0, 0, _WRITE)  # what fails here fails in its flush
    for path, descriptor in files:
        with ErrorsOf(path):
            flush(descriptor)


def _is_on_one_disk(device: int) -> bool:
    return os.major(device) != 0  # that of what is in memory, in several places, or elsewhere


@functools.cache
def _sync_file_range() -> Callable[..., Any]:
    function = ctypes.CDLL(None, use_errno=True).sync_file_range
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


def _commit(directory: bytes) -> None:
    """Put all on disk that has been written out, or changed in the file system's journal."""
    with ErrorsOf(directory):
        os.utime(os.fsdecode(directory))
    sync_directory(directory)
