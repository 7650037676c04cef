"""All states that some processes can come to, whatever the order of their calls.

Two states are the same if all names, inodes, flocks and open files are, and if each process has
seen the same, or has come to a place (`Process.at`) where nothing of what it has seen matters but
what it says there. States are compared whole, not by a digest.

Some calls are made at once, in one step with the call before; nothing is lost by that, because no
other process can tell whether they have been made, nor change what they come to:

 - what concerns directories, and the file `paused`: no process here makes or removes those;
 - fsync: there are no power cuts here;
 - close of what has no flock, flock of what has it already, unlock of what has none;
 - what is done to a file that has no name and that no other process has open;
 - fstat, read and pread of a file whose exclusive flock the process holds, and stat of its name.
   That others leave such a file alone is what the protocol promises, so it is not believed but
   checked: `NotIndependent` is raised if another process changes what was read before the process
   that read it has gone on.

A death before such a call leaves what a death after it leaves.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from typing import Any

from .kernel import DIRECTORIES, Kernel
from .process import Call, Place, Process, attempt


class NotIndependent(AssertionError):
    """A process has changed what another holds, so that no call on it may be made at once."""


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
