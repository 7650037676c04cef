"""Whom `fastclaim bench` measures: fastclaim, sqlite3 in WAL mode, and a rename alone.

All three do the same with the same tasks, and raise if an operation does not do what it is for.
benchmarks/compare.py in the source tree measures many more, in many more ways.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from ..claim import Claim
from ..pool import TaskPool

AGENT: Final = "fastclaim-bench"
RESULT: Final = {"status": "done"}

ALL: Final = "synced"
RECORD: Final = "synced but for the rename"  # a power cut undoes it, or not; it tears nothing
NOTHING: Final = "not synced"

_SCHEMA: Final = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE tasks (
        id TEXT PRIMARY KEY, status TEXT NOT NULL, claimed_by TEXT, claimed_at REAL,
        completed_at REAL, result TEXT, document TEXT NOT NULL
    ) WITHOUT ROWID;
"""
_PUBLISH: Final = "INSERT INTO tasks (id, status, document) VALUES (?, 'available', ?)"
_CLAIM: Final = """
    UPDATE tasks SET status = 'claimed', claimed_by = ?, claimed_at = ?
    WHERE id = ? AND status = 'available' RETURNING document
"""
_COMPLETE: Final = """
    UPDATE tasks SET status = 'completed', completed_at = ?, result = ?
    WHERE id = ? AND status = 'claimed' AND claimed_by = ? RETURNING id
"""


class Contestant(Protocol):
    """An empty store of tasks, to be used once."""

    def publish(self, task_id: str) -> None:
        """Add a task."""

    def claim(self, task_id: str) -> None:
        """Claim it."""

    def complete(self, task_id: str) -> None:
        """Complete it."""

    def close(self) -> None:
        """Let go of it."""


class Entrant(NamedTuple):
    """Somebody who takes part."""

    name: str
    synced: str  # what of a claim is on the disk when it returns
    make: Callable[[Path], Contestant]  # in a directory that is not there yet


def entrants() -> tuple[list[Entrant], list[str]]:
    """Who takes part, and a line for each who cannot."""
    taking_part = [
        Entrant("fastclaim", RECORD, _pool()),
        Entrant("  without lock files", RECORD, _pool(lock_files=False)),
        Entrant('  ... durability "full"', ALL, _pool(lock_files=False, durability="full")),
        Entrant('  ... durability "none"', NOTHING, _pool(lock_files=False, durability="none")),
    ]
    left_out = []
    try:
        import sqlite3
    except ImportError as error:
        left_out.append(f"Without sqlite3, which this Python has not: {error}")
    else:
        if sqlite3.sqlite_version_info >= (3, 35):
            taking_part.append(Entrant("sqlite3 WAL, FULL", ALL, _sqlite("FULL")))
            taking_part.append(Entrant("sqlite3 WAL, NORMAL", NOTHING, _sqlite("NORMAL")))
        else:
            left_out.append(f"Without SQLite {sqlite3.sqlite_version}: it has no RETURNING yet")
    taking_part.append(Entrant("a rename alone", NOTHING, _Rename))
    return taking_part, left_out


def _document(task_id: str) -> dict[str, Any]:
    """About 600 bytes of JSON: a usual task of a coding agent."""
    return {"task_id": task_id, "description": "Refactor it. " * 30, "requirements": ["python"]}


def _pool(**settings: Any) -> Callable[[Path], Contestant]:
    return lambda directory: _Pool(TaskPool(directory, **settings))


class _Pool:
    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        self._claims: dict[str, Claim] = {}

    def publish(self, task_id: str) -> None:
        self._pool.publish(_document(task_id), if_exists="replace")

    def claim(self, task_id: str) -> None:
        self._claims[task_id] = self._pool.claim(task_id, AGENT)

    def complete(self, task_id: str) -> None:
        self._claims[task_id].complete(RESULT)

    def close(self) -> None:
        pass


def _sqlite(synchronous: str) -> Callable[[Path], Contestant]:
    return lambda directory: _Sqlite(directory, synchronous)


class _Sqlite:
    def __init__(self, directory: Path, synchronous: str) -> None:
        import sqlite3

        directory.mkdir()
        self._connection = sqlite3.connect(directory / "tasks.sqlite", isolation_level=None)
        self._connection.executescript(_SCHEMA)
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")

    def publish(self, task_id: str) -> None:
        self._connection.execute(_PUBLISH, (task_id, json.dumps(_document(task_id))))

    def claim(self, task_id: str) -> None:
        self._update(_CLAIM, AGENT, time.time(), task_id)

    def complete(self, task_id: str) -> None:
        self._update(_COMPLETE, time.time(), json.dumps(RESULT), task_id, AGENT)

    def _update(self, statement: str, *arguments: object) -> None:
        if len(self._connection.execute(statement, arguments).fetchall()) != 1:
            raise RuntimeError(f"sqlite3 has no such task: {arguments}")

    def close(self) -> None:
        self._connection.close()


class _Rename:
    """The least that a pool of files can do: no record but the name, and nothing synced."""

    def __init__(self, directory: Path) -> None:
        for state in ("available", "claimed", "completed"):
            (directory / state).mkdir(parents=True)
        self._directory = os.fspath(directory)

    def _path(self, state: str, task_id: str) -> str:
        return f"{self._directory}/{state}/{task_id}.json"

    def publish(self, task_id: str) -> None:
        temporary = f"{self._directory}/{task_id}.tmp"
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(_document(task_id), file)
        os.rename(temporary, self._path("available", task_id))

    def claim(self, task_id: str) -> None:
        os.rename(self._path("available", task_id), self._path("claimed", task_id))

    def complete(self, task_id: str) -> None:
        os.rename(self._path("claimed", task_id), self._path("completed", task_id))

    def close(self) -> None:
        pass
