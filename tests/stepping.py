"""Actors that run one file-system call at a time, in whatever order a scheduler chooses.

Each actor stands for a process. It runs in a greenlet of its own, which hands over before each call
that others could notice; the calls are then made for real. What a process has for itself is
switched along: its owner file, its id, its descriptors (flock goes by open file, so that actors
exclude each other as processes do). A death closes the descriptors and nothing else: not a line
more of the actor's code has any effect.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

import greenlet
import pytest

from fastclaim import _transition_py, deaths, listing, owners, tokens, whole_file

# Calls that a run makes at once, without handing over: nobody else can notice them, or they only
# change what the actor alone has. `close` is not among them: it may drop a flock.
_SILENT = {"fsync", "fdatasync", "mkdir"}
_CALLS = ["open", "close", "stat", "lstat", "fstat", "rename", "unlink", "read", "pread", "write"]
_CALLS += ["pwrite", "utime", "listdir", "scandir", *_SILENT]
NOW_NS = 1_700_000_000_123_456_789


class Died(BaseException):
    """Thrown into an actor that is dead, to get rid of its frames."""


class Actor:
    """One process, and what it does.

    Parameters
    ----------
    name : str
        What it is called in the traces.
    program : callable
        What it runs; gets the actor.

    Attributes
    ----------
    seen : int
        A digest of all that its calls have come to. With the program it says where it is.
    pending : tuple
        The call that it makes when it is next run.
    """

    def __init__(self, name: str, program: Callable[[Actor], None], may_die: bool = True) -> None:
        self.name, self.may_die = name, may_die
        self.is_dead = self.is_done = False
        self.seen = 0
        self.pending: tuple[Any, ...] = ("start",)
        self.descriptors: set[int] = set()
        self.process = (f"{name:0>12}", itertools.count(1), {})
        self._greenlet = greenlet.greenlet(lambda: program(self))
        self._made = itertools.count()

    def run(self) -> None:
        """Make the pending call, and go on to the next."""
        tokens._prefix, tokens._numbers, owners._files = self.process
        self._greenlet.switch()
        if self._greenlet.dead:
            self.is_done, self.pending = True, ()

    def die(self) -> None:
        """As by SIGKILL."""
        self.is_dead = True
        for descriptor in self.descriptors:
            # The number stays taken: objects that nobody cleans up may still have it.
            os.dup2(_nothing, descriptor, inheritable=False)

    def bury(self) -> None:
        """Get rid of its frames and descriptors, when nothing matters any more."""
        self.is_dead = True
        if not self._greenlet.dead:
            with contextlib.suppress(Died, OSError):
                self._greenlet.throw(Died)
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):  # an object that went with the frames closed it
                os.close(descriptor)
        self.descriptors.clear()
        self.process[2].clear()

    def say(self, what: object) -> None:
        """Let something that it decided be part of where it is."""
        self.seen = hash((self.seen, what))

    def label(self) -> tuple[str, int]:
        """A name for a file that it makes, the same in whatever order the others run."""
        return self.name, next(self._made)


_nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
_real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in _CALLS}
_real["flock"] = fcntl.flock


class Seam:
    """Every file-system call of the code under test, while `actors` are running."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.actors: list[Actor] = []
        self.labels: dict[int, tuple[str, int]] = {}
        for name in _CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, _real[name]))
        monkeypatch.setattr(fcntl, "flock", self._wrap("flock", _real["flock"]))
        monkeypatch.setattr(_transition_py, "_sync_content", lambda _: None)
        rename = self._wrap("renameat2", _transition_py._rename_with)
        monkeypatch.setattr(_transition_py, "_rename_with", rename)
        for module in (listing, whole_file):
            monkeypatch.setattr(module, "open", open_stepped, raising=False)
        # Otherwise a queue of inotify's, which tells of nothing sooner than this does.
        monkeypatch.setattr(deaths, "deaths_in", lambda _: _AlwaysMaybe())
        monkeypatch.setattr("time.time_ns", lambda: NOW_NS)
        monkeypatch.setattr("time.time", lambda: NOW_NS / 1e9)
        # A wait is a new try; so many are enough to meet whatever may be met.
        for module_name in ("claiming", "finishing", "recovery"):
            monkeypatch.setattr(f"fastclaim.{module_name}.turns", lambda _: iter(range(TRIES)))
        monkeypatch.setattr(owners, "_PAUSE_S", 0.0)

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **named: Any) -> Any:
            actor = self._running()
            if actor is None:
                return call(*arguments, **named)
            if actor.is_dead:
                raise OSError(errno.EBADF, "dead")
            if name not in _SILENT:
                actor.pending = (name, *map(_shown, arguments))
                actor._greenlet.parent.switch()
            if actor.is_dead:  # it died instead
                raise OSError(errno.EBADF, "dead")
            return self._make(actor, name, call, arguments, named)

        return stepped

    def _running(self) -> Actor | None:
        current = greenlet.getcurrent()
        for actor in self.actors:
            if actor._greenlet is current:
                return actor
        return None

    def _make(
        self, actor: Actor, name: str, call: Callable[..., Any], arguments: Any, named: Any
    ) -> Any:
        is_new = False
        if name == "open" and arguments[1] & os.O_CREAT:
            try:
                _real["stat"](arguments[0], dir_fd=named.get("dir_fd"), follow_symlinks=False)
            except FileNotFoundError:
                is_new = True
        try:
            result = call(*arguments, **named)
        except OSError as error:
            actor.say((name, error.errno))
            raise
        if name == "open":
            actor.descriptors.add(result)
            status = _real["fstat"](result)
            if is_new:
                self.labels[status.st_ino] = actor.label()
            actor.say((name, self.labels.get(status.st_ino)))
        elif name == "close":
            actor.descriptors.remove(arguments[0])
            actor.say(name)
        else:
            actor.say((name, self._seen(result)))
        return result

    def _seen(self, result: Any) -> Any:
        if isinstance(result, os.stat_result):
            label = self.labels.get(result.st_ino)
            if not stat.S_ISREG(result.st_mode):
                return "directory"
            return label, result.st_nlink, result.st_size, self.time_of(result)
        if isinstance(result, list):
            return tuple(sorted(result))
        if hasattr(result, "__next__"):
            return "entries"  # told by what is then read of them
        return result

    @staticmethod
    def time_of(status: os.stat_result) -> object:
        """The time of a file if somebody set it; else only that nobody did."""
        return status.st_mtime_ns if status.st_mtime_ns <= NOW_NS else "the kernel's"


# How often whoever meets a lock tries again.
TRIES = 2


class _AlwaysMaybe:
    def may_have_come(self) -> bool:
        return True


def _shown(argument: object) -> object:
    if isinstance(argument, bytes | str | os.PathLike):
        return "/".join(os.fsdecode(argument).split("/")[-2:])
    return argument


class open_stepped:
    """As much of `open` as is used here, made of the calls that are stepped."""

    def __init__(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        *,
        opener: Callable[[Any, int], int] | None = None,
        closefd: bool = True,
    ) -> None:
        self._is_text, self._closes = "b" not in mode, closefd
        self.name = file
        if isinstance(file, int):
            self._descriptor = file
        elif opener is not None:
            self._descriptor = opener(file, os.O_RDONLY)
        else:
            assert mode == "r"
            self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> open_stepped:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._descriptor

    def read(self, size: int = 1 << 20) -> Any:
        content = os.read(self._descriptor, size)
        return content.decode() if self._is_text else content

    def close(self) -> None:
        if self._closes:
            os.close(self._descriptor)


class Tempfile:
    """`tempfile` for the original: its temporary file, by the calls that are stepped."""

    @contextlib.contextmanager
    def NamedTemporaryFile(self, mode: str, dir: Any, suffix: str, delete: bool) -> Iterator[Any]:
        assert (mode, delete) == ("w", False)
        name = os.path.join(dir, f"tmp{tokens._prefix}{suffix}")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = _Written(name, descriptor)
        yield file
        os.close(descriptor)


class _Written(io.StringIO):
    def __init__(self, name: str, descriptor: int) -> None:
        super().__init__()
        self.name, self._descriptor = name, descriptor

    def fileno(self) -> int:
        return self._descriptor

    def flush(self) -> None:
        os.write(self._descriptor, self.getvalue().encode())
