"""The waiting tasks as one kind of agent sees them: what it may claim, and in which order.

A view reads the directory once, lazily and in pieces, and from then on only what it is told of. A
task that may not be claimed yet is *parked* until what it waits for changes; one that never may be
(as it stands) is forgotten until it is published anew. Nothing here is shared between processes, so
a view may be behind: the claim itself decides.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections import deque

from . import layout
from .candidates import Ordered
from .changes import Change, Changes
from .directories import Directories
from .doubts import Doubts
from .errors import InvalidName, InvalidTask
from .listing import read_task
from .matching import (
    Capabilities,
    Task,
    deadline,
    missing_capability,
    names_in,
    not_before,
    rank,
)
from .terms import encode_capabilities, rank_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

_PIECE_NAMES: Final = 256
_MOST_PARKED: Final = 100_000
_MOST_FRESH: Final = 100_000
_MOST_SKIPPED_BITS: Final = 8
# How long to leave alone a task that somebody is in the middle of a transition of.
BUSY_S: Final = 2e-3


class View(ABC):
    """What agents with these capabilities may claim. Not safe from threads by itself."""

    is_eager = True  # whether it must know of all tasks before it can say which is next
    names: Sequence[str] = ()  # of tasks, that it has read in no order and not come to yet

    def __init__(self, pool: Directories, changes: Changes, capabilities: Capabilities) -> None:
        # What those who find the same tasks, and may read and claim them, have in common.
        names = sorted({f"{name}" for name in capabilities})
        self.kind = (os.geteuid(), os.getegid(), sorted(os.getgroups()), names)
        self._pool = pool
        self._changes = changes
        self._capabilities = capabilities
        # Capabilities for a claim of what `take` has given, which may have changed since.
        self.claims_with = encode_capabilities(capabilities)
        self._prefix = os.path.join(os.fsdecode(pool.available), "")
        self.misses = 0
        self.rescan()

    def rescan(self) -> None:
        """Forget everything, and read the directory anew, piece by piece."""
        self.fresh: dict[str, None] = {}
        self._parked: dict[Change, list[str]] = {}
        self._parked_tasks = 0
        self._due: list[tuple[float, str]] = []
        # What some agents cannot claim, for reasons of their own, and which agents.
        self.refused: dict[str, set[str]] = {}
        self._doubts = Doubts(self._pool, self._prefix)
        self._forgot = False
        self._is_stale = False
        self._scan: _Scan | None = _Scan(self._prefix)
        self.scanned_at_s = time.monotonic()
        self.scan_took_s = 0.0
        self.names_read = 0

    def invalidate(self) -> None:
        """Rescan at the next occasion: something may have been left half done."""
        self._is_stale = True

    def take(self, due_s: float) -> str | None:
        """The file name of the next task to try, which the view then knows no more of.

        Parameters
        ----------
        due_s : float
            Of those that were left alone until a time, the latest to be tried, since the epoch: a
            search must not come back to what it has found busy itself.
        """
        if self._doubts.names and self._doubts.are_due:
            self._settle()
        # More than once: what others take of those before it is tried is a miss, from which on
        # looks say again that the rest has gone.
        while (name := self._next(due_s)) is None and self._settle():
            pass
        return name

    @abstractmethod
    def _next(self, due_s: float) -> str | None:
        """The same, as far as names that may have gone count for gone."""

    def judge(self, name: str) -> bool:
        """Whether that task may be claimed now; else it is parked or forgotten."""
        return self._examine(name) is not None

    def tell(self, names: Sequence[str]) -> None:
        """Files in available/ are new, or have changed."""
        if len(self.fresh) + len(names) <= _MOST_FRESH:
            self.fresh.update(dict.fromkeys(names))
        else:
            self.invalidate()

    def fire(self, change: Change) -> None:
        """What parked tasks wait for may have happened."""
        names = self._parked.pop(change, None)
        if names is not None:
            self._parked_tasks -= len(names)
            self.tell(names)

    def park(self, name: str, until: Change) -> None:
        """Leave a task alone until something changes."""
        if self._parked_tasks >= _MOST_PARKED:
            self._forgot = True
            return
        self._parked.setdefault(until, []).append(name)
        self._parked_tasks += 1

    def park_until(self, name: str, when_s: float) -> None:
        """Leave a task alone until a time, seconds since the epoch."""
        if len(self._due) >= _MOST_PARKED:
            self._forgot = True
            return
        heapq.heappush(self._due, (when_s, name))

    def busy(self, name: str) -> None:
        """Somebody is in the middle of a transition of this task."""
        self.park_until(name, time.time() + BUSY_S)

    def refuse(self, name: str, agent_id: object) -> bool:
        """This agent cannot claim a task, though others may; False if that was known."""
        if len(self.refused) >= _MOST_PARKED:
            self._forgot = True
            return False
        agents = self.refused.setdefault(name, set())
        is_new = f"{agent_id}" not in agents
        agents.add(f"{agent_id}")
        return is_new

    def offer_refused(self, agent_id: object) -> None:
        """Let this agent try what only others have refused."""
        gone = [name for name in self.refused if not os.path.lexists(self._prefix + name)]
        for name in gone:
            del self.refused[name]
        self.tell([n for n, agents in self.refused.items() if f"{agent_id}" not in agents])

    def missed(self) -> None:
        """Somebody else was faster."""
        self.misses += 1

    def hit(self) -> None:
        """A task was claimed."""
        # Others go through the same names: it takes a while to get away from them, or past them.
        self.misses //= 2

    def due_in_s(self) -> float:
        """Seconds until there is something to try: 0 is now, infinity is unknown."""
        if self.fresh or self._doubts.names or self._is_stale:
            return 0.0
        return max(0.0, self._due[0][0] - time.time()) if self._due else float("inf")

    @property
    def has_work(self) -> bool:
        """Whether there may be something to take at this moment."""
        return self.due_in_s() <= 0

    @property
    def has_forgotten(self) -> bool:
        """Whether it knows less than it has read: only a rescan brings that back."""
        return self._forgot

    def _catch_up(self, due_s: float) -> None:
        if self._is_stale:
            self.rescan()
        while self._due and self._due[0][0] <= min(due_s, time.time()):
            self.tell([heapq.heappop(self._due)[1]])

    def _read_piece(self) -> list[str]:
        """More names from the directory; [] if it has been read."""
        if self._scan is None:
            return []
        names = self._scan.piece()
        self.names_read += len(names)
        if not names:
            self._scan = None
            self.scan_took_s = time.monotonic() - self.scanned_at_s
        return names

    def _has_gone(self, name: str) -> bool:
        """Whether a look shows that others were faster; for where they have been lately.

        Where they were not, it costs a tenth of a claim in vain.
        """
        if not self._doubts.has_gone(name):
            return False
        self.missed()
        return True

    def _settle(self) -> bool:
        """Whether some of those that seemed to have gone are there; they are told of."""
        pieces = iter(_Scan(self._prefix).piece, [])
        there = self._doubts.settle(itertools.chain.from_iterable(pieces))
        if there:
            self.misses = 0  # no look, which may say the same, before they are tried
            self.tell(there)
        return bool(there)

    def _examine(self, name: str) -> Task | None:
        """The task, if it may be claimed now; else it is parked or forgotten."""
        try:
            task = self._read(name)
        except FileNotFoundError:
            self.missed()
            return None
        if task is None:
            return None
        try:
            return task if self._may_be_claimed(name, task) else None
        except (TypeError, ValueError):
            return None  # fields that say nothing; `why` tells

    def _read(self, name: str) -> Task | None:
        """The task, if it is one that we can read."""
        path = self._prefix + name
        try:
            return read_task(path, self._pool.opened())
        except InvalidTask:
            return None
        except OSError as error:
            if error.errno != errno.EACCES:
                raise
            os.lstat(path)  # refused too, if it is the directory that we may not search
            return None  # somebody else's, not for us to read

    def _may_be_claimed(self, name: str, task: Task) -> bool:
        if task.get("status") == "claimed":
            return False  # the claim would refuse it
        if missing_capability(task, self._capabilities) is not None:
            return False
        if task.get("constraints"):
            until_s = deadline(task)
            if until_s is not None and until_s < time.time():
                return False
        if "not_before" in task:
            from_s = not_before(task)
            if from_s > time.time():
                self.park_until(name, from_s)
                return False
        return not ("blocked_by" in task and self._is_blocked(name, task))

    def _is_blocked(self, name: str, task: Task) -> bool:
        for dependency in names_in(task, "blocked_by"):
            # Before we look: a completion from now on is told.
            self._changes.follow(layout.COMPLETED)
            completed_name = f"{dependency}{layout.COMPLETED_SUFFIX}"
            if not is_completed(self._pool, dependency):
                self.park(name, Change(layout.COMPLETED, completed_name))
                return True
        return False


class AnyView(View):
    """In no order: reads no task before it is claimed, and few then."""

    is_eager = False

    def rescan(self) -> None:
        super().rescan()
        self.names: deque[str] = deque()
        self._from_scan = False
        self._again = False

    def _next(self, due_s: float) -> str | None:
        if self._is_stale or self._due:
            self._catch_up(due_s)
        while self.names or self._refill():
            name = self.names.popleft()
            if self.misses == 0 or not self._has_gone(name):
                return name
        return None

    def due_in_s(self) -> float:
        return 0.0 if self.names else super().due_in_s()

    def missed(self) -> None:
        """Jump: agents that read one directory would else run for the same tasks, in step."""
        super().missed()
        import random  # here: a process that claims once seldom misses

        skipped = random.randrange(1 << min(self.misses, _MOST_SKIPPED_BITS))
        if not self._from_scan:
            self.names.rotate(-skipped)
            return
        # Not to be come back to name by name, when most have been claimed: scanned once more.
        for _ in range(min(skipped, len(self.names))):
            self.names.popleft()
            self._again = True

    def _refill(self) -> bool:
        if self.fresh:
            self.names, self.fresh = deque(self.fresh), {}
            self._from_scan = False
            return True
        self.names = deque(self._read_piece())
        self._from_scan = True
        if not self.names and self._again:
            self._settle()  # what seems to have gone each time would be scanned for ever
            self.rescan()
            self.names = deque(self._read_piece())
            self._from_scan = True
        return bool(self.names)


class OrderedView(View):
    """By rank: reads every task once, when it hears of it."""

    def __init__(
        self,
        pool: Directories,
        changes: Changes,
        capabilities: Capabilities,
        order: str,
        budget_bytes: int,
    ) -> None:
        self._order = order
        self._budget_bytes = budget_bytes
        super().__init__(pool, changes, capabilities)

    def rescan(self) -> None:
        super().rescan()
        self._ranked = Ordered(self._budget_bytes)

    def due_in_s(self) -> float:
        return super().due_in_s() if self._ranked.is_empty else 0.0

    def _next(self, due_s: float) -> str | None:
        if self._is_stale or self._due:
            self._catch_up(due_s)
        if self._scan is not None or self.fresh:
            self._examine_all()
        candidate = self._best()
        if candidate is None and self._ranked.dropped:
            self.rescan()
            self._examine_all()
            candidate = self._best()
        return candidate

    def _best(self) -> str | None:
        while (entry := self._ranked.pop()) is not None:
            if self.misses == 0 or not self._has_gone(entry[2]):
                return entry[2]
        return None

    def _examine_all(self) -> None:
        while names := self._read_piece():
            self._rank(names)
        while self.fresh:
            names, self.fresh = list(self.fresh), {}
            self._rank(names)

    def _rank(self, names: list[str]) -> None:
        tasks = self._pool.opened()
        for name in names:
            if self.misses and self._has_gone(name):
                continue
            known = self._pool.core.peek(self._prefix + name, self.claims_with, tasks)
            if known is not None:
                mtime_ns, text = known
                self._ranked.push(*rank_of(mtime_ns, text, self._order), name)
                continue
            task = self._examine(name)
            if task is not None:
                self._ranked.push(*rank(task, self._order), name)


class _Scan:
    """The names of the tasks in a directory, read as they are asked for."""

    def __init__(self, directory: str) -> None:
        self._entries: Iterator[os.DirEntry[str]] | None = None
        self._directory = directory

    def piece(self) -> list[str]:
        """More names; [] at the end."""
        if self._entries is None:
            try:
                self._entries = os.scandir(self._directory)
            except FileNotFoundError:
                return []
        names: list[str] = []
        while not names:
            found = list(itertools.islice(self._entries, _PIECE_NAMES))
            if not found:
                break
            names = [entry.name for entry in found if entry.name.endswith(layout.TASK_SUFFIX)]
        return names

    def __del__(self) -> None:
        if self._entries is not None:
            self._entries.close()  # type: ignore[attr-defined]


def is_completed(pool: Directories, task_id: object) -> bool:
    """Whether a task stands in completed/."""
    try:
        return os.path.lexists(pool.completed_file(task_id))
    except InvalidName:
        return False  # nothing of that name can ever be there
