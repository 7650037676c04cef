"""persist-queue: its SQLiteAckQueue, whose items are acknowledged."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

from .base import Connect, Guarantees, Hold, Peer, Ref, Session, Task


class PersistQueueSession(Session):
    """One queue object."""

    def __init__(self, path: str) -> None:
        from persistqueue import SQLiteAckQueue

        self._queue: Any = SQLiteAckQueue(path, multithreading=True)
        self.is_closed = False

    def publish(self, task: Task) -> Ref:
        return self._queue.put(json.dumps(task))

    def claim_next(self) -> Hold | None:
        from persistqueue import Empty

        try:
            return self._queue.get(block=False, raw=True)
        except Empty:
            return None

    def ref(self, hold: Hold) -> Ref:
        return hold["pqid"]

    def read(self, hold: Hold) -> Task:
        task: Task = json.loads(hold["data"])
        return task

    def complete(self, hold: Hold, result: Task) -> None:
        self._queue.ack(id=hold["pqid"])

    def close(self) -> None:
        self._queue.close()
        self.is_closed = True


class PersistQueue(Peer):
    """A queue in SQLite, safe for the threads of one process."""

    name = "persist-queue SQLiteAckQueue"
    distributions: ClassVar[tuple[str, ...]] = ("persist-queue",)
    has_ids = False
    guarantees = Guarantees(
        "power cut",
        "comes back when somebody opens the queue, and so do the claims of the living",
        says_who=False,
    )
    note = "default settings; it promises safety for threads, and none for processes"

    def new_store(self, directory: Path) -> Connect:
        PersistQueueSession(os.fspath(directory)).close()  # makes the tables
        lock = threading.Lock()
        opened: dict[int, PersistQueueSession] = {}

        def connect() -> Session:
            # The threads of a process share one queue object: what keeps them apart is inside it.
            with lock:
                session = opened.get(os.getpid())
                if session is None or session.is_closed:
                    session = opened[os.getpid()] = PersistQueueSession(os.fspath(directory))
                return session

        return connect
