"""Many names in the order of their ranks, in little memory.

A million tuples of Python would take 200 MB. New names go into a small heap; when that is full it
is sorted and packed into a *run*, two arrays and one text, some 40 bytes a name; the best name is
the best of the heap's and of the runs' heads.
"""

from __future__ import annotations

import heapq
import itertools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

RUN_NAMES: Final = 4096
_ENTRY_BYTES: Final = 17  # two doubles and the separator
_SEPARATOR: Final = b"/"  # in no file name

Entry = tuple[float, float, str]


class Ordered:
    """Names by rank, the least first, in at most about `budget_bytes`.

    What does not fit is dropped, the worst ranks first. From then on nothing from the least of what
    was dropped on is served, so that what is served is right: `pop` says None while `dropped` says
    that there is more.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._heap: list[Entry] = []
        self._runs: list[tuple[Entry, int, _Run]] = []  # a heap too; the number breaks ties
        self._numbers = itertools.count()
        self._bytes = 0
        self._horizon: tuple[float, float] | None = None

    @property
    def dropped(self) -> bool:
        """Whether there were more names than fit."""
        return self._horizon is not None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to pop."""
        return not self._heap and not self._runs

    def push(self, first: float, second: float, name: str) -> None:
        """Add a name with its rank."""
        if self._horizon is not None and (first, second) >= self._horizon:
            return
        heapq.heappush(self._heap, (first, second, name))
        if len(self._heap) >= RUN_NAMES:
            entries, self._heap = sorted(self._heap), []
            self._add_run(entries)
            if self._bytes > self._budget_bytes:
                self._shrink()

    def pop(self) -> Entry | None:
        """Take out the entry of least rank."""
        if self._runs and (not self._heap or self._runs[0][0] < self._heap[0]):
            entry, number, run = self._runs[0]
            head = next(run, None)
            if head is not None:
                heapq.heapreplace(self._runs, (head, number, run))
            else:
                heapq.heappop(self._runs)
                self._bytes -= run.size_bytes
            return entry
        return heapq.heappop(self._heap) if self._heap else None

    def _add_run(self, entries: list[Entry]) -> None:
        run = _Run(entries)
        self._bytes += run.size_bytes
        heapq.heappush(self._runs, (next(run), next(self._numbers), run))

    def _shrink(self) -> None:
        """Pack anew what is left, as much as fills half the budget."""
        entries = self._drained()
        self._bytes = 0
        while self._bytes < self._budget_bytes // 2:
            piece = list(itertools.islice(entries, RUN_NAMES))
            if not piece:
                return
            self._add_run(piece)
        first_dropped = next(entries, None)
        if first_dropped is not None:
            self._horizon = first_dropped[:2]
            # Equal ranks were served and dropped alike; the heap's were younger than these.
            self._heap = [entry for entry in self._heap if entry[:2] < self._horizon]
            heapq.heapify(self._heap)

    def _drained(self) -> Iterator[Entry]:
        runs, self._runs = self._runs, []
        return heapq.merge(*(itertools.chain((head,), run) for head, _, run in runs))


class _Run:
    """Sorted entries, packed; an iterator over them."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        from array import array  # here: few have so many names

        firsts, seconds, names = zip(*entries, strict=True)
        self._firsts, self._seconds = array("d", firsts), array("d", seconds)
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._names = _SEPARATOR.join(encoded) + _SEPARATOR
        self._index = self._offset = 0
        self.size_bytes = len(self._names) + _ENTRY_BYTES * len(encoded)

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        index = self._index
        if index == len(self._firsts):
            raise StopIteration
        end = self._names.index(_SEPARATOR, self._offset)
        name = self._names[self._offset : end].decode("utf-8", "surrogateescape")
        self._index, self._offset = index + 1, end + 1
        return self._firsts[index], self._seconds[index], name
