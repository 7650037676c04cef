"""Who lives and who waits: what a process holds on the server."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from fastclaim import TaskPoolError
from fastclaim.postgres import server as server_module
from fastclaim.postgres.pool import PostgresPool


@pytest.fixture
def _new_session() -> None:
    """Nobody of this process waits yet."""
    server_module.close_all()


def holders(
    pool: PostgresPool, outsider: psycopg.Connection, number: int, granted: bool = True
) -> int:
    """How many sessions hold an advisory lock, or wait for it."""
    (row,) = outsider.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted = %s"
        " AND (classid::bigint << 32 | objid::bigint) = %s",
        [granted, number],
    ).fetchall()
    return int(row[0])


def test_a_claim_carries_the_lock_that_its_process_holds(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    pool.publish("x")
    owner = int(pool.claim("x", "a").task["owner"], 16)
    assert holders(pool, outsider, owner) == 1
    server_module.close_all()
    assert holders(pool, outsider, owner) == 0


@pytest.mark.usefixtures("_new_session")
def test_nobody_is_notified_while_nobody_waits(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    outsider.execute(f"LISTEN {pool._database.address.channel}")
    pool.publish("x")
    assert list(outsider.notifies(timeout=0.1)) == []
    waiting = pool._database.address.key("waiting")
    with outsider.transaction():
        outsider.execute("SELECT pg_advisory_xact_lock_shared(%s)", [waiting])
        pool.publish("y")
    assert len(list(outsider.notifies(timeout=5, stop_after=1))) == 1


@pytest.mark.usefixtures("_new_session")
def test_what_is_published_while_somebody_begins_to_wait_is_not_missed(
    pool: PostgresPool, outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastclaim.postgres import selecting

    monkeypatch.setattr(selecting, "SLOW_POLL_S", 600.0)
    address = pool._database.address
    schema = pool._database.schema
    got: list[Any] = []
    with outsider.transaction():
        # A publisher that found nobody waiting, and has not committed.
        row = outsider.execute("SELECT pg_try_advisory_xact_lock(%s)", [address.key("waiting")])
        assert row.fetchall() == [(True,)]
        outsider.execute(
            f"INSERT INTO {schema}.tasks (task_id, publication, payload, lane, requirements,"
            " required, priority) VALUES ('x', 'p', '{\"task_id\": \"x\"}', 1, '{}', '{}', 0)"
        )
        thread = threading.Thread(target=lambda: got.append(pool.claim_next("a", wait=60)))
        thread.start()
        # It says that it waits by a lock which it cannot have before the publisher's commit.
        until_s = time.monotonic() + 60
        while not holders(pool, outsider, address.key("waiting"), granted=False):
            assert time.monotonic() < until_s
            time.sleep(0.01)
    thread.join()
    assert got[0].task_id == "x"


@pytest.mark.usefixtures("_new_session")
def test_behind_a_pooler_claims_cannot_be_bound_but_leased(
    pool: PostgresPool, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What pgbouncer makes of a connection: the number that it tells is made up.
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 1)
    server_module.close_all()
    pool.publish("x")
    with pytest.raises(TaskPoolError, match="pooler"):
        pool.claim("x", "a")
    assert pool.claim_task("x", "a") == {}
    claim = pool.claim_next("a", lease_s=60, wait=0.1)
    assert claim is not None
    claim.complete()
    assert pool.claim_next("a", lease_s=60, wait=0.05) is None
    unbound = PostgresPool(postgres_url, bind_claims=False)
    unbound.publish("y")
    unbound.claim("y", "a").complete()
    server_module.close_all()
