"""fastclaim, in the ways that it can be used."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastclaim
from fastclaim import Claim, TaskPool
from fastclaim.errors import TaskNotAvailable

from .base import AGENT, Connect, Guarantees, Hold, Peer, Ref, Session, Task

SURVIVES = {"data": "power cut*", "full": "power cut", "none": "process death"}
CAPABILITIES = ("python",)  # what the tasks require
DEAD_CLAIMER = "comes back at once: the kernel says that its claimer is dead"


class FastclaimSession(Session):
    """The verbs; a miss and a race by `claim_task`, as the original answers them.

    `at_once` claims are taken at a time, and handed out one by one.
    """

    def __init__(self, pool: TaskPool, order: str, at_once: int) -> None:
        self._pool: Any = pool
        self._order, self._at_once = order, at_once
        self._claims: list[Claim] = []

    def publish(self, task: Task) -> Ref:
        published = self._pool.publish_task(
            task["task_id"], task["description"], task["requirements"]
        )
        if not published:
            raise RuntimeError(f"could not publish {task['task_id']}")
        return task["task_id"]

    def claim(self, ref: Ref) -> Hold | None:
        try:
            return self._pool.claim(ref, AGENT)
        except TaskNotAvailable:
            return None

    def claim_next(self) -> Hold | None:
        if self._at_once == 1:
            return self._pool.claim_next(AGENT, CAPABILITIES, order=self._order)
        if not self._claims:
            self._claims = self._pool.claim_many(
                AGENT, self._at_once, CAPABILITIES, order=self._order
            )
        return self._claims.pop() if self._claims else None

    def ref(self, hold: Claim) -> Ref:
        return hold.task_id

    def read(self, hold: Claim) -> Task:
        return hold.task

    def complete(self, hold: Claim, result: Task) -> None:
        hold.complete(result)

    def won(self, ref: Ref) -> bool:
        if ref is None:
            return self.claim_next() is not None
        return bool(self._pool.claim_task(ref, AGENT))


class Fastclaim(Peer):
    """A pool on a directory."""

    def __init__(
        self, name: str, order: str = "priority", at_once: int = 1, **settings: Any
    ) -> None:
        self.name = name
        self._order, self._at_once, self._settings = order, at_once, settings
        self.guarantees = Guarantees(
            SURVIVES[settings.get("durability", "data")], DEAD_CLAIMER, says_who=True
        )
        # What grows with the pool grows alike in all variants: one of each order shows it.
        self.largest_pool = 1_000_000 if settings == {"lock_files": False} else 100_000
        self.drains_only = at_once > 1
        if order == "any":
            self.has_ids = False  # it differs in which task is next
            self.note = 'order="any": whichever comes first, no priorities, only that task is read'

    def version(self) -> str:
        return f"fastclaim {importlib.metadata.version('fastclaim')}, core {fastclaim.core}"

    def new_store(self, directory: Path) -> Connect:
        pool = TaskPool(directory, **self._settings)
        return lambda: FastclaimSession(pool, self._order, self._at_once)

    def fill(self, session: Session, tasks: Sequence[Task]) -> list[Ref]:
        assert isinstance(session, FastclaimSession)
        unsynced = TaskPool(session._pool.base_dir, durability="none")
        return super().fill(FastclaimSession(unsynced, self._order, self._at_once), tasks)
