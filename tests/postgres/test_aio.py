"""Coroutines that wait for tasks on a server: woken by the session, by nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import pytest

from fastclaim.aio import AsyncTaskPool
from fastclaim.postgres import selecting
from fastclaim.postgres import server as server_module
from fastclaim.postgres.pool import PostgresPool

LONG_S = 60.0
PUBLISH = """
import sys
from fastclaim import TaskPool
pool = TaskPool(sys.argv[1])
for task_id in sys.argv[2:]:
    pool.publish(task_id)
"""


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine, with asyncio's own checks."""
    asyncio.run(asyncio.wait_for(main(), LONG_S), debug=True)


@pytest.fixture(autouse=True)
def _nobody_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "SLOW_POLL_S", 600.0)


def publish_elsewhere(url: str, *task_ids: str) -> None:
    """By another process."""
    subprocess.run([sys.executable, "-c", PUBLISH, url, *task_ids], check=True)


async def begin(pool: PostgresPool, *calls: Any) -> list[asyncio.Task[Any]]:
    """Let coroutines wait; once one of them does, so that they are woken in this order."""
    address = pool._database.address
    session = server_module.server_of(address).session
    tasks = []
    for number, call in enumerate(calls, 1):
        tasks.append(asyncio.create_task(_awaited(call)))
        while (
            len(waiters := session._waiters.get(address.channel, [])) < number
            or address.channel not in session._armed
            or not all(_sleeps(waiter) for waiter in waiters)
        ):
            await asyncio.sleep(0.01)
    return tasks


def _sleeps(waiter: Any) -> bool:
    """Whether it has looked since all is heard, and waits to be rung."""
    news = waiter._ring.__self__
    return not waiter.is_late and not waiter.is_awake and bool(news._rung._waiters)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def test_a_coroutine_is_woken_by_what_another_process_publishes(
    pool: PostgresPool, postgres_url: str
) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        (waits,) = await begin(pool, tasks.claim_next("a", wait=None))
        await asyncio.to_thread(publish_elsewhere, postgres_url, "x")
        assert (await waits).task_id == "x"

    run(main)


def test_a_wait_that_is_over_gives_none(pool: PostgresPool) -> None:
    async def main() -> None:
        assert await AsyncTaskPool(pool).claim_next("a", wait=0.05) is None

    run(main)
    address = pool._database.address
    assert server_module.server_of(address).session._waiters[address.channel] == []


def test_work_goes_on_with_what_comes(pool: PostgresPool, postgres_url: str) -> None:
    async def main() -> None:
        done = []
        publishing = asyncio.create_task(
            asyncio.to_thread(publish_elsewhere, postgres_url, "x", "y", "z")
        )
        async with contextlib.aclosing(AsyncTaskPool(pool).work("a")) as claims:
            async for claim in claims:
                done.append(claim.task_id)
                if len(done) == 3:
                    break
        await publishing
        assert sorted(done) == ["x", "y", "z"]

    run(main)
    assert pool.counts()["completed"] == 2
    assert pool.counts()["available"] == 1  # given back when the loop was left


def test_a_time_that_comes_wakes_a_coroutine(pool: PostgresPool) -> None:
    pool.publish("x")
    pool.claim("x", "a").fail("e", retry_after_s=0.3)

    async def main() -> None:
        assert (await AsyncTaskPool(pool).claim_next("a", wait=None)).task_id == "x"

    run(main)


def test_each_task_wakes_a_coroutine_and_none_needs_a_thread(pool: PostgresPool) -> None:
    number = 100

    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        waiting = await begin(pool, *(tasks.claim_next(f"a{n}", wait=None) for n in range(number)))
        assert threading.active_count() < number // 2
        await tasks.publish_many([{"task_id": f"x{n}"} for n in range(number)])
        assert len({(await claim).task_id for claim in waiting}) == number

    run(main)


def test_who_waits_hears_of_a_task_after_the_session_was_dropped(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        (waits,) = await begin(pool, tasks.claim_next("a", wait=None))
        outsider.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'fastclaim'"
        )
        await tasks.publish("x")
        assert (await waits).task_id == "x"

    run(main)


def test_a_cancelled_wait_is_over_and_a_later_task_is_not_claimed(pool: PostgresPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        (waits,) = await begin(pool, tasks.claim_next("a", wait=None))
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        address = pool._database.address
        assert server_module.server_of(address).session._waiters[address.channel] == []
        await tasks.publish("x")
        assert (await tasks.counts())["available"] == 1

    run(main)


def test_a_coroutine_that_is_cancelled_after_being_woken_wakes_another(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go_on = threading.Event(), threading.Event()
    look = selecting._try

    def look_late(database: Any, wanted: Any, *terms: Any) -> Any:
        if wanted.agent_id == "a":
            arrived.set()
            go_on.wait(LONG_S)
            return []  # as if it had looked a moment too early
        return look(database, wanted, *terms)

    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        first, second = await begin(pool, *(tasks.claim_next(name, wait=None) for name in "ab"))
        monkeypatch.setattr(selecting, "_try", look_late)
        await tasks.publish("x")
        while not arrived.is_set():
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).task_id == "x"

    run(main)


def test_no_moment_of_a_cancellation_leaves_a_claim(pool: PostgresPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        for number in range(40):
            pool.publish(f"x{number}")
            claiming = asyncio.create_task(_awaited(tasks.claim_next("a", wait=None)))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0005 * (number % 11))
            claiming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await claiming).complete()

    run(main)
    assert pool.counts()["claimed"] == 0


def test_a_loop_that_was_closed_while_somebody_waits_takes_no_task_along(
    pool: PostgresPool,
) -> None:
    loop = asyncio.new_event_loop()
    (left_behind,) = loop.run_until_complete(
        begin(pool, AsyncTaskPool(pool).claim_next("a", wait=None))
    )
    left_behind._log_destroy_pending = False  # type: ignore[attr-defined]  # we know
    loop.close()

    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        waits = asyncio.create_task(_awaited(tasks.claim_next("b", wait=None)))
        session = server_module.server_of(pool._database.address).session
        waiters = session._waiters[pool._database.address.channel]
        while len(waiters) < 2 or not _sleeps(waiters[1]):
            await asyncio.sleep(0.01)
        await tasks.publish("x")
        assert (await waits).task_id == "x"

    run(main)
