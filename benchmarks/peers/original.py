"""The original: jleechanorg-orchestration's TaskPool."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, ClassVar

from .base import AGENT, Connect, Guarantees, Hold, Peer, Ref, Session, Task


class OriginalSession(Session):
    """Its three methods, and for the next task what its A2AClient does: list all, try in order."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def publish(self, task: Task) -> Ref:
        if not self._pool.publish_task(task["task_id"], task["description"], task["requirements"]):
            raise RuntimeError(f"could not publish {task['task_id']}")
        return task["task_id"]

    def claim(self, ref: Ref) -> Hold | None:
        return self._pool.claim_task(ref, AGENT) or None

    def claim_next(self) -> Hold | None:
        while waiting := self._pool.get_available_tasks(["python"]):
            for task in waiting:
                if claimed := self._pool.claim_task(task["task_id"], AGENT):
                    return claimed
        return None

    def ref(self, hold: Task) -> Ref:
        return hold["task_id"]

    def read(self, hold: Task) -> Task:
        return hold

    def complete(self, hold: Task, result: Task) -> None:
        if not self._pool.complete_task(hold["task_id"], AGENT, result):
            raise RuntimeError(f"could not complete {hold['task_id']}")


class Original(Peer):
    """The rival whose place fastclaim takes."""

    name = "original"
    distributions: ClassVar[tuple[str, ...]] = ("jleechanorg-orchestration",)
    guarantees = Guarantees(
        "power cut*; a publication or completion: process death",
        "stays claimed until somebody moves the file",
        says_who=True,
    )
    reads_all = True
    largest_pool = 1_000
    note = "its logger silent; by default each operation also writes a line or two to stderr"

    def new_store(self, directory: Path) -> Connect:
        from orchestration import a2a_integration

        # Its import has set the root logger to INFO; and a drain logs each task that it missed.
        logging.getLogger(a2a_integration.__name__).setLevel(logging.CRITICAL)
        a2a_integration.A2A_BASE_DIR = os.fspath(directory)
        pool = a2a_integration.TaskPool()
        return lambda: OriginalSession(pool)
