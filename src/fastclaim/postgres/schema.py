"""The tables of a pool, and how they come to be.

One row a task: `task_id` is the key, so that a task is in one state and in no other. The caller's
fields stand as JSON text in `payload`, which no transition rewrites (PostgreSQL stores it apart
from the row when it is long); what decides who gets the task next stands in columns of its own.

A **lane** is all tasks that ask for the same capabilities. An agent looks into the lanes that it
can work in, at the first tasks of each, by a partial index that holds only what can be claimed
now: what a claim costs depends on the number of lanes, not of tasks. Tasks that wait for a time
(`delayed`) or for other tasks (`blocked`) stand in indexes of their own.

An **exclusive key** in use is a row whose primary key decides between two claims; triggers write
and delete it, whichever way a task comes to be claimed or ceases to be.

All times are seconds since the epoch by the server's clock: hosts need not agree on theirs.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from psycopg import errors as pg_errors
from psycopg import sql

from ..errors import TaskPoolError
from .address import Address

if TYPE_CHECKING:
    from psycopg import Connection

NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
# One time for all that a statement says.
CLOCK: Final = "clock AS MATERIALIZED (SELECT {now} AS now)"

_VERSION_1: Final = """
CREATE TABLE IF NOT EXISTS {schema}.pool (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    paused_until float8,
    paused_reason text
);

CREATE TABLE IF NOT EXISTS {schema}.lanes (
    lane bigint PRIMARY KEY,
    requirements text[] NOT NULL,
    required text[] NOT NULL
);

CREATE TABLE IF NOT EXISTS {schema}.exclusive_keys (
    key text COLLATE "C" PRIMARY KEY,
    task_id text COLLATE "C" NOT NULL
);
CREATE INDEX IF NOT EXISTS exclusive_keys_of ON {schema}.exclusive_keys (task_id);

CREATE TABLE IF NOT EXISTS {schema}.tasks (
    task_id text COLLATE "C" PRIMARY KEY,
    state text NOT NULL DEFAULT 'available',
    publication text NOT NULL,         -- tells this publication from others of the same id
    payload text NOT NULL,             -- the caller's fields, as JSON
    enforcement text,                  -- constraint_enforcement without what claims put into it
    lane bigint NOT NULL,
    requirements text[] NOT NULL,      -- an agent needs any of these
    required text[] NOT NULL,          -- an agent needs all of these
    priority float8 NOT NULL,
    created_at float8 NOT NULL,
    not_before float8,
    delayed boolean NOT NULL DEFAULT false,
    blocked_by text[],
    blocked boolean NOT NULL DEFAULT false,
    deadline float8,
    exclusive text[],
    max_attempts integer,
    attempts integer NOT NULL DEFAULT 0,
    failures text,                     -- a JSON array
    agent text,                        -- who has it, or had it last; as in a file's name
    claimed_by text,                   -- the same, as JSON
    claimed_at float8,
    token text,
    owner bigint,                      -- the advisory lock that the claiming process holds
    lease_expires_at float8,
    ended_at float8,                   -- completed or failed
    result text                        -- JSON
);
CREATE INDEX IF NOT EXISTS ready_by_priority
    ON {schema}.tasks (lane, priority DESC, created_at, task_id)
    WHERE state = 'available' AND NOT delayed AND NOT blocked;
CREATE INDEX IF NOT EXISTS ready_by_age
    ON {schema}.tasks (lane, created_at, task_id)
    WHERE state = 'available' AND NOT delayed AND NOT blocked;
CREATE INDEX IF NOT EXISTS delayed
    ON {schema}.tasks (not_before) WHERE state = 'available' AND delayed AND NOT blocked;
-- No fastupdate: a completion that looks here must not read through a list of pending entries.
CREATE INDEX IF NOT EXISTS blocked
    ON {schema}.tasks USING gin (blocked_by) WITH (fastupdate = off)
    WHERE state = 'available' AND blocked;
CREATE INDEX IF NOT EXISTS claims_of ON {schema}.tasks (agent) WHERE state = 'claimed';
CREATE INDEX IF NOT EXISTS bound ON {schema}.tasks (owner)
    WHERE state = 'claimed' AND owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS leased ON {schema}.tasks (lease_expires_at)
    WHERE state = 'claimed' AND lease_expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS failed ON {schema}.tasks (ended_at) WHERE state = 'failed';
-- A pool's rows change twice and then rest; the indexes above live on what vacuum takes out.
ALTER TABLE {schema}.tasks SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02
);

CREATE OR REPLACE FUNCTION {schema}.prepare_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now float8 := extract(epoch FROM clock_timestamp());
BEGIN
    NEW.created_at := coalesce(NEW.created_at, now);
    NEW.delayed := coalesce(NEW.not_before > now, false);
    NEW.blocked := NEW.blocked_by IS NOT NULL AND EXISTS (
        SELECT FROM unnest(NEW.blocked_by) AS blocker WHERE NOT EXISTS (
            SELECT FROM {schema}.tasks WHERE task_id = blocker AND state = 'completed'));
    IF NOT EXISTS (SELECT FROM {schema}.lanes WHERE lane = NEW.lane) THEN
        INSERT INTO {schema}.lanes VALUES (NEW.lane, NEW.requirements, NEW.required)
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER prepare_task BEFORE INSERT ON {schema}.tasks
    FOR EACH ROW EXECUTE FUNCTION {schema}.prepare_task();

CREATE OR REPLACE FUNCTION {schema}.take_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {schema}.exclusive_keys SELECT key, NEW.task_id FROM unnest(NEW.exclusive) AS key;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION {schema}.free_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {schema}.exclusive_keys WHERE task_id = OLD.task_id;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER a_free_keys AFTER UPDATE OF state ON {schema}.tasks
    FOR EACH ROW WHEN (OLD.state = 'claimed' AND OLD.exclusive IS NOT NULL)
    EXECUTE FUNCTION {schema}.free_keys();
CREATE OR REPLACE TRIGGER a_free_keys_of_deleted AFTER DELETE ON {schema}.tasks
    FOR EACH ROW WHEN (OLD.state = 'claimed' AND OLD.exclusive IS NOT NULL)
    EXECUTE FUNCTION {schema}.free_keys();
CREATE OR REPLACE TRIGGER b_take_keys AFTER INSERT OR UPDATE OF state ON {schema}.tasks
    FOR EACH ROW WHEN (NEW.state = 'claimed' AND NEW.exclusive IS NOT NULL)
    EXECUTE FUNCTION {schema}.take_keys();

CREATE TABLE IF NOT EXISTS {schema}.agents (
    agent_id text COLLATE "C" PRIMARY KEY,
    info text,                         -- JSON; null: known by its inbox only
    last_heartbeat float8              -- seconds since the epoch, by the agent's own clock
);

CREATE TABLE IF NOT EXISTS {schema}.messages (
    to_agent text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,    -- as its file would be called: a message sent twice is one
    message text NOT NULL,             -- JSON
    received_at float8,
    receipt text,                      -- tells one receiver's call from others
    PRIMARY KEY (to_agent, name)
);
CREATE INDEX IF NOT EXISTS inboxes ON {schema}.messages (to_agent, name)
    WHERE received_at IS NULL;
"""

# Unlogged: the server empties it when it recovers from a crash, also where its postmaster lived on,
# and when a standby is promoted. Who finds it empty writes down when: see `recovery`.
_VERSION_2: Final = """
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.sessions_since (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    since float8 NOT NULL
);
INSERT INTO {schema}.sessions_since (since) VALUES ('-infinity') ON CONFLICT DO NOTHING;
"""

# Each brings a pool from the version before to its own; never changed once released.
MIGRATIONS: Final = (_VERSION_1, _VERSION_2)
VERSION: Final = len(MIGRATIONS)


def quoted(address: Address) -> str:
    """The schema's name, as SQL text."""
    return sql.Identifier(address.schema).as_string()


def make(connection: Connection, address: Address, must_exist: bool) -> None:
    """Make the pool's tables, unless they must exist, or bring them to this code's version.

    Raises
    ------
    FileNotFoundError
        They must exist, and do not.
    TaskPoolError
        They are newer than that.
    psycopg.Error
        The server refused; nothing was changed.
    """
    version = _version(connection, address)
    if must_exist and version == 0:
        raise FileNotFoundError(errno.ENOENT, "there is no pool", address.shown)
    if version < VERSION:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [address.key("migration")])
            version = _version(connection, address)
            if version < VERSION:
                _migrate(connection, address, version)
    if version > VERSION:
        raise TaskPoolError(
            f"{address.shown}: schema {address.schema!r} has version {version}, which is newer than"
            f" this fastclaim knows ({VERSION}): upgrade fastclaim here"
        )


def _version(connection: Connection, address: Address) -> int:
    """The version that the schema has; 0 where there is none."""
    try:
        with connection.transaction():
            row = connection.execute(f"SELECT version FROM {quoted(address)}.pool").fetchone()
    except (pg_errors.UndefinedTable, pg_errors.InvalidSchemaName):
        return 0
    except pg_errors.UndefinedColumn:
        raise TaskPoolError(
            f"{address.shown}: schema {address.schema!r} has a table 'pool' that is not"
            " fastclaim's: name another schema in the URL"
        ) from None
    return 0 if row is None else int(row[0])


def _migrate(connection: Connection, address: Address, version: int) -> None:
    schema = quoted(address)
    # Looked at first: CREATE SCHEMA IF NOT EXISTS needs a right on the database all the same.
    if not connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", [schema]).fetchall()[0][0]:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    quote = f"${address.channel}$"  # which the schema's name does not have in it
    for statements in MIGRATIONS[version:]:
        connection.execute(statements.replace("$$", quote).format(schema=schema))
    connection.execute(
        f"INSERT INTO {schema}.pool (version) VALUES (%s)"
        " ON CONFLICT (one) DO UPDATE SET version = excluded.version",
        [VERSION],
    )
