"""System calls that `os` does not offer, and what is made of system calls.

Names are looked up from `at`, a directory's descriptor or AT_FDCWD.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from types import TracebackType
from typing import Final

OPEN_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
# A file system without the flag says EINVAL, a kernel without the call ENOSYS, a sandbox EPERM.
UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
# What open(2) says of a symlink, a directory, and a socket.
NOT_REGULAR: Final = (errno.ELOOP, errno.EISDIR, errno.ENXIO)
_READ_ONLY: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)
_LARGEST_INT: Final = 2**31 - 1
_LARGEST_MASK: Final = 2**32 - 1
_CLOCK_REALTIME_COARSE: Final = 5  # linux/time.h
# linux/magic.h: tmpfs, ext4, xfs, btrfs.
_WITH_KERNELS_CLOCK: Final = (0x01021994, 0xEF53, 0x58465342, 0x9123683E)

_libc = ctypes.CDLL(None, use_errno=True)


class NamedErrors:
    """System errors of calls on a descriptor, or on a name in tasks/, get the whole path."""

    def __init__(self, path: bytes, tasks: bytes = b"") -> None:
        self._path, self._tasks = path, tasks

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            name = self._path
            if isinstance(error.filename, str | bytes):  # since 3.13 also a descriptor's number
                name = os.path.join(self._tasks, os.fsencode(error.filename))
            error.filename = os.fsdecode(name)


def rename_with(at: int, source: bytes, target: bytes, flags: int) -> None:
    """renameat2(2)."""
    _call("renameat2", (at, source, at, target, flags), source)


def rename_new(at: int, source: bytes, target: bytes) -> None:
    """Rename, but FileExistsError if `target` is there."""
    try:
        rename_with(at, source, target, RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        # Without the flag, a look first: only two tasks whose claims share a name and are made in
        # the same microsecond could still meet here.
        if lstat(target, at) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(source, target, src_dir_fd=at, dst_dir_fd=at)


def inotify_init() -> int:
    """inotify_init1(2), by flags that are IN_NONBLOCK and IN_CLOEXEC."""
    return _call("inotify_init1", (os.O_NONBLOCK | os.O_CLOEXEC,))


def inotify_add_watch(descriptor: int, path: bytes, mask: int) -> int:
    """inotify_add_watch(2)."""
    if not (0 <= mask <= _LARGEST_MASK and abs(descriptor) <= _LARGEST_INT):
        raise OverflowError("value too large to convert")  # ctypes would cut it off
    if b"\0" in path:
        raise ValueError("embedded null byte")
    return _call("inotify_add_watch", (descriptor, path, ctypes.c_uint32(mask)), os.fsdecode(path))


def _call(name: str, arguments: tuple[object, ...], path: str | bytes | None = None) -> int:
    """What a function of the C library returns; OSError if that is negative, or it has none."""
    function = getattr(_libc, name, None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
    result: int = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def open_for_flock(at: int, path: bytes, flags: int) -> tuple[int, bool]:
    """A descriptor, and whether it can write: flock needs no more than reading."""
    try:
        return os.open(path, flags | os.O_RDWR | OPEN_FLAGS, 0o666, dir_fd=at), True
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        return os.open(path, flags | os.O_RDONLY | OPEN_FLAGS, 0o666, dir_fd=at), False


def lstat(path: bytes, at: int | None = None) -> os.stat_result | None:
    """What is there, links not followed; None if nothing is."""
    try:
        return os.stat(path, dir_fd=at, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def file_clock_ns() -> int:
    """What the kernel would say now of a file that is changed: on Linux that of its last tick."""
    if sys.platform.startswith("linux"):
        return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    return time.time_ns() - 100_000_000


def has_kernels_clock(descriptor: int) -> bool:
    """Whether this kernel, and no other machine, says when a file there is changed."""
    status = (ctypes.c_long * 32)()  # struct statfs, which begins with the type
    fstatfs = getattr(_libc, "fstatfs", None)
    if not sys.platform.startswith("linux") or fstatfs is None:
        return False
    return fstatfs(descriptor, status) == 0 and status[0] in _WITH_KERNELS_CLOCK


def same_inode(one: os.stat_result | None, other: os.stat_result) -> bool:
    """Whether both are one file."""
    return one is not None and one.st_ino == other.st_ino and one.st_dev == other.st_dev


def read_all(descriptor: int, size_bytes: int) -> bytes:
    """The start of a file, however many reads it takes."""
    content = b""
    while piece := os.pread(descriptor, size_bytes - len(content), len(content)):
        content += piece
    return content


def write_all(descriptor: int, content: bytes) -> None:
    """Write over the start of a file, however many writes it takes."""
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], written)
