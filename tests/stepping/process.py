"""A process as a function of what its calls come to.

It is run on its own, its calls are answered with what they came to before, and the first that has
no answer yet is where it stands. So no process has to be kept half-way, and none is run twice to
the same place: what it does next is looked up by what it has seen.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from fastclaim import owners, stamps, tokens

from .kernel import Kernel

NOW_NS = 1_700_000_000_123_456_789

Call = tuple[Any, ...]


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
        _now().say(said)

    def at(self, *key: Any) -> None:
        """Here all that matters of what it has seen is `key`, and what it has said."""
        _now().at(key)

    def pause(self) -> None:
        """Let others come first."""
        make("pause")


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
        tokens.own_id, tokens._numbers = f"{self._process.name:0>12}", itertools.count(1)
        stamps._seed()
        owners._open, owners._known = {}, {}
        try:
            with contextlib.suppress(Stopped):
                self._process._program(self._process)
        finally:
            owners._open, owners._known = {}, {}
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
            files = (known() for known in owners._known.values())
            told = tuple((file.descriptor, file._conflicts) for file in files)
            self.key = (key, repr(tokens._numbers), told)
            if not self._to_the_end:
                self._kernel = None


_current: _Run | None = None


def running() -> _Run | None:
    """The run that is under way."""
    return _current


def at(*key: Any) -> None:
    """`Process.at` of the process that runs."""
    _now().at(key)


def _now() -> _Run:
    assert _current is not None
    return _current


def make(*call: Any) -> Any:
    """Make a system call; raises OSError."""
    if _current is None:  # an object that has outlived its run
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return _current.answer(call)
