"""Processes that make one system call at a time, and every order in which several can make them.

A process is a function of what its calls come to: it is run on its own, its calls are answered with
what they came to before, and the first that has no answer yet is where it stands. So no process has
to be kept half-way, and none is run twice to the same place: what it does next is looked up by what
it has seen. Only the kernel (`memory_kernel`) is copied, called and compared.

Two states are the same if all names, inodes, flocks and open files are, and if each process has
seen the same, or has come to a place (`Process.at`) where nothing of what it has seen matters but
what it says there. States are compared whole, not by a digest.

Some calls are made at once, in one step with the call before; nothing is lost by that, because no
other process can tell whether they have been made, nor change what they come to:

 - what concerns directories, and the file `paused`: no process here makes or removes those;
 - fsync: there are no power cuts here;
 - close of what has no flock, flock of what has it already, unlock of what has none;
 - fstat, read and pread of a file whose exclusive flock the process holds. That others leave such a
   file alone is what the protocol promises, so it is not believed but checked: `NotIndependent` is
   raised if another process changes what was read, before the process that read it has gone on.

A death before such a call leaves what a death after it leaves.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import gc
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from fastclaim import _transition_py, deaths, listing, owners, tokens, whole_file

from .memory_kernel import DIRECTORIES, FIRST_DESCRIPTOR, Kernel

BASE = "/pool-in-memory"
TASKS = f"{BASE}/tasks"
NOW_NS = 1_700_000_000_123_456_789
# How often whoever meets a lock tries again.
TRIES = 2

Call = tuple[Any, ...]


class NotIndependent(AssertionError):
    """A process has changed what another holds, so that no call on it may be made at once."""


class Stopped(BaseException):
    """Thrown into a process where its answers end."""


class Failure(NamedTuple):
    """What a call came to if not to a result."""

    errno: int


def attempt(kernel: Kernel, process: int, call: Call) -> Any:
    """Make a call; its result or its `Failure`."""
    try:
        return kernel.call(process, *call)
    except OSError as error:
        return Failure(error.errno or 0)


# One process --------------------------------------------------------------------------------------


class Place:
    """Where a process stands.

    Attributes
    ----------
    call : tuple or None
        What it is about to do; None if it has come to its end.
    said : dict
        What its program has said so far.
    read : frozenset
        What it relies on not to change before it goes on: inode numbers, with "content" or "links".
    """

    __slots__ = ("before", "call", "following", "number", "read", "said")

    def __init__(
        self,
        before: tuple[tuple[Call, Any], ...],
        call: Call | None,
        said: dict[str, Any],
        read: frozenset[tuple[str, Any]],
    ) -> None:
        self.before, self.call, self.said, self.read = before, call, said, read
        self.following: dict[Any, Place] = {}
        self.number = -1


class Process:
    """What runs as one process, and all places that it has come to.

    Parameters
    ----------
    name : str
        Twelve characters at most; it is part of its tokens.
    program : callable
        What it runs; gets the process.
    index : int
        Which of the kernel's processes it is.
    now_ns : int
        What its clock says.
    """

    def __init__(
        self, name: str, program: Callable[[Process], None], index: int, now_ns: int = NOW_NS
    ) -> None:
        self.name, self.index, self.now_ns = name, index, now_ns
        self.runs = 0
        self._program = program
        self._places: dict[Any, Place] = {}

    def begin(self, kernel: Kernel) -> Place:
        """Make its calls up to the first `at`."""
        return self._add(None, _Run(self, (), kernel), frozenset())

    def run(self, kernel: Kernel) -> None:
        """Make all of its calls."""
        _Run(self, (), kernel, to_the_end=True)

    def follow(self, place: Place, result: Any, read: frozenset[tuple[str, Any]]) -> Place:
        """Where it goes if its call comes to that."""
        found = place.following.get(result)
        if found is None or found.read != read:
            run = _Run(self, (*place.before, (place.call, result)))
            found = place.following[result] = self._add((place.number, result), run, read)
        return found

    def _add(self, way: Any, run: _Run, read: frozenset[tuple[str, Any]]) -> Place:
        self.runs += 1
        seen = way if run.key is None else run.key
        if run.call is None:
            seen, read = "end", frozenset()
        key = (seen, tuple(sorted(run.said.items(), key=repr)), read)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(run.history, run.call, run.said, read)
            place.number = len(self._places)
        return place

    # For its program:

    def say(self, **said: Any) -> None:
        """Tell what whoever looks at the state has to know."""
        _running().say(said)

    def at(self, *key: Any) -> None:
        """Here all that matters of what it has seen is `key`, and what it has said."""
        _running().at(key)

    def pause(self) -> None:
        """Let others come first."""
        _call("pause")


class _Run:
    """One run of a program, its calls answered from a history, and then by a kernel, if any."""

    def __init__(
        self,
        process: Process,
        history: tuple[tuple[Call, Any], ...],
        kernel: Kernel | None = None,
        to_the_end: bool = False,
    ) -> None:
        self.history = history
        self.said: dict[str, Any] = {}
        self.key: Any = None
        self.call: Call | None = None
        self.now_ns = process.now_ns
        self._process, self._kernel, self._to_the_end = process, kernel, to_the_end
        self._answers = iter(history)
        self._is_stopped = False
        self._run()

    def _run(self) -> None:
        global _current
        assert _current is None
        _current = self
        tokens._prefix, tokens._numbers = f"{self._process.name:0>12}", itertools.count(1)
        owners._files = {}
        try:
            with contextlib.suppress(Stopped):
                self._process._program(self._process)
        finally:
            owners._files = {}
            _current = None
        assert next(self._answers, None) is None, "it did not do again what it had done"

    def answer(self, call: Call) -> Any:
        if self._is_stopped:
            raise Stopped
        made, result = next(self._answers, (None, None))
        if made is not None:
            assert made == call, f"{call}, and before {made}"
        elif self._kernel is not None:
            result = attempt(self._kernel, self._process.index, call)
            self.history = (*self.history, (call, result))
        else:
            self.call, self._is_stopped = call, True
            raise Stopped
        self.key = None
        if isinstance(result, Failure):
            raise OSError(result.errno, os.strerror(result.errno))
        return result

    def say(self, said: dict[str, Any]) -> None:
        if not self._is_stopped:
            self.said |= said

    def at(self, key: Any) -> None:
        if not self._is_stopped:
            descriptors = tuple(file.descriptor for file in owners._files.values())
            self.key = (key, repr(tokens._numbers), descriptors)
            if not self._to_the_end:
                self._kernel = None


_current: _Run | None = None


def _running() -> _Run:
    assert _current is not None
    return _current


def _call(*call: Any) -> Any:
    if _current is None:  # an object that has outlived its run
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return _current.answer(call)


# The calls of the code under test -----------------------------------------------------------------


def _path(path: Any, dir_fd: int | None = None) -> str | None:
    """A path below tasks/, "" for that; None if it is somewhere else."""
    text = os.fsdecode(path)
    if text.startswith("/"):
        if text != BASE and not text.startswith(f"{BASE}/"):
            return None
        return text.removeprefix(BASE).removeprefix("/tasks").removeprefix("/")
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


_BY_DESCRIPTOR = ("close", "fstat", "read", "pread", "write", "pwrite", "fsync")


def _stepped(name: str) -> Callable[..., Any]:
    real, meant = getattr(os, name), getattr(_Calls, name)

    @functools.wraps(real)
    def call(*arguments: Any, **named: Any) -> Any:
        meaning = meant(*arguments, **named)
        if meaning[1] is None or (isinstance(meaning[1], int) and meaning[1] < FIRST_DESCRIPTOR):
            return real(*arguments, **named)
        try:
            result = _call(*meaning)
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
        return _call(name, descriptor, *(bytes(a) if name == "write" else a for a in arguments))

    return call


def _flock(file: Any, operation: int) -> None:
    descriptor = file if isinstance(file, int) else file.fileno()
    if descriptor < FIRST_DESCRIPTOR:
        _real_flock(descriptor, operation)
    else:
        _call("flock", descriptor, operation & ~fcntl.LOCK_NB)


_real_flock, _real_scandir = fcntl.flock, os.scandir


def _scandir(path: Any) -> Any:
    # At once, as the kernel gives them: a directory of less than 32 KB takes one call.
    below = _path(path)
    return _real_scandir(path) if below is None else _Entries(path, _call("listdir", below))


def _renameat2(at: int, source: bytes, target: bytes, flags: int) -> None:
    try:
        _call("rename", _path(source, at), _path(target, at), flags)
    except OSError as error:
        error.filename = source
        raise


class _File:
    """As much of `open` as is used here."""

    def __init__(self, file: Any, mode: str = "r", *, opener: Any = None) -> None:
        assert mode in ("r", "rb")
        self._is_text = mode == "r"
        self._descriptor: int | None = None
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._descriptor = opener(file, flags) if opener else os.open(file, flags)

    def __enter__(self) -> _File:
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
        name = os.path.join(dir, f"tmp{tokens._prefix}{suffix}")
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

    def may_have_come(self) -> bool:
        return True


@contextlib.contextmanager
def in_memory() -> Iterator[pytest.MonkeyPatch]:
    """Let what is below `BASE` be in a `Kernel`'s memory."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "stat", "lstat", "rename", "unlink", "listdir", "mkdir", "utime"):
            patch.setattr(os, name, _stepped(name))
        for name in _BY_DESCRIPTOR:
            patch.setattr(os, name, _stepped_by_descriptor(name))
        patch.setattr(os, "scandir", _scandir)
        patch.setattr(fcntl, "flock", _flock)
        patch.setattr(_transition_py, "_rename_with", _renameat2)
        for module in (listing, whole_file):
            patch.setattr(module, "open", _File, raising=False)
        patch.setattr(deaths, "deaths_in", lambda _: _MaybeDeaths())
        patch.setattr("time.time_ns", lambda: _running().now_ns)
        patch.setattr("time.time", lambda: _running().now_ns / 1e9)
        patch.setattr("time.sleep", lambda _: None)
        for name in ("claiming", "finishing", "recovery"):
            patch.setattr(f"fastclaim.{name}.turns", lambda _: iter(range(TRIES)))
        for module, name in ((tokens, "_prefix"), (tokens, "_numbers"), (owners, "_files")):
            patch.setattr(module, name, getattr(module, name))
        # A destructor, too, can be where the answers end.
        patch.setattr(sys, "unraisablehook", _unraisable)
        gc.collect()
        gc.disable()  # garbage of one run must make no calls in another
        try:
            yield patch
        finally:
            gc.enable()


_told_unraisable = sys.unraisablehook


def _unraisable(unraisable: Any) -> None:
    if not isinstance(unraisable.exc_value, Stopped):
        _told_unraisable(unraisable)


# Every order --------------------------------------------------------------------------------------


class State:
    """Files, where each process stands (None: it has ended), and what has been acknowledged."""

    __slots__ = ("acknowledged", "deaths_left", "kernel", "places")

    def __init__(
        self,
        kernel: Kernel,
        places: tuple[Place | None, ...],
        deaths_left: int,
        acknowledged: tuple[str, ...] = (),
    ) -> None:
        self.kernel, self.places = kernel, places
        self.deaths_left, self.acknowledged = deaths_left, acknowledged

    def said(self, what: str) -> list[Any]:
        """What the living have said of something."""
        return [place.said[what] for place in self.places if place and place.said.get(what)]


class Explorer:
    """All states that some processes can come to.

    Parameters
    ----------
    kernel : Kernel
        What is there at first. Its process 0 is none of those that follow.
    processes : list of Process
        Who they are.
    deaths : int
        How many of them may die.
    check : callable
        Gets each state.
    check_end : callable
        Gets each state in which nobody has anything left to do.
    links_change : bool
        Whether somebody renames or unlinks files that others hold, so that fstat and stat of those
        are steps of their own.
    call_by_call : bool
        Whether no call is made at once.
    """

    def __init__(
        self,
        kernel: Kernel,
        processes: list[Process],
        deaths: int,
        check: Callable[[State], None],
        check_end: Callable[[State], None],
        links_change: bool = False,
        call_by_call: bool = False,
    ) -> None:
        self.steps = self.ends = 0
        self._processes = processes
        self._check, self._check_end = check, check_end
        self._silent = {"read", "pread"} if links_change else {"read", "pread", "fstat", "stat"}
        self._call_by_call = call_by_call
        self._numbers: dict[Any, int] = {}
        places = []
        for process in processes:
            places.append(self._settled(kernel, process, process.begin(kernel)))
        self._first = State(kernel, tuple(places), deaths)
        self._came_from: dict[Any, tuple[Any, str]] = {}

    @property
    def states(self) -> int:
        """How many were found."""
        return len(self._came_from)

    @property
    def runs(self) -> int:
        """How often a process's program was run."""
        return sum(process.runs for process in self._processes)

    def explore(self) -> None:
        """Find them all, and check them."""
        waiting = [(self._first, self._key(self._first))]
        self._came_from[waiting[0][1]] = (None, "")
        while waiting:
            state, key = waiting.pop()
            with self._telling(key):
                self._check(state)
                if not any(place and place.call for place in state.places):
                    self.ends += 1
                    self._check_end(state)
            for index, dies in self._choices(state):
                with self._telling(key, index, dies):
                    following = self._die(state, index) if dies else self._step(state, index)
                self.steps += 1
                its_key = self._key(following)
                if its_key not in self._came_from:
                    self._came_from[its_key] = (key, (index, dies))
                    waiting.append((following, its_key))

    def _choices(self, state: State) -> Iterator[tuple[int, bool]]:
        for index, place in enumerate(state.places):
            if place is not None:
                if place.call is not None:
                    yield index, False
                if state.deaths_left:
                    yield index, True

    def _step(self, state: State, index: int) -> State:
        process, place = self._processes[index], state.places[index]
        assert place is not None
        kernel = state.kernel.copy()
        assert place.call is not None
        result = attempt(kernel, process.index, place.call)
        self._check_independent(state, kernel, index)
        following = process.follow(place, result, frozenset())
        following = self._settled(kernel, process, following)
        acknowledged = state.acknowledged
        if "acknowledged" in following.said and "acknowledged" not in place.said:
            acknowledged = tuple(sorted((*acknowledged, following.said["acknowledged"])))
        has_ended = following.call is None and not following.said.get("holds")
        if has_ended:
            kernel.end(process.index)
        its_place = None if has_ended else following
        places = (*state.places[:index], its_place, *state.places[index + 1 :])
        return State(kernel, places, state.deaths_left, acknowledged)

    def _die(self, state: State, index: int) -> State:
        kernel = state.kernel.copy()
        kernel.end(self._processes[index].index)
        places = (*state.places[:index], None, *state.places[index + 1 :])
        return State(kernel, places, state.deaths_left - 1, state.acknowledged)

    def _settled(self, kernel: Kernel, process: Process, place: Place) -> Place:
        """Where it stands after the calls that are made at once."""
        while place.call is not None and self._is_silent(kernel, process.index, place.call):
            read = place.read.union(_read_by(kernel, process.index, place.call))
            result = attempt(kernel, process.index, place.call)
            read = frozenset(what for what in read if _is_there(kernel, what))
            place = process.follow(place, result, read)
        return place

    def _is_silent(self, kernel: Kernel, index: int, call: Call) -> bool:
        if self._call_by_call or call == ("pause",):
            return False
        name, subject = call[:2]
        if name in ("mkdir", "fsync"):
            return True
        if name in ("open", "stat"):
            if subject in DIRECTORIES or subject == "paused":
                return True
            return name in self._silent and kernel.holds(index, kernel.names.get(subject))
        file = kernel.processes[index].get(subject)
        if file is None:
            return False
        if file.inode < 0 or (name == "close" and file.lock == fcntl.LOCK_UN):
            return True
        if name == "flock" and call[2] == file.lock:
            return True
        if file.lock == fcntl.LOCK_EX and name in self._silent:
            return True
        return kernel.inodes[file.inode].links == 0 and kernel.is_alone(index, file.inode)

    def _check_independent(self, state: State, after: Kernel, index: int) -> None:
        for other, place in enumerate(state.places):
            if other == index or place is None:
                continue
            for what in place.read:
                if _aspect(state.kernel, what) != _aspect(after, what):
                    raise NotIndependent(f"{what} is what {self._processes[other].name} holds")

    def _key(self, state: State) -> Any:
        """All that the future depends on."""
        kernel = state.kernel
        number = self._number
        return (
            number(frozenset(kernel.names.items())),
            number(frozenset(kernel.inodes.items())),
            *(number(frozenset(files.items())) for files in kernel.processes),
            *(0 if place is None else place.number for place in state.places),
            state.deaths_left,
            state.acknowledged,
        )

    def _number(self, part: Any) -> int:
        return self._numbers.setdefault(part, len(self._numbers))

    # What led there -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _telling(self, key: Any, index: int | None = None, dies: bool = False) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            choices = [] if index is None else [(index, dies)]
            while key is not None:
                key, choice = self._came_from[key]
                choices.append(choice)
            error.add_note("\n".join(self._told(choices[-2::-1])))
            raise

    def _told(self, choices: list[tuple[int, bool]]) -> Iterator[str]:
        state = self._first
        for index, dies in choices:
            place = state.places[index]
            assert place is not None
            yield f"{self._processes[index].name}: {'DIES before ' if dies else ''}{place.call}"
            with contextlib.suppress(Exception):
                state = self._die(state, index) if dies else self._step(state, index)


def _read_by(kernel: Kernel, index: int, call: Call) -> Iterator[tuple[str, Any]]:
    """What a call's result depends on that others could change."""
    if call[0] == "stat":
        number = kernel.names.get(call[1], -1)
        if number >= 0:
            yield "name", call[1]
    elif call[0] in ("fstat", "read", "pread"):
        number = kernel.processes[index][call[1]].inode
    else:
        return
    if number >= 0:
        yield "content", number
        if call[0] in ("stat", "fstat"):
            yield "links", number


def _is_there(kernel: Kernel, what: tuple[str, Any]) -> bool:
    """Whether it can still change: what nobody names or has open, cannot."""
    kind, of = what
    return kind == "name" or of in kernel.inodes


def _aspect(kernel: Kernel, what: tuple[str, Any]) -> object:
    kind, of = what
    if kind == "name":
        return kernel.names.get(of)
    inode = kernel.inodes[of]
    return inode.links if kind == "links" else (inode.content, inode.mtime_ns)
