"""Small files of which no reader ever sees a part: the registry, messages, heartbeats.

A file is written under a temporary name beside its own and renamed over it. Its writer holds an
flock on it until then, so that a temporary file whose flock is free is a dead process's.

What is replaced is not synced, as in the original: what these files say about live agents is no
longer true after a power cut.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from . import layout
from .descriptors import ErrorsOf, sync_directory, try_flock
from .tokens import new_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO, Final, TypeAlias

    # Gives a temporary file its name; FileNotFoundError if somebody has swept it.
    Place: TypeAlias = Callable[[IO[bytes], Path, Path], None]

# How often a temporary file may be taken for a dead process's before we give up.
_WRITE_TRIES: Final = 8


def write_whole(path: Path, content: str) -> None:
    """Let `path` be a file with this content, in one step.

    Raises
    ------
    OSError
        It is as it was.
    UnicodeEncodeError
        `content` has lone surrogates; it is as it was.
    """
    encoded = content.encode("utf-8")
    for _ in range(_WRITE_TRIES):
        if _try_write(path, encoded, _rename):
            return
    raise OSError(errno.EBUSY, "temporary files keep disappearing", os.fspath(path))


def write_new(path: Path, content: str) -> bool:
    """Let `path` be a new file with this content, in one step, and synced; False if one is there.

    Raises
    ------
    OSError
        It is as it was, or new and perhaps not synced.
    UnicodeEncodeError
        `content` has lone surrogates; it is as it was.
    """
    encoded = content.encode("utf-8")
    for _ in range(_WRITE_TRIES):
        try:
            if _try_write(path, encoded, _link_synced):
                return True
        except FileExistsError:
            return False
    raise OSError(errno.EBUSY, "temporary files keep disappearing", os.fspath(path))


def _try_write(path: Path, content: bytes, place: Place) -> bool:
    name = f"{layout.TEMPORARY_PREFIX}{new_token()}{layout.TEMPORARY_SUFFIX}"
    temporary = path.parent / name
    try:
        with open(temporary, "xb", buffering=0) as file:
            try:
                if not try_flock(file.fileno()):
                    return False
                with ErrorsOf(os.fspath(path)):
                    _write_all(file, content)
                place(file, temporary, path)
                return True
            except FileNotFoundError:
                # Somebody swept it between our open and our flock; or has the directory gone?
                path.parent.stat()
                return False
            finally:
                unlock(file)
    finally:
        # In vain after the rename; also when Ctrl-C comes anywhere above.
        temporary.unlink(missing_ok=True)


def _write_all(file: IO[bytes], content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _rename(file: IO[bytes], temporary: Path, path: Path) -> None:
    temporary.rename(path)


def _link_synced(file: IO[bytes], temporary: Path, path: Path) -> None:
    with ErrorsOf(os.fspath(path)):
        os.fsync(file.fileno())
    # Not a rename, which would replace what somebody puts there just now.
    os.link(temporary, path)
    sync_directory(os.fspath(path.parent))


def sweep(directory: Path) -> list[str]:
    """Remove the temporary files that dead processes have left in a directory; their paths."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [
        os.fspath(directory / name)
        for name in names
        if name.startswith(layout.TEMPORARY_PREFIX)
        and name.endswith(layout.TEMPORARY_SUFFIX)
        and _sweep_one(directory / name)
    ]


def _sweep_one(temporary: Path) -> bool:
    try:
        with open_regular(temporary) as file:
            try:
                if not try_flock(file.fileno()):
                    return False
                temporary.unlink()
            finally:
                unlock(file)
    except OSError:
        return False  # another sweeper's, or renamed by now: its name is not used twice
    return True


def read_whole(path: str | os.PathLike[str], *, follow_links: bool = False) -> str:
    """The text of a regular file.

    Raises
    ------
    OSError
        It is not there, or is a FIFO, a directory, a device, or (unless `follow_links`) a symlink.
    UnicodeDecodeError
        It is not UTF-8.
    """
    with open_regular(path, os.O_RDONLY if follow_links else os.O_RDONLY | os.O_NOFOLLOW) as file:
        return file.read().decode("utf-8")


def open_regular(
    path: str | os.PathLike[str], flags: int = os.O_RDONLY | os.O_NOFOLLOW
) -> IO[bytes]:
    """Open a file for reading, if it is a regular one.

    A file object and not a descriptor: one that an exception drops closes itself.

    Raises
    ------
    OSError
        It cannot be opened, or is not regular.
    """
    # O_NONBLOCK: to open a FIFO for reading would wait for a writer.
    flags |= os.O_NONBLOCK | os.O_CLOEXEC
    file = open(path, "rb", opener=lambda name, _: os.open(name, flags, 0o666))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return file


def unlock(file: IO[bytes]) -> None:
    """Drop the flock, before the file is closed: a child forked meanwhile has a copy of it."""
    try:
        fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:
        pass  # the close that follows does it, too
