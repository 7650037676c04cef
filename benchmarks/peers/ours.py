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
DEAD_CLAIMER = (
    "comes back at once: the kernel says that its claimer is dead"
    if hasattr(TaskPool, "recover")
    else "stays claimed until somebody releases it"
)


class FastclaimSession(Session):
    """The verbs; a miss and a race by `claim_task`, as the original answers them."""

    def __init__(self, pool: TaskPool) -> None:
        self._pool: Any = pool

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
        return self._pool.claim_next(AGENT)

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


class AtOnceSession(FastclaimSession):
    """Takes so many claims at a time, and hands them out one by one."""

    def __init__(self, pool: TaskPool, at_once: int) -> None:
        super().__init__(pool)
        self._at_once = at_once
        self._claims: list[Claim] = []

    def claim_next(self) -> Hold | None:
        if not self._claims:
            self._claims = self._pool.claim_many(AGENT, self._at_once)
        return self._claims.pop() if self._claims else None


class Fastclaim(Peer):
    """A pool on a directory."""

    def __init__(self, name: str, at_once: int = 1, **settings: Any) -> None:
        self.name = name
        self._at_once = at_once
        self._settings = settings
        self.guarantees = Guarantees(
            SURVIVES[settings.get("durability", "data")],
            DEAD_CLAIMER,
            says_who=True,
        )
        self.has_next = hasattr(TaskPool, "claim_many" if at_once > 1 else "claim_next")
        self.drains_only = at_once > 1
        # What grows with the pool grows alike in all variants: one of them shows it.
        self.largest_pool = 1_000_000 if settings == {"lock_files": False} else 100_000

    def unavailable(self) -> str | None:
        if self._at_once > 1 and not self.has_next:
            return "this fastclaim has no claim_many"
        return None

    def version(self) -> str:
        return f"fastclaim {importlib.metadata.version('fastclaim')}, core {fastclaim.core}"

    def new_store(self, directory: Path) -> Connect:
        pool = TaskPool(directory, **self._settings)
        if self._at_once > 1:
            return lambda: AtOnceSession(pool, self._at_once)
        return lambda: FastclaimSession(pool)

    def fill(self, session: Session, tasks: Sequence[Task]) -> list[Ref]:
        assert isinstance(session, FastclaimSession)
        return super().fill(
            FastclaimSession(TaskPool(session._pool.base_dir, durability="none")), tasks
        )
