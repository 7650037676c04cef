"""The tables come to be once, and what a claim reads does not grow with them."""

from __future__ import annotations

import os
import threading
from typing import Any

import psycopg
import pytest

from fastclaim import TaskPoolError
from fastclaim.postgres import claiming, schema, upkeep
from fastclaim.postgres.pool import PostgresPool


def test_a_schema_that_is_newer_than_the_code_is_refused_in_one_line(
    pool: PostgresPool, postgres_url: str, outsider: psycopg.Connection
) -> None:
    newer = schema.VERSION + 1
    try:
        outsider.execute(f"UPDATE {pool._database.schema}.pool SET version = {newer}")
        with pytest.raises(TaskPoolError, match=f"version {newer}") as refused:
            PostgresPool(postgres_url)
        assert "upgrade fastclaim" in str(refused.value)
        assert "\n" not in str(refused.value)
    finally:
        outsider.execute(f"UPDATE {pool._database.schema}.pool SET version = {schema.VERSION}")


def test_a_pool_of_the_first_version_is_brought_to_this_one_with_its_tasks(
    pool: PostgresPool, postgres_url: str, outsider: psycopg.Connection
) -> None:
    name = pool._database.schema
    pool.publish("x")
    claim = pool.claim("x", "a")
    outsider.execute(f"DROP TABLE {name}.sessions_since; UPDATE {name}.pool SET version = 1")
    same = PostgresPool(postgres_url)
    assert outsider.execute(f"SELECT version FROM {name}.pool").fetchall() == [(schema.VERSION,)]
    assert same.recover().returned == []
    claim.complete()
    assert same.counts()["completed"] == 1


def test_a_schema_that_is_somebody_elses_is_refused_in_one_line(
    postgres_server_url: str, outsider: psycopg.Connection
) -> None:
    name = f"others_{os.urandom(6).hex()}"
    mark = "&" if "?" in postgres_server_url else "?"
    outsider.execute(f"CREATE SCHEMA {name} CREATE TABLE pool (depth float8)")
    try:
        with pytest.raises(TaskPoolError, match="name another schema") as refused:
            PostgresPool(f"{postgres_server_url}{mark}schema={name}")
        assert "\n" not in str(refused.value)
    finally:
        outsider.execute(f"DROP SCHEMA {name} CASCADE")


def test_many_that_make_the_tables_at_once_make_them_once(
    postgres_url: str, outsider: psycopg.Connection
) -> None:
    url = postgres_url + "_new"
    problems: list[BaseException] = []
    barrier = threading.Barrier(6)

    def make() -> None:
        barrier.wait()
        try:
            PostgresPool(url)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool = PostgresPool(url)
    outsider.execute(f"DROP SCHEMA {pool._database.schema} CASCADE")
    assert problems == []


def plan(pool: PostgresPool, order: str) -> str:
    """How the server would run claim_next, whatever the parameters."""
    statement = pool._database.sql(claiming._claim_next(order, 8))
    parameters = {
        "agent": "a",
        "claimed_by": "a",
        "tokens": ["t"],
        "owner": 1,
        "lease_s": None,
        "capabilities": ['"python"'],
        "wanted": 1,
        "max_claims": None,
    }

    return explained(pool, statement, parameters)


def explained(pool: PostgresPool, statement: str, parameters: dict[str, Any]) -> str:
    def explain(connection: psycopg.Connection, _: bool) -> str:
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            rows = connection.execute(f"EXPLAIN {statement}", parameters, prepare=True)
            return "\n".join(row[0] for row in rows)

    return pool._database.run(explain)


@pytest.mark.parametrize("order", ["priority", "oldest"])
@pytest.mark.parametrize("tasks", [0, 3000])
def test_a_claim_looks_at_the_first_tasks_of_an_index_however_many_there_are(
    pool: PostgresPool, outsider: psycopg.Connection, order: str, tasks: int
) -> None:
    pool.publish_many([{"task_id": f"t{n}", "priority": n % 7} for n in range(tasks)])
    outsider.execute(f"ANALYZE {pool._database.schema}.tasks")
    text = plan(pool, order)
    index = {"priority": "ready_by_priority", "oldest": "ready_by_age"}[order]
    assert "Seq Scan on tasks" not in text
    if not tasks:
        return  # of an empty table any index is as good
    assert f"Index Scan using {index}" in text
    # The tasks come from the index in order: what is sorted is no more than the window of each.
    (scan,) = [line for line in text.splitlines() if f"using {index}" in line]
    above = text.splitlines()[text.splitlines().index(scan) - 1]
    assert "Limit" in above


def rows_read(pool: PostgresPool, outsider: psycopg.Connection) -> int:
    """How many entries of the tasks' indexes the server has read so far."""
    outsider.execute("SELECT pg_stat_force_next_flush()")
    query = (
        "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes"
        f" WHERE relid = '{pool._database.schema}.tasks'::regclass"
    )
    return int(outsider.execute(query).fetchall()[0][0])


def test_a_claim_reads_as_many_rows_from_many_tasks_as_from_few(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    read = []
    for tasks in (100, 10_000):
        pool.publish_many(
            [
                {
                    "task_id": f"{tasks}-{n}",
                    "requirements": [["python"], ["rust"], []][n % 3],
                    "not_before": 4e9 if n % 5 == 0 else None,
                    "blocked_by": ["never"] if n % 7 == 0 else None,
                }
                for n in range(tasks)
            ]
        )

        def claim_and_count(connection: psycopg.Connection, _: bool) -> int:
            before = rows_read(pool, connection)
            statement = pool._database.sql(claiming._claim_next("priority", 8))
            parameters = claiming._parameters("a", "a", ["t"], claiming.Hold(None, None, None))
            parameters |= {"capabilities": ['"python"'], "wanted": 1, "max_claims": None}
            assert len(connection.execute(statement, parameters).fetchall()) == 1
            return rows_read(pool, connection) - before

        read.append(pool._database.run(claim_and_count))
    assert read[1] <= read[0] + 4


def test_why_says_that_the_pool_is_paused(pool: PostgresPool) -> None:
    pool.publish("x")
    pool.pause(reason="deploy")
    assert "paused until somebody resumes it: deploy" in pool.why("x")


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_prune_looks_through_what_waits_once_and_not_for_each_completed_task(
    pool: PostgresPool, outsider: psycopg.Connection, dry_run: bool
) -> None:
    pool.publish_many([{"task_id": f"w{n}", "blocked_by": [f"x{n}"]} for n in range(300)])
    pool.publish_many([{"task_id": f"d{n}"} for n in range(300)])
    tasks = f"{pool._database.schema}.tasks"
    outsider.execute(f"UPDATE {tasks} SET state = 'completed', ended_at = 0 WHERE task_id ~ 'd'")
    outsider.execute(f"ANALYZE {tasks}")
    statement = pool._database.sql(upkeep._prune("completed", dry_run))
    told = explained(pool, statement, {"state": "completed", "older_than_s": 1.0})
    assert "Anti Join" in told
    assert "SubPlan" not in told
