"""huey's SqliteHuey: what its consumer does with each task, without the consumer."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, ClassVar

from .base import Connect, Guarantees, Hold, Peer, Ref, Session, Task


class HueySession(Session):
    """One Huey object and its function, which is never run."""

    def __init__(self, filename: str) -> None:
        from huey import SqliteHuey

        self._huey: Any = SqliteHuey(filename=filename, timeout=60)

        @self._huey.task()  # type: ignore[untyped-decorator]
        def work(document: str, task_id: str) -> None:
            """Stands for the work."""

        self._work = work

    def publish(self, task: Task) -> Ref:
        self._work(json.dumps(task), task["task_id"])
        return task["task_id"]

    def claim_next(self) -> Hold | None:
        return self._huey.dequeue()

    def ref(self, hold: Hold) -> Ref:
        return hold.args[1]

    def read(self, hold: Hold) -> Task:
        task: Task = json.loads(hold.args[0])
        return task

    def complete(self, hold: Hold, result: Task) -> None:
        self._huey.put_result(hold.id, result)

    def close(self) -> None:
        self._huey.storage.close()


class Huey(Peer):
    """A task queue whose broker is a SQLite file."""

    name = "huey SqliteHuey"
    distributions: ClassVar[tuple[str, ...]] = ("huey",)
    has_ids = False
    guarantees = Guarantees("power cut", "is lost: dequeue() deletes it", says_who=False)
    note = "default settings: WAL, and SQLite's own synchronous = FULL; timeout=60 s"

    def new_store(self, directory: Path) -> Connect:
        logging.getLogger("huey").setLevel(logging.WARNING)
        directory.mkdir()
        filename = os.fspath(directory / "huey.db")
        HueySession(filename).close()  # makes the tables
        return lambda: HueySession(filename)
