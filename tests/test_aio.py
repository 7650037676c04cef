"""The verbs as coroutines; a coroutine that is cancelled leaves no claim behind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastclaim import AlreadyClaimed, LockTimeout, TaskPool
from fastclaim.aio import AsyncTaskPool

LONG_S = 60.0
ORIGINALS_METHODS = {
    "publish_task",
    "claim_task",
    "complete_task",
    "get_available_tasks",
    "validate_task_constraints",
}


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine, with asyncio's own checks."""
    asyncio.run(asyncio.wait_for(main(), LONG_S), debug=True)


def test_the_verbs_do_what_those_of_the_pool_do(pool: TaskPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        assert await tasks.publish("x", "Fix it", priority=2)
        assert await tasks.publish_many([{"task_id": "y"}, {"task_id": "z"}]) == 2
        claim = await tasks.claim("x", "a")
        assert claim.task["description"] == "Fix it"
        assert (claim.task_id, claim.agent_id) == ("x", "a")
        with pytest.raises(AlreadyClaimed):
            await tasks.claim("x", "b")
        assert [mine.token for mine in await tasks.mine("a")] == [claim.token]
        await claim.complete("done")
        second = await tasks.claim_next("a")
        await second.release()
        assert len(await tasks.claim_many("a", 9)) == 2
        await tasks.complete("y", "a", 1)
        await tasks.release("z", "a")
        assert await tasks.counts() == {**await tasks.counts(), "available": 1, "completed": 2}
        assert [task["task_id"] async for task in tasks.tasks()] == ["z"]
        assert "waits for an agent" in await tasks.why("z")
        claim = await tasks.claim("z", "b", lease_s=60)
        assert await claim.renew(120) > await tasks.renew("z", "b", 60)
        assert await claim.fail("no") == "available"
        await tasks.claim("z", "b")
        assert await tasks.fail("z", "b", "no") == "available"
        assert await tasks.retry_failed() == 0
        await tasks.pause(reason="lunch")
        assert (await tasks.paused()).reason == "lunch"
        assert await tasks.claim_next("b") is None
        await tasks.resume()
        assert not await tasks.recover()
        assert all(finding.level != "error" for finding in await tasks.doctor())
        assert set(await tasks.prune("completed", 0, dry_run=False)) == {"x", "y"}

    run(main)


def test_each_verb_has_the_parameters_of_the_pools() -> None:
    for name, verb in inspect.getmembers(TaskPool, inspect.isfunction):
        if name.startswith("_") or name in ORIGINALS_METHODS:
            continue
        expected = inspect.signature(verb).parameters
        ours = inspect.signature(getattr(AsyncTaskPool, name)).parameters
        assert list(ours) == list(expected), name
        assert [p.default for p in ours.values()] == [p.default for p in expected.values()]


def test_a_block_completes_with_its_result_and_gives_back_on_an_error(pool: TaskPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        await tasks.publish("x")
        with contextlib.suppress(RuntimeError):
            async with tasks.claim_next("a") as claim:
                raise RuntimeError
        assert (await tasks.counts())["claimed"] == 0
        pool.publish("y")
        async with tasks.claim("y", "a") as claim:
            claim.result = {"n": 1}
        async with await tasks.claim_next("b") as claim:
            pass
        async with tasks.claim_next("a") as claim:
            assert claim is None

    run(main)
    results = {task["task_id"]: task["result"] for task in pool.tasks("completed")}
    assert results["y"] == {"n": 1}


def test_work_is_a_loop_over_claims(pool: TaskPool) -> None:
    done = []

    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        await tasks.publish_many([{"task_id": f"x{n}"} for n in range(20)])

        async def work(agent_id: str) -> None:
            async for claim in tasks.work(agent_id, wait=0.3):
                done.append(claim.task_id)
                claim.result = agent_id

        await asyncio.gather(*(work(f"a{n}") for n in range(4)))

    run(main)
    assert sorted(done) == sorted(f"x{n}" for n in range(20))
    assert pool.counts()["completed"] == 20


def test_leaving_the_loop_early_gives_the_last_claim_back(pool: TaskPool) -> None:
    pool.publish("x")

    async def main() -> None:
        async with contextlib.aclosing(AsyncTaskPool(pool).work("a")) as claims:
            async for _ in claims:
                break

    run(main)
    assert pool.counts()["available"] == 1


def test_hundreds_wait_without_a_thread_for_each(pool: TaskPool) -> None:
    waiting = 200

    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        claims = [
            asyncio.create_task(_awaited(tasks.claim_next(f"a{n}", wait=LONG_S)))
            for n in range(waiting)
        ]
        while len(pool._selected()._waiters) < waiting:
            await asyncio.sleep(0.02)
        assert threading.active_count() < 60
        await tasks.publish_many([{"task_id": f"x{n}"} for n in range(waiting)])
        taken = {(await claim).task_id for claim in claims}
        assert len(taken) == waiting

    run(main)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def test_a_cancelled_wait_is_over_and_a_later_task_is_not_claimed(pool: TaskPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        waits = asyncio.create_task(_awaited(tasks.claim_next("a", wait=None)))
        while not pool._selected()._waiters:
            await asyncio.sleep(0.01)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert not pool._selected()._waiters
        await tasks.publish("x")
        await asyncio.sleep(0.05)
        assert (await tasks.counts())["available"] == 1

    run(main)


@pytest.mark.parametrize("verb", ["claim", "claim_next", "claim_many"])
def test_a_claim_made_while_its_coroutine_is_cancelled_is_given_back(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    pool.publish("x")
    arrived, go_on = threading.Event(), threading.Event()
    original = getattr(TaskPool, verb)

    def claim_then_dawdle(self: TaskPool, *args: object, **how: object) -> object:
        claimed = original(self, *args, **how)
        arrived.set()
        go_on.wait(LONG_S)
        return claimed

    async def main() -> None:
        monkeypatch.setattr(TaskPool, verb, claim_then_dawdle)
        tasks = AsyncTaskPool(pool)
        call = {
            "claim": lambda: tasks.claim("x", "a"),
            "claim_next": lambda: tasks.claim_next("a", wait=None),
            "claim_many": lambda: tasks.claim_many("a", 5),
        }[verb]
        claiming = asyncio.create_task(_awaited(call()))
        while not arrived.is_set():
            await asyncio.sleep(0.01)
        assert os.listdir(pool.claimed_dir) == ["x_a.json"]
        claiming.cancel()
        await asyncio.sleep(0)
        claiming.cancel()  # impatience changes nothing
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await claiming

    run(main)
    assert os.listdir(pool.claimed_dir) == []
    assert pool.counts()["available"] == 1


def test_no_moment_of_a_cancellation_leaves_a_claim(pool: TaskPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        for number in range(40):
            pool.publish(f"x{number}")
            claiming = asyncio.create_task(_awaited(tasks.claim_next("a", wait=None)))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0001 * (number % 7))
            claiming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await claiming).complete()

    run(main)
    assert os.listdir(pool.claimed_dir) == []


def test_the_timeout_of_a_claim_counts_and_a_cancellation_does_not_wait_for_it(
    pool: TaskPool,
) -> None:
    pool.publish("x", exclusive=["k"])

    async def main() -> None:
        from fastclaim import exclusive

        tasks = AsyncTaskPool(pool)
        with exclusive.held(pool._directories, {"k"}, "y", "y_b.json"):
            with pytest.raises(LockTimeout):
                await tasks.claim("x", "a", timeout=0.25)
            claiming = asyncio.create_task(_awaited(tasks.claim("x", "a", timeout=None)))
            await asyncio.sleep(0.05)
            claiming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await claiming
        assert await tasks.claim("x", "a", timeout=None)

    run(main)


def test_two_loops_one_after_the_other_use_one_pool(pool: TaskPool) -> None:
    tasks = AsyncTaskPool(pool)

    async def main() -> None:
        waits = asyncio.create_task(_awaited(tasks.claim_next("a", wait=LONG_S)))
        while not pool._selected()._waiters:
            await asyncio.sleep(0.01)
        await tasks.publish("x", if_exists="replace")
        await (await waits).complete()

    run(main)
    run(main)
