"""What the code under test calls, made of the calls of a kernel in memory."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from fastclaim import _transition_py, deaths, listing, owners, stamps, tokens, whole_file
from fastclaim._core import claim, posix
from fastclaim.directories import Directories

from .kernel import FIRST_DESCRIPTOR
from .process import Stopped, make, running

BASE = "/pool-in-memory"
TASKS = f"{BASE}/tasks"
# How often whoever meets a lock tries again.
TRIES = 2
# What each process has of its own.
_OF_PROCESS = (
    (tokens, ("own_id", "_numbers")),
    (stamps, ("own_hold",)),
    (owners, ("_open", "_known")),
)


def _path(path: Any, dir_fd: int | None = None) -> str | None:
    """A path below tasks/, "" for that; None if it is somewhere else."""
    text = os.fsdecode(path)
    if text.startswith(TASKS):
        return text[len(TASKS) + 1 :]
    if text.startswith("/"):
        return None
    return text if dir_fd is not None and dir_fd >= FIRST_DESCRIPTOR else None


class _Entries:
    def __init__(self, directory: str, names: tuple[str, ...]) -> None:
        self._entries = iter([_Entry(name, f"{directory}/{name}") for name in names])

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[_Entry]:
        return self._entries


class _Entry(NamedTuple):
    name: str
    path: str


class _Calls:
    """`os`, as far as it is about the pool."""

    @staticmethod
    def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
        return "open", _path(path, dir_fd), flags

    @staticmethod
    def stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        if isinstance(path, int):
            return "fstat", path
        return "stat", _path(path, dir_fd)

    lstat = stat

    @staticmethod
    def rename(source: Any, target: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None) -> Any:
        return "rename", _path(source, src_dir_fd), _path(target, dst_dir_fd), 0

    @staticmethod
    def link(
        source: Any,
        target: Any,
        *,
        src_dir_fd: Any = None,
        dst_dir_fd: Any = None,
        follow_symlinks: bool = True,
    ) -> Any:
        return "link", _path(source, src_dir_fd), _path(target, dst_dir_fd)

    @staticmethod
    def unlink(path: Any, *, dir_fd: int | None = None) -> Any:
        return "unlink", _path(path, dir_fd)

    @staticmethod
    def listdir(path: Any) -> Any:
        return "listdir", _path(path)

    @staticmethod
    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
        return "mkdir", _path(path, dir_fd)

    @staticmethod
    def utime(descriptor: int, *, ns: tuple[int, int]) -> Any:
        return "utime", descriptor, ns[1]


_BY_NAME = ("open", "stat", "lstat", "rename", "link", "unlink", "listdir", "mkdir", "utime")
_BY_DESCRIPTOR = ("close", "fstat", "read", "pread", "write", "pwrite", "fsync")


def _stepped(name: str) -> Callable[..., Any]:
    real, meant = getattr(os, name), getattr(_Calls, name)

    @functools.wraps(real)
    def call(*arguments: Any, **named: Any) -> Any:
        meaning = meant(*arguments, **named)
        if meaning[1] is None or (isinstance(meaning[1], int) and meaning[1] < FIRST_DESCRIPTOR):
            return real(*arguments, **named)
        try:
            result = make(*meaning)
        except OSError as error:
            error.filename = arguments[0]
            raise
        return list(result) if name == "listdir" else result

    return call


def _stepped_by_descriptor(name: str) -> Callable[..., Any]:
    real = getattr(os, name)

    @functools.wraps(real)
    def call(descriptor: int, *arguments: Any) -> Any:
        if descriptor < FIRST_DESCRIPTOR:
            return real(descriptor, *arguments)
        return make(name, descriptor, *(bytes(a) if name == "write" else a for a in arguments))

    return call


def _flock(file: Any, operation: int) -> None:
    descriptor = file if isinstance(file, int) else file.fileno()
    if descriptor < FIRST_DESCRIPTOR:
        _real_flock(descriptor, operation)
    else:
        make("flock", descriptor, operation & ~fcntl.LOCK_NB)


_real_flock, _real_scandir = fcntl.flock, os.scandir


def _scandir(path: Any) -> Any:
    # At once, as the kernel gives them: a directory of less than 32 KB takes one call.
    below = _path(path)
    return _real_scandir(path) if below is None else _Entries(path, make("listdir", below))


def _renameat2(at: int, source: bytes, target: bytes, flags: int) -> None:
    try:
        make("rename", _path(source, at), _path(target, at), flags)
    except OSError as error:
        error.filename = source
        raise


class File:
    """As much of `open` as is used here."""

    def __init__(self, file: Any, mode: str = "r", *, opener: Any = None) -> None:
        assert mode in ("r", "rb")
        self._is_text = mode == "r"
        self._descriptor: int | None = None
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._descriptor = opener(file, flags) if opener else os.open(file, flags)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        assert self._descriptor is not None
        return self._descriptor

    def read(self) -> Any:
        content = os.read(self.fileno(), 1 << 20)
        return content.decode() if self._is_text else content

    def close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    __del__ = close


class Tempfile:
    """`tempfile` for the original: its temporary file, by the calls that are stepped."""

    @contextlib.contextmanager
    def NamedTemporaryFile(self, mode: str, dir: Any, suffix: str, delete: bool) -> Iterator[Any]:
        assert (mode, delete) == ("w", False)
        name = os.path.join(dir, f"tmp{tokens.own_id}{suffix}")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = _Written(name, descriptor)
        try:
            yield file
        finally:
            os.close(descriptor)


class _Written(io.StringIO):
    def __init__(self, name: str, descriptor: int) -> None:
        super().__init__()
        self.name, self._descriptor = name, descriptor

    def fileno(self) -> int:
        return self._descriptor

    def flush(self) -> None:
        os.write(self._descriptor, self.getvalue().encode())


class _MaybeDeaths:
    """Otherwise a queue of inotify's, which tells of nothing sooner than this does."""

    def may_have_come(self, tasks: object = None) -> int:
        return 1

    def is_quiet(self, tasks: object) -> bool:
        return False

    def looked(self, look: int, settled: bool) -> None:
        pass


@contextlib.contextmanager
def in_memory() -> Iterator[pytest.MonkeyPatch]:
    """Let what is below `BASE` be in a `Kernel`'s memory."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _BY_NAME:
            patch.setattr(os, name, _stepped(name))
        for name in _BY_DESCRIPTOR:
            patch.setattr(os, name, _stepped_by_descriptor(name))
        patch.setattr(os, "scandir", _scandir)
        patch.setattr(fcntl, "flock", _flock)
        patch.setattr(posix, "rename_with", _renameat2)
        patch.setattr(listing, "core", _transition_py)
        patch.setattr(Directories, "make", lambda _: None)  # they are always there
        for module in (listing, whole_file):
            patch.setattr(module, "open", File, raising=False)
        patch.setattr(deaths, "deaths_in", lambda _: _MaybeDeaths())
        patch.setattr(time, "time_ns", _now_ns)
        patch.setattr(time, "time", lambda: _now_ns() / 1e9)
        patch.setattr(posix, "file_clock_ns", _now_ns)
        patch.setattr(time, "sleep", lambda _: None)
        patch.setattr(os, "sched_yield", lambda: None)
        patch.setattr(claim, "_TURNS", TRIES)
        patch.setattr(logging.root.manager, "disable", logging.CRITICAL)
        for name in ("claiming", "finishing", "recovery"):
            patch.setattr(f"fastclaim.{name}.turns", lambda _: iter(range(TRIES)))
        for module, names in _OF_PROCESS:
            for name in names:
                patch.setattr(module, name, getattr(module, name))
        # A destructor, too, can be where the answers end.
        patch.setattr(sys, "unraisablehook", functools.partial(_unraisable, sys.unraisablehook))
        gc.collect()
        gc.disable()  # garbage of one run must make no calls in another
        try:
            yield patch
        finally:
            gc.enable()


_real_time_ns = time.time_ns


def _now_ns() -> int:
    run = running()
    return _real_time_ns() if run is None else run.now_ns


def _unraisable(tell: Callable[[Any], None], unraisable: Any) -> None:
    if not isinstance(unraisable.exc_value, Stopped):
        tell(unraisable)
