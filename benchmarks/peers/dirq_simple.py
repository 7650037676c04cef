"""dirq's QueueSimple: a file for each element, a hard link to lock it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

from .base import Connect, Guarantees, Hold, Peer, Ref, Session, Task


class DirqSession(Session):
    """One queue object."""

    def __init__(self, path: str) -> None:
        from dirq.QueueSimple import QueueSimple

        self._queue = QueueSimple(path)
        self._begun = False

    def publish(self, task: Task) -> Ref:
        return self._queue.add(json.dumps(task))

    def claim(self, ref: Ref) -> Hold | None:
        return ref if self._queue.lock(ref) else None

    def claim_next(self) -> Hold | None:
        # Its documented loop: each name once, those that others have locked are passed over.
        name = self._queue.next() if self._begun else self._queue.first()
        self._begun = True
        while name:
            if self._queue.lock(name):
                return name
            name = self._queue.next()
        self._begun = False
        return None

    def ref(self, hold: Hold) -> Ref:
        return hold

    def read(self, hold: Hold) -> Task:
        task: Task = json.loads(self._queue.get(hold))
        return task

    def complete(self, hold: Hold, result: Task) -> None:
        self._queue.remove(hold)


class Dirq(Peer):
    """A directory queue without a server, like ours."""

    name = "dirq QueueSimple"
    distributions: ClassVar[tuple[str, ...]] = ("dirq",)
    guarantees = Guarantees(
        "process death", "comes back when purge() finds its lock too old (600 s)", says_who=False
    )
    note = "claims by dirq's own names, complete removes the element, no result is kept"

    def new_store(self, directory: Path) -> Connect:
        return lambda: DirqSession(os.fspath(directory))
