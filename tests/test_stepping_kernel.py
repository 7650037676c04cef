"""The kernel in memory answers as the real one does, whatever it is asked in whatever order."""

from __future__ import annotations

import fcntl
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastclaim._core import posix
from fastclaim.tasks_directory import AT_FDCWD

from .stepping.kernel import (
    DIRECTORIES,
    EXCHANGE,
    FIRST_DESCRIPTOR,
    KERNEL_TIME_NS,
    NOREPLACE,
    Kernel,
    Status,
)

PROCESSES = 2
SET_TIME_NS = 1_600_000_000_000_000_000  # long before any that the real kernel writes
NAMES = ("available/x.json", "claimed/x_a.json", "claimed/new.tmp")

_names = st.sampled_from(NAMES)
_descriptors = st.integers(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + 2)
_contents = st.binary(min_size=1, max_size=4)
_locks = st.one_of(
    st.tuples(
        st.just("flock"),
        _descriptors,
        st.sampled_from([fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN]),
    ),
    st.tuples(st.just("close"), _descriptors),
    st.tuples(st.just("open"), st.just(NAMES[0]), st.just(os.O_RDWR)),
)
_calls = st.one_of(
    _locks,
    st.tuples(
        st.just("open"),
        _names,
        st.sampled_from(
            [
                os.O_RDWR,
                os.O_RDWR | os.O_CREAT,
                os.O_RDWR | os.O_CREAT | os.O_EXCL,
                os.O_RDWR | os.O_CREAT | os.O_TRUNC,
            ]
        ),
    ),
    st.tuples(st.just("rename"), _names, _names, st.sampled_from([0, NOREPLACE, EXCHANGE])),
    st.tuples(st.just("link"), _names, _names),
    st.tuples(st.sampled_from(["stat", "unlink"]), _names),
    st.tuples(st.just("listdir"), st.sampled_from(DIRECTORIES[1:])),
    st.tuples(st.just("mkdir"), st.sampled_from(DIRECTORIES)),
    st.tuples(st.sampled_from(["close", "fstat", "fsync"]), _descriptors),
    st.tuples(st.just("read"), _descriptors, st.integers(1, 5)),
    st.tuples(st.just("pread"), _descriptors, st.integers(1, 5), st.integers(0, 5)),
    st.tuples(st.just("write"), _descriptors, _contents),
    st.tuples(st.just("pwrite"), _descriptors, _contents, st.integers(0, 5)),
    st.tuples(st.just("utime"), _descriptors, st.integers(SET_TIME_NS, SET_TIME_NS + 2)),
)


class RealKernel:
    """The same calls on real files; a process is who has opened what."""

    def __init__(self, base: Path) -> None:
        self._base = base
        for name in DIRECTORIES:
            (base / name).mkdir(exist_ok=True)
        self._descriptors: list[dict[int, int]] = [{} for _ in range(PROCESSES)]

    def call(self, process: int, name: str, *arguments: Any) -> Any:
        files = self._descriptors[process]
        if name in ("open", "stat", "unlink", "listdir", "mkdir"):
            path, *rest = arguments
            result = getattr(os, name)(self._base / path, *rest)
            if name == "open":
                descriptor = next(n for n in range(FIRST_DESCRIPTOR, 1 << 30) if n not in files)
                files[descriptor] = result
                return descriptor
            return tuple(sorted(result)) if name == "listdir" else result
        if name == "link":
            return os.link(*(self._base / path for path in arguments))
        if name == "rename":
            source, target = (os.fsencode(self._base / path) for path in arguments[:2])
            return posix.rename_with(AT_FDCWD, source, target, arguments[2])
        descriptor = files.get(arguments[0], FIRST_DESCRIPTOR - 1)  # which nobody has open
        if name == "close":
            files.pop(arguments[0], None)
        return self._by_descriptor(name)(descriptor, *arguments[1:])

    def _by_descriptor(self, name: str) -> Callable[..., Any]:
        if name == "flock":
            return lambda descriptor, kind: fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if name == "utime":
            return lambda descriptor, time_ns: os.utime(descriptor, ns=(time_ns, time_ns))
        return getattr(os, name)

    def end(self, process: int) -> None:
        for descriptor in self._descriptors[process].values():
            os.close(descriptor)
        self._descriptors[process].clear()


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return f"errno {error.errno}"


def _by_processes(calls: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Calls of several processes, after each has opened the same file twice."""
    opens = [
        (process, ("open", NAMES[0], os.O_RDWR | os.O_CREAT))
        for process in range(PROCESSES)
        for _ in range(2)
    ]
    some = st.tuples(st.integers(0, PROCESSES - 1), st.one_of(calls, st.just(("end",))))
    return st.lists(some, min_size=5, max_size=30).map(lambda made: opens + made)


@settings(max_examples=300, deadline=None)
@given(_by_processes(_calls))
def test_the_kernel_in_memory_answers_as_the_real_one(
    calls: list[tuple[int, tuple[Any, ...]]],
) -> None:
    _compare(calls)


@settings(max_examples=300, deadline=None)
@given(_by_processes(_locks))
def test_its_flocks_are_granted_as_the_real_ones(
    calls: list[tuple[int, tuple[Any, ...]]],
) -> None:
    _compare(calls)


def _compare(calls: list[tuple[int, tuple[Any, ...]]]) -> None:
    looks = [(0, ("stat", name)) for name in NAMES]
    with tempfile.TemporaryDirectory() as base:
        real, modelled = RealKernel(Path(base)), Kernel(PROCESSES)
        numbers: dict[int, int] = {}  # of inodes: the modelled one's to the real one's
        try:
            for process, call in (step for made in calls for step in (made, *looks)):
                if call == ("end",):
                    real.end(process)
                    modelled.end(process)
                    continue
                expected = _outcome(functools.partial(real.call, process, *call))
                found = _outcome(functools.partial(modelled.call, process, *call))
                numbers = {ours: its for ours, its in numbers.items() if ours in modelled.inodes}
                if isinstance(found, Status) and isinstance(expected, os.stat_result):
                    number = numbers.setdefault(found.st_ino, expected.st_ino)
                    expected = _as_modelled(expected, number, found)
                assert found == expected, call
        finally:
            for process in range(PROCESSES):
                real.end(process)


def _as_modelled(status: os.stat_result, number: int, found: Status) -> Status:
    is_set = status.st_mtime_ns <= SET_TIME_NS + 2
    return found._replace(
        st_ino=found.st_ino if number == status.st_ino else -1,
        st_nlink=status.st_nlink,
        st_size=status.st_size,
        st_mtime_ns=status.st_mtime_ns if is_set else KERNEL_TIME_NS,
    )
