"""How a pool is doing: counts, who holds what for how long, what waits, what was done lately.

In a directory the files' time stamps say when a task was published (mtime, which transitions put
back) and when it last changed its state (ctime), so that not every task has to be read. A server
sorts and counts by itself.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from .. import layout, listing
from ..endings import Endings
from ..errors import InvalidTask
from ..literals import State
from ..pool import TaskPool
from . import fields
from .tables import when

if TYPE_CHECKING:
    from ..postgres.pool import PostgresPool
    from ..postgres.recovery import Endings as EndingsOnServer

LATELY_S: Final = 60.0
_FAILURES_SHOWN: Final = 5
_CLOCK_TICK_NS: Final = 50_000_000


class Holding(NamedTuple):
    """A task that an agent has."""

    agent_id: str
    task_id: str
    held_s: float | None
    lease_left_s: float | None
    ended: str | None  # why it has ended, if the next claimer takes the task back

    def as_dict(self) -> dict[str, object]:
        """What becomes JSON, where the agent is said already."""
        named = self._asdict()
        del named["agent_id"]
        return named


class Waiting(NamedTuple):
    """A task that waits."""

    task_id: str
    waited_s: float


class Failure(NamedTuple):
    """A task that has failed for good, and why at last."""

    task_id: str
    error: str
    failed_s_ago: float | None


class Snapshot(NamedTuple):
    """A pool at one moment; not atomic: agents go on while it is taken."""

    at_s: float
    counts: Mapping[State, int]
    holdings: list[Holding]  # the longest first
    oldest: Waiting | None
    completed_lately: int  # in the last `LATELY_S`
    failures: list[Failure]  # the latest few
    paused: str | None  # why, and until when

    def as_dict(self) -> dict[str, object]:
        """What becomes JSON."""
        return {
            "at": self.at_s,
            "tasks": self.counts,
            "agents": [
                {"agent": agent_id, "claims": [claim.as_dict() for claim in claims]}
                for agent_id, claims in self.by_agent().items()
            ],
            "oldest_waiting": None if self.oldest is None else self.oldest._asdict(),
            "completed_last_minute": self.completed_lately,
            "failures": [failure._asdict() for failure in self.failures],
            "paused": self.paused,
        }

    def by_agent(self) -> dict[str, list[Holding]]:
        """The holdings of each agent, by its id."""
        agents: dict[str, list[Holding]] = {}
        for holding in sorted(self.holdings, key=lambda holding: holding.agent_id):
            agents.setdefault(holding.agent_id, []).append(holding)
        return agents


class _Entry(NamedTuple):
    """A task as far as it is known without reading it."""

    task_id: str
    published_s: float
    changed_s: float
    path: str


class Survey:
    """Takes snapshots of one pool; a state whose directory has not changed is not read again."""

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        self._on_server = _on_server(pool)
        # By state: the directory's time of change, and what was in it then.
        self._seen: dict[str, tuple[int, list[_Entry]]] = {}

    def snapshot(self) -> Snapshot:
        """How it is now.

        Raises
        ------
        OSError
            The pool cannot be read.
        """
        now_s = time.time()
        return Snapshot(
            now_s,
            self._pool.counts(),
            self._holdings(now_s),
            self._oldest(now_s),
            self._completed_lately(now_s),
            self._failures(now_s),
            self._paused(),
        )

    def tasks(self, state: State, limit: int) -> list[dict[str, Any]]:
        """Some tasks in one state: those longest in available/ and claimed/, else the latest."""
        if self._on_server is not None:
            return self._on_server._first(state, limit)
        if state == layout.AVAILABLE:
            entries = sorted(self._entries(state), key=lambda entry: entry.published_s)
        else:
            latest = state != layout.CLAIMED
            entries = sorted(
                self._entries(state), key=lambda entry: entry.changed_s, reverse=latest
            )
        found = (task for entry in entries if (task := _read(entry)) is not None)
        return list(itertools.islice(found, limit))

    def _holdings(self, now_s: float) -> list[Holding]:
        found = []
        endings = endings_in(self._pool)
        for task in self._pool.tasks(layout.CLAIMED):
            since_s = fields.moment(task, "claimed_at")
            until_s = fields.moment(task, "lease_expires_at")
            found.append(
                Holding(
                    f"{fields.holder(task)}",
                    f"{task.get('task_id')}",
                    None if since_s is None else max(0.0, now_s - since_s),
                    None if until_s is None else until_s - now_s,
                    endings.of(task),
                )
            )
        return sorted(found, key=lambda holding: -(holding.held_s or 0.0))

    def _oldest(self, now_s: float) -> Waiting | None:
        if self._on_server is not None:
            found = self._on_server._oldest_waiting()
            return None if found is None else Waiting(found[0], max(0.0, now_s - found[1]))
        entries = self._entries(layout.AVAILABLE)
        if not entries:
            return None
        oldest = min(entries, key=lambda entry: entry.published_s)
        return Waiting(oldest.task_id, max(0.0, now_s - oldest.published_s))

    def _completed_lately(self, now_s: float) -> int:
        if self._on_server is not None:
            return self._on_server._completed_lately(LATELY_S)
        since_s = now_s - LATELY_S
        return sum(entry.changed_s >= since_s for entry in self._entries(layout.COMPLETED))

    def _failures(self, now_s: float) -> list[Failure]:
        return [
            Failure(f"{task.get('task_id')}", last_error(task), _ago(task, "failed_at", now_s))
            for task in self.tasks(layout.FAILED, _FAILURES_SHOWN)
        ]

    def _paused(self) -> str | None:
        pause = self._pool.paused()
        if pause is None:
            return None
        until = "further notice" if pause.until == math.inf else when(pause.until)
        return f"until {until}" + (f": {pause.reason}" if pause.reason else "")

    def _entries(self, state: State) -> list[_Entry]:
        directory = os.path.join(os.fspath(self._pool.tasks_dir), state)
        changed_ns = os.stat(directory).st_mtime_ns
        seen_ns, entries = self._seen.get(state, (-1, []))
        if changed_ns != seen_ns:
            # The clock of file times stands still for some ms: what came in the same tick as this
            # look would never be seen.
            settled = time.time_ns() - changed_ns > _CLOCK_TICK_NS
            entries = list(_entries_in(directory))
            self._seen[state] = (changed_ns if settled else -1, entries)
        return entries


def endings_in(pool: TaskPool) -> Endings | EndingsOnServer:
    """What tells which claims have ended and are not taken back yet."""
    on_server = _on_server(pool)
    return Endings(os.fsencode(pool.tasks_dir)) if on_server is None else on_server._endings()


def _on_server(pool: TaskPool) -> PostgresPool | None:
    """The pool, if it is a database."""
    return None if hasattr(pool, "tasks_dir") else cast("PostgresPool", pool)


def _entries_in(directory: str) -> Iterator[_Entry]:
    suffix = layout.TASK_SUFFIX
    with os.scandir(directory) as files:
        for file in files:
            if file.name.endswith(suffix):
                try:
                    found = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # it has moved on
                task_id = file.name.removesuffix(suffix)
                yield _Entry(task_id, found.st_mtime, found.st_ctime, file.path)


def _read(entry: _Entry) -> dict[str, Any] | None:
    try:
        return listing.read_task(entry.path)
    except (FileNotFoundError, InvalidTask):
        return None  # it has moved on, or is none: `fastclaim doctor` says which


def last_error(task: Mapping[str, Any]) -> str:
    """What went wrong the last time that it was tried."""
    failures = fields.failures(task)
    return f"{failures[-1].get('error')}" if failures else ""


def _ago(task: Mapping[str, Any], name: str, now_s: float) -> float | None:
    at_s = fields.moment(task, name)
    return None if at_s is None else max(0.0, now_s - at_s)
