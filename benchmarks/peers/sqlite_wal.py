"""Raw sqlite3 in WAL mode: one UPDATE .. RETURNING a claim."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from .base import AGENT, Connect, Guarantees, Hold, Peer, Ref, Session, Task

SCHEMA = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE tasks (
        n INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, status TEXT NOT NULL,
        claimed_by TEXT, claimed_at REAL, completed_at REAL, result TEXT, document TEXT NOT NULL
    );
    CREATE INDEX waiting ON tasks (n) WHERE status = 'available';
"""
PUBLISH = "INSERT INTO tasks (id, status, document) VALUES (?, 'available', ?)"
CLAIM = """
    UPDATE tasks SET status = 'claimed', claimed_by = ?, claimed_at = ?
    WHERE {which} RETURNING id, document
"""
BY_ID = CLAIM.format(which="id = ? AND status = 'available'")
NEXT = CLAIM.format(
    which="n IN (SELECT n FROM tasks WHERE status = 'available' ORDER BY n LIMIT ?)"
)
COMPLETE = """
    UPDATE tasks SET status = 'completed', completed_at = ?, result = ?
    WHERE id = ? AND status = 'claimed' AND claimed_by = ?
"""


class SqliteSession(Session):
    """One connection. Each statement is a transaction of its own."""

    def __init__(self, path: Path, synchronous: str, at_once: int) -> None:
        # The wait for other writers is the library's own (busy_timeout); 5 s, its default, is not
        # enough for eight of them on a slow disk.
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._at_once = at_once
        self._claimed: list[Hold] = []

    def publish(self, task: Task) -> Ref:
        self._connection.execute(PUBLISH, (task["task_id"], json.dumps(task)))
        return task["task_id"]

    def publish_all(self, tasks: Sequence[Task]) -> list[Ref]:
        self._connection.execute("BEGIN IMMEDIATE")
        rows = ((task["task_id"], json.dumps(task)) for task in tasks)
        self._connection.executemany(PUBLISH, rows)
        self._connection.execute("COMMIT")
        return [task["task_id"] for task in tasks]

    def claim(self, ref: Ref) -> Hold | None:
        # fetchall: the transaction ends when the statement has been stepped to its end.
        rows = self._connection.execute(BY_ID, (AGENT, time.time(), ref)).fetchall()
        return rows[0] if rows else None

    def claim_next(self) -> Hold | None:
        if not self._claimed:
            arguments = (AGENT, time.time(), self._at_once)
            self._claimed = self._connection.execute(NEXT, arguments).fetchall()
        return self._claimed.pop() if self._claimed else None

    def ref(self, hold: Hold) -> Ref:
        return hold[0]

    def read(self, hold: Hold) -> Task:
        task: Task = json.loads(hold[1])
        return task

    def complete(self, hold: Hold, result: Task) -> None:
        arguments = (time.time(), json.dumps(result), hold[0], AGENT)
        if self._connection.execute(COMPLETE, arguments).rowcount != 1:
            raise RuntimeError(f"could not complete {hold[0]}")

    def close(self) -> None:
        self._connection.close()


class Sqlite(Peer):
    """A table in a file."""

    largest_pool = 1_000_000

    def __init__(self, synchronous: str, at_once: int = 1) -> None:
        self.name = f"sqlite3 WAL, {synchronous}" + (f", {at_once} at once" if at_once > 1 else "")
        self._synchronous = synchronous
        self._at_once = at_once
        self.drains_only = at_once > 1
        self.guarantees = Guarantees(
            "power cut" if synchronous == "FULL" else "process death",
            "stays claimed until somebody updates the row",
            says_who=True,
        )
        self.note = (
            f"synchronous = {synchronous}, the task in the row: claims return it, and a claim of a"
            " large one writes it again"
        )

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def new_store(self, directory: Path) -> Connect:
        directory.mkdir()
        path = directory / "tasks.sqlite"
        with sqlite3.connect(path) as connection:
            connection.executescript(SCHEMA)
        connection.close()
        return lambda: SqliteSession(path, self._synchronous, self._at_once)

    def fill(self, session: Session, tasks: Sequence[Task]) -> list[Ref]:
        assert isinstance(session, SqliteSession)
        return session.publish_all(tasks)
