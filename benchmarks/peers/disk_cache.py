"""diskcache: Cache.push and Cache.pull, its documented queue."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

from .base import Connect, Guarantees, Hold, Peer, Ref, Session, Task


class DiskCacheSession(Session):
    """One cache object."""

    def __init__(self, directory: str) -> None:
        import diskcache

        # It is no cache here: nothing may be thrown away.
        self._cache: Any = diskcache.Cache(directory, eviction_policy="none", timeout=60)

    def publish(self, task: Task) -> Ref:
        return self._cache.push(json.dumps(task))

    def claim(self, ref: Ref) -> Hold | None:
        document = self._cache.pop(ref)
        return None if document is None else (ref, document)

    def claim_next(self) -> Hold | None:
        hold = self._cache.pull()
        return None if hold[0] is None else hold

    def ref(self, hold: Hold) -> Ref:
        return hold[0]

    def read(self, hold: Hold) -> Task:
        task: Task = json.loads(hold[1])
        return task

    def close(self) -> None:
        self._cache.close()


class DiskCache(Peer):
    """A cache in SQLite and files, used as a queue."""

    name = "diskcache push/pull"
    distributions: ClassVar[tuple[str, ...]] = ("diskcache",)
    completes = False
    guarantees = Guarantees("process death", "is lost: pull() deletes it", says_who=False)
    note = "default settings (WAL, synchronous = NORMAL), but no eviction; timeout=60 s"

    def new_store(self, directory: Path) -> Connect:
        DiskCacheSession(os.fspath(directory)).close()  # makes the tables
        return lambda: DiskCacheSession(os.fspath(directory))
