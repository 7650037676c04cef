"""litequeue: a queue in one SQLite table."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

from .base import Connect, Guarantees, Hold, Peer, Ref, Session, Task


class LiteQueueSession(Session):
    """One connection."""

    def __init__(self, path: str) -> None:
        from litequeue import LiteQueue

        self._queue: Any = LiteQueue(path, timeout=60)

    def publish(self, task: Task) -> Ref:
        return self._queue.put(json.dumps(task)).message_id

    def claim_next(self) -> Hold | None:
        return self._queue.pop()

    def ref(self, hold: Hold) -> Ref:
        return hold.message_id

    def read(self, hold: Hold) -> Task:
        task: Task = json.loads(hold.data)
        return task

    def complete(self, hold: Hold, result: Task) -> None:
        self._queue.done(hold.message_id)

    def close(self) -> None:
        self._queue.close()


class LiteQueue(Peer):
    """One UPDATE .. RETURNING a claim, like the raw sqlite3 beside it."""

    name = "litequeue"
    distributions: ClassVar[tuple[str, ...]] = ("litequeue",)
    has_ids = False
    guarantees = Guarantees(
        "process death", "stays locked until somebody calls retry()", says_who=False
    )
    note = "default settings (WAL, synchronous = NORMAL); timeout=60 s"

    def new_store(self, directory: Path) -> Connect:
        directory.mkdir()
        path = os.fspath(directory / "queue.sqlite")
        LiteQueueSession(path).close()  # makes the table
        return lambda: LiteQueueSession(path)
