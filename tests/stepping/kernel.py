"""As much of a kernel's files as a task pool needs, in memory: names, inodes, flocks, link counts.

`test_stepping_kernel.py` holds it against the real one. It is small enough to be copied before each
call, and to be compared whole. Left out are what no transition makes or meets in a pool that nobody
else writes to: directories that come and go, symlinks, permissions, errors of the disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Any, NamedTuple

# Numbers that no real descriptor has: what outlives a run must not close one.
FIRST_DESCRIPTOR = 1_000_000
DIRECTORIES = ("", "available", "claimed", "completed", "failed", "owners")
KERNEL_TIME_NS = 1_700_000_001_000_000_000  # of every write that nobody dates otherwise
NOREPLACE, EXCHANGE = 1, 2
_INODES_OF_A_PROCESS = 1000


class Inode(NamedTuple):
    content: bytes
    mtime_ns: int
    links: int


class OpenFile(NamedTuple):
    inode: int
    lock: int = fcntl.LOCK_UN
    position: int = 0


class Status(NamedTuple):
    """As much of `os.stat_result` as anybody looks at."""

    st_mode: int
    st_ino: int
    st_nlink: int
    st_size: int
    st_mtime_ns: int
    st_dev: int = 1
    st_atime_ns: int = 0

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns / 1e9


class Kernel:
    """Files of one pool and the processes that have them open.

    Parameters
    ----------
    processes : int
        How many.
    lists_backwards : bool
        Whether a directory gives its names from z to a.

    Attributes
    ----------
    names : dict
        Path below tasks/ to inode number.
    inodes : dict
        Inode number to `Inode`, while it has a name or is open.
    processes : list of dict
        Of each process: descriptor to `OpenFile`.
    """

    def __init__(self, processes: int, lists_backwards: bool = False) -> None:
        self.names: dict[str, int] = {}
        self.inodes: dict[int, Inode] = {}
        self.processes: list[dict[int, OpenFile]] = [{} for _ in range(processes)]
        self._lists_backwards = lists_backwards

    def copy(self) -> Kernel:
        twin = Kernel.__new__(Kernel)
        twin.names, twin.inodes = self.names.copy(), self.inodes.copy()
        twin.processes = [files.copy() for files in self.processes]
        twin._lists_backwards = self._lists_backwards
        return twin

    def call(self, process: int, name: str, *arguments: Any) -> Any:
        """Make one system call; raises OSError."""
        return getattr(self, f"_{name}")(process, *arguments)

    def end(self, process: int) -> None:
        """What the kernel does when a process ends, however it ends."""
        for descriptor in list(self.processes[process]):
            self._close(process, descriptor)

    def content(self, path: str) -> bytes:
        """What is in a file."""
        return self.inodes[self.names[path]].content

    def holds(self, process: int, number: int | None) -> bool:
        """Whether a process has the exclusive flock of an inode."""
        files = self.processes[process].values()
        return any(file.inode == number and file.lock == fcntl.LOCK_EX for file in files)

    def is_alone(self, process: int, number: int) -> bool:
        """Whether no other process has an inode open."""
        return not any(
            file.inode == number
            for other, files in enumerate(self.processes)
            if other != process
            for file in files.values()
        )

    # By name ------------------------------------------------------------------------------------

    def _open(self, process: int, path: str, flags: int) -> int:
        if path in DIRECTORIES:
            return self._descriptor(process, -1 - DIRECTORIES.index(path))
        number = self.names.get(path)
        if number is None:
            if not flags & os.O_CREAT:
                raise _error(errno.ENOENT)
            number = self._new_number(process)
            self.names[path] = number
            self.inodes[number] = Inode(b"", KERNEL_TIME_NS, 1)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST)
        elif flags & os.O_TRUNC:
            self.inodes[number] = Inode(b"", KERNEL_TIME_NS, self.inodes[number].links)
        return self._descriptor(process, number)

    def _new_number(self, process: int) -> int:
        """The lowest that is free, of this process's: the same in whatever order others run."""
        number = process * _INODES_OF_A_PROCESS
        while number in self.inodes:
            number += 1
        return number

    def _descriptor(self, process: int, inode: int) -> int:
        files = self.processes[process]
        descriptor = FIRST_DESCRIPTOR
        while descriptor in files:
            descriptor += 1
        files[descriptor] = OpenFile(inode)
        return descriptor

    def _stat(self, process: int, path: str) -> Status:
        if path in DIRECTORIES:
            return _directory_status(DIRECTORIES.index(path))
        return self._status(self._named(path))

    def _named(self, path: str) -> int:
        number = self.names.get(path)
        if number is None:
            raise _error(errno.ENOENT)
        return number

    def _status(self, number: int) -> Status:
        inode = self.inodes[number]
        size_bytes = len(inode.content)
        return Status(stat.S_IFREG | 0o644, number, inode.links, size_bytes, inode.mtime_ns)

    def _rename(self, process: int, source: str, target: str, flags: int) -> None:
        moved = self._named(source)
        if flags == EXCHANGE:
            self.names[source] = self._named(target)
        elif flags == NOREPLACE and target in self.names:
            raise _error(errno.EEXIST)
        elif self.names.get(target) != moved:  # of two links to one inode both stay
            if target in self.names:
                self._unlink(process, target)
            del self.names[source]
        else:
            return
        self.names[target] = moved

    def _link(self, process: int, source: str, target: str) -> None:
        number = self._named(source)
        if target in self.names:
            raise _error(errno.EEXIST)
        self.names[target] = number
        self.inodes[number] = self.inodes[number]._replace(links=self.inodes[number].links + 1)

    def _unlink(self, process: int, path: str) -> None:
        number = self._named(path)
        del self.names[path]
        inode = self.inodes[number]
        self.inodes[number] = inode._replace(links=inode.links - 1)
        self._forget_unused(number)

    def _listdir(self, process: int, path: str) -> tuple[str, ...]:
        prefix = f"{path}/"
        names = [name.removeprefix(prefix) for name in self.names if name.startswith(prefix)]
        return tuple(sorted(names, reverse=self._lists_backwards))

    def _mkdir(self, process: int, path: str) -> None:
        assert path in DIRECTORIES, path
        raise _error(errno.EEXIST)

    # By descriptor ------------------------------------------------------------------------------

    def _file(self, process: int, descriptor: int) -> OpenFile:
        file = self.processes[process].get(descriptor)
        if file is None:
            raise _error(errno.EBADF)
        return file

    def _close(self, process: int, descriptor: int) -> None:
        number = self._file(process, descriptor).inode
        del self.processes[process][descriptor]
        self._forget_unused(number)

    def _forget_unused(self, number: int) -> None:
        if number < 0 or self.inodes[number].links > 0:
            return
        if not any(file.inode == number for file in self._open_files()):
            del self.inodes[number]

    def _open_files(self) -> list[OpenFile]:
        return [file for files in self.processes for file in files.values()]

    def _fstat(self, process: int, descriptor: int) -> Status:
        number = self._file(process, descriptor).inode
        return _directory_status(-1 - number) if number < 0 else self._status(number)

    def _flock(self, process: int, descriptor: int, operation: int) -> None:
        file = self._file(process, descriptor)
        wanted = operation & ~fcntl.LOCK_NB
        if wanted == file.lock:
            return
        # As Linux does it: another kind of lock is dropped before the new one is asked for.
        self.processes[process][descriptor] = file._replace(lock=fcntl.LOCK_UN)
        if wanted == fcntl.LOCK_UN:
            return
        kinds = [other.lock for other in self._open_files() if other.inode == file.inode]
        if fcntl.LOCK_EX in kinds or (wanted == fcntl.LOCK_EX and fcntl.LOCK_SH in kinds):
            raise _error(errno.EAGAIN)
        self.processes[process][descriptor] = file._replace(lock=wanted)

    def _pread(self, process: int, descriptor: int, size_bytes: int, offset: int) -> bytes:
        inode = self.inodes[self._file(process, descriptor).inode]
        return inode.content[offset : offset + size_bytes]

    def _read(self, process: int, descriptor: int, size_bytes: int) -> bytes:
        file = self._file(process, descriptor)
        content = self._pread(process, descriptor, size_bytes, file.position)
        position = file.position + len(content)
        self.processes[process][descriptor] = file._replace(position=position)
        return content

    def _pwrite(self, process: int, descriptor: int, content: bytes, offset: int) -> int:
        number = self._file(process, descriptor).inode
        old = self.inodes[number]
        before = old.content[:offset].ljust(offset, b"\0")
        whole = before + content + old.content[offset + len(content) :]
        self.inodes[number] = Inode(whole, KERNEL_TIME_NS, old.links)
        return len(content)

    def _write(self, process: int, descriptor: int, content: bytes) -> int:
        file = self._file(process, descriptor)
        written = self._pwrite(process, descriptor, content, file.position)
        self.processes[process][descriptor] = file._replace(position=file.position + written)
        return written

    def _utime(self, process: int, descriptor: int, mtime_ns: int) -> None:
        number = self._file(process, descriptor).inode
        self.inodes[number] = self.inodes[number]._replace(mtime_ns=mtime_ns)

    def _fsync(self, process: int, descriptor: int) -> None:
        self._file(process, descriptor)

    def _pause(self, process: int) -> None:
        """No call at all: a moment at which others may come."""


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _directory_status(which: int) -> Status:
    return Status(stat.S_IFDIR | 0o755, -1 - which, 2, 0, KERNEL_TIME_NS)
