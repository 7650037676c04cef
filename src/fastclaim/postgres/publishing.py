"""From callers' dicts to waiting tasks: all of a call's, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from psycopg import errors as pg_errors

from ..checking import checked
from ..errors import LockTimeout, TaskExists
from ..publishing import check_if_exists
from .publication import COLUMNS, row

if TYPE_CHECKING:
    from psycopg import Connection

    from .database import Database

# How often others may publish one of the same ids while we publish many.
_TRIES: Final = 8

_NAMES: Final = ", ".join(COLUMNS)
_INSERT: Final = f"""
INSERT INTO {{schema}}.tasks AS t ({_NAMES})
VALUES ({", ".join(["%s"] * len(COLUMNS))}) ON CONFLICT (task_id)
"""
_NEW: Final = f"WITH new AS ({_INSERT} DO NOTHING RETURNING task_id) SELECT {{notify_one}} FROM new"
_ANEW: Final = ", ".join(
    f"{name} = excluded.{name}" for name in (*COLUMNS, "delayed", "blocked") if name != "task_id"
)
_REPLACED: Final = f"""
WITH new AS (
    {_INSERT} DO UPDATE SET {_ANEW}, state = 'available', attempts = 0, failures = NULL,
        agent = NULL, claimed_by = NULL, claimed_at = NULL, token = NULL, owner = NULL,
        lease_expires_at = NULL, ended_at = NULL, result = NULL
    RETURNING task_id
)
SELECT {{notify_one}} FROM new
"""
_PUBLICATION: Final = "SELECT publication FROM {schema}.tasks WHERE task_id = %s"

_KNOWN: Final = "SELECT task_id, publication FROM {schema}.tasks WHERE task_id = ANY(%s)"
_DELETE: Final = "DELETE FROM {schema}.tasks WHERE task_id = ANY(%s)"
_COPY: Final = f"COPY {{schema}}.tasks ({_NAMES}) FROM STDIN WITH (FORMAT BINARY)"
_NOTIFY: Final = "SELECT {notify_of}"


def publish(database: Database, values: tuple[Any, ...], task_id: object, if_exists: str) -> bool:
    """Publish the task of a `publication.row`; False if it was ignored.

    Raises
    ------
    TaskExists
        Nothing new is there.
    PoolUnavailable
        The server cannot be reached, or refuses.
    """
    check_if_exists(if_exists)
    text = database.sql(_REPLACED if if_exists == "replace" else _NEW)
    publication = database.sql(_PUBLICATION)

    def work(connection: Connection, retried: bool) -> bool:
        # The answer to an earlier try was lost: is what stands there ours? It may be claimed, or
        # completed by now, and must not be published anew.
        found = connection.execute(publication, values[:1]).fetchone() if retried else None
        if found is not None and found[0] == values[1]:
            return True
        return bool(connection.execute(text, values).rowcount)

    if database.run(work, task_id):
        return True
    if if_exists == "error":
        raise _exists(task_id)
    return False


def _exists(task_id: object) -> TaskExists:
    return TaskExists(f"task {task_id!r} exists already", task_id)


def publish_many(database: Database, tasks: Iterable[Mapping[str, Any]], if_exists: str) -> int:
    """Publish many tasks in one transaction, by COPY; how many.

    Raises
    ------
    TaskExists, InvalidTask, InvalidName
        Nothing was published.
    PoolUnavailable
        The server cannot be reached, or refuses.
    """
    check_if_exists(if_exists)
    rows: dict[str, tuple[Any, ...]] = {}
    for task in checked(tasks):
        values = row(task)
        if values[0] in rows:
            raise TaskExists(f"task {task['task_id']!r} comes twice", task["task_id"])
        rows[values[0]] = values
    if not rows:
        return 0
    batch = _Batch(database, rows, if_exists)
    for _ in range(_TRIES):
        try:
            return database.run(batch.publish)
        except pg_errors.UniqueViolation:
            continue  # somebody has just published one of them: look again
    raise LockTimeout("others keep publishing tasks of the same ids")


class _Batch:
    def __init__(
        self, database: Database, rows: dict[str, tuple[Any, ...]], if_exists: str
    ) -> None:
        self._database = database
        self._rows = rows
        self._if_exists = if_exists

    def publish(self, connection: Connection, retried: bool) -> int:
        sql = self._database.sql
        rows, ids = self._rows, list(self._rows)
        with connection.transaction():
            known: dict[str, str] = dict(connection.execute(sql(_KNOWN), [ids]).fetchall())
            ours = [key for key in known if known[key] == rows[key][1]]
            if retried and ours:
                return len(ours)  # an earlier try was carried out; its answer was lost
            if self._if_exists == "replace":
                connection.execute(sql(_DELETE), [ids])
            else:
                if known and self._if_exists == "error":
                    raise _exists(next(key for key in ids if key in known))
                rows = {key: values for key, values in rows.items() if key not in known}
            if rows:
                self._copy(connection, rows.values())
                connection.execute(sql(_NOTIFY), [f"{len(rows)}"])
        return len(rows)

    def _copy(self, connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
        with connection.cursor() as cursor, cursor.copy(self._database.sql(_COPY)) as copy:
            copy.set_types(list(COLUMNS.values()))
            for values in rows:
                copy.write_row(values)
