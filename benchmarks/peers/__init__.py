"""Whom fastclaim is measured beside; one module each."""

from __future__ import annotations

from .base import AGENT, Connect, Guarantees, Hold, Peer, Ref, Session, Task
from .dirq_simple import Dirq
from .disk_cache import DiskCache
from .floors import Flush, RenamedFlush, Stat
from .huey_sqlite import Huey
from .lite_queue import LiteQueue
from .original import Original
from .ours import Fastclaim
from .persist_queue import PersistQueue
from .postgresql import Postgres
from .redis_server import Redis
from .rename import Rename
from .sqlite_wal import Sqlite

AT_ONCE = 64

__all__ = [
    "AGENT",
    "AT_ONCE",
    "Connect",
    "Guarantees",
    "Hold",
    "Peer",
    "Ref",
    "Session",
    "Task",
    "all_peers",
]


def all_peers() -> list[Peer]:
    """Everybody, in the order of the tables; ratios are to the original."""
    return [
        Original(),
        Fastclaim("fastclaim"),
        Fastclaim("fastclaim, no lock files", lock_files=False),
        Fastclaim("fastclaim, no lock files, full", lock_files=False, durability="full"),
        Fastclaim("fastclaim, no lock files, unsynced", lock_files=False, durability="none"),
        Fastclaim("fastclaim, no lock files, any order", "any", lock_files=False),
        Fastclaim(
            f"fastclaim, no lock files, any order, {AT_ONCE} at once",
            "any",
            AT_ONCE,
            lock_files=False,
        ),
        Sqlite("NORMAL"),
        Sqlite("FULL"),
        Sqlite("FULL", AT_ONCE),
        Postgres(),
        Postgres(AT_ONCE),
        Redis("everysec"),
        Redis("always"),
        Redis("always", AT_ONCE),
        Dirq(),
        Huey(),
        DiskCache(),
        PersistQueue(),
        LiteQueue(),
        Rename(),
        Flush(),
        RenamedFlush(),
        Stat(),
    ]
