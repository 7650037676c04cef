"""The verbs as coroutines; a coroutine that is cancelled leaves no claim behind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from fastclaim import AlreadyClaimed, LockTimeout, TaskPool, async_news, selection
from fastclaim.aio import AsyncTaskPool
from fastclaim.selection import Selection

LONG_S = 60.0
ORIGINALS_METHODS = {
    "publish_task",
    "claim_task",
    "complete_task",
    "get_available_tasks",
    "validate_task_constraints",
}
# One of each kind, of the task "x" for the agent "a".
CLAIMS: dict[str, Callable[[AsyncTaskPool], Any]] = {
    "claim": lambda tasks: tasks.claim("x", "a"),
    "claim_next": lambda tasks: tasks.claim_next("a", wait=None),
    "claim_many": lambda tasks: tasks.claim_many("a", 5),
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


def test_a_block_completes_with_its_result_and_fails_on_an_error(pool: TaskPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        await tasks.publish("x")
        with contextlib.suppress(RuntimeError):
            async with tasks.claim_next("a") as claim:
                raise RuntimeError
        (task,) = pool.tasks()
        assert task["attempts"] == 1
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


@pytest.mark.parametrize("verb", ["claim", "claim_next"])
def test_a_claim_that_is_not_awaited_is_warned_of_as_a_coroutine_is(
    pool: TaskPool, verb: str
) -> None:
    pool.publish("x")
    with pytest.warns(RuntimeWarning, match=f"'AsyncTaskPool.{verb}' was never awaited"):
        CLAIMS[verb](AsyncTaskPool(pool))
    assert pool.counts()["claimed"] == 0


def test_a_claim_to_come_can_be_a_task_of_asyncio(pool: TaskPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        waiting = asyncio.create_task(tasks.claim_next("a", wait=LONG_S))
        never_begun = asyncio.create_task(tasks.claim_next("b", wait=LONG_S))
        never_begun.cancel()
        await tasks.publish("x")
        assert (await waiting).agent_id == "a"
        assert (await asyncio.wait([never_begun]))[1] == set()
        claiming = tasks.claim_next("a")
        assert await claiming is None
        with pytest.raises(RuntimeError, match="already awaited"):
            await claiming

    run(main)


def test_settings_beside_a_pool_that_has_its_own_are_refused(pool: TaskPool) -> None:
    with pytest.raises(TypeError, match="not also durability"):
        AsyncTaskPool(pool, durability="full")


def test_what_is_printed_says_where_and_whose(pool: TaskPool) -> None:
    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        assert repr(tasks) == f"<AsyncTaskPool at {str(pool.base_dir)!r}>"
        await tasks.publish("x")
        claiming = tasks.claim_next("a")
        assert repr(claiming).startswith("<Claiming: <coroutine object AsyncTaskPool.claim_next ")
        assert repr(await claiming) == "<AsyncClaim of 'x' by 'a'>"

    run(main)


def test_capabilities_may_come_from_a_generator(pool: TaskPool) -> None:
    pool.publish("x", requirements=["docs"])
    pool.publish("y", requirements=["docs"])

    async def main() -> None:
        capabilities = (name for name in ["docs"])
        done = [
            claim.task_id async for claim in AsyncTaskPool(pool).work("a", capabilities, wait=0)
        ]
        assert sorted(done) == ["x", "y"]
        await asyncio.wait_for(_waits_for_docs(), LONG_S)

    async def _waits_for_docs() -> None:
        call = AsyncTaskPool(pool).claim_next("a", (name for name in ["docs"]), wait=None)
        waits = asyncio.create_task(_awaited(call))
        await _until_somebody_waits(pool)
        pool.publish("not for us", requirements=["python"])
        pool.publish("z", requirements=["docs"])
        assert (await waits).task_id == "z"

    run(main)


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
        while len(pool._selected()._waiters.all) < waiting:
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
        before = asyncio.all_tasks()
        waits = asyncio.create_task(_awaited(tasks.claim_next("a", wait=None)))
        while not pool._selected()._waiters.all:
            await asyncio.sleep(0.01)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert asyncio.all_tasks() == before
        assert not pool._selected()._waiters.all
        pool.publish("x")
        pool._selected().refresh()  # wakes whoever waits
        tasks._in_process().threads.shutdown()  # when each has done what it had to

    run(main)
    assert pool.counts()["available"] == 1


@pytest.mark.parametrize("verb", CLAIMS)
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
        claiming = asyncio.create_task(_awaited(CLAIMS[verb](tasks)))
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


class Cancelling:
    """Cancels a task at the nth moment of its way through an `AsyncTaskPool`.

    The moments of each call that it makes in a thread: before the call, after it, and when the loop
    knows of its end. And those of a wait: when it begins, and when it is to be woken.

    Attributes
    ----------
    task : asyncio.Task
        To be set: whom to cancel.
    has_cancelled : bool
        Whether there was such a moment.
    """

    task: asyncio.Task[Any]

    def __init__(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_cancelled = False
        self._number = number
        self._moments = 0
        start, listening, resolve = (
            AsyncTaskPool._start,
            async_news.InProcess.listening,
            async_news._resolve,
        )

        def start_with_moments(tasks: AsyncTaskPool, call: Callable[[], Any]) -> Any:
            loop = asyncio.get_running_loop()

            def call_with_moments() -> object:
                self._moment_from_thread(loop)
                try:
                    return call()
                finally:
                    self._moment_from_thread(loop)

            future = start(tasks, call_with_moments)
            future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._moment))
            return future

        def listening_with_moments(here: Any, *how: Any) -> Any:
            self._moment()
            return listening(here, *how)

        def resolve_with_moments(woken: asyncio.Future[None]) -> None:
            self._moment()
            resolve(woken)

        monkeypatch.setattr(AsyncTaskPool, "_start", start_with_moments)
        monkeypatch.setattr(async_news.InProcess, "listening", listening_with_moments)
        monkeypatch.setattr(async_news, "_resolve", resolve_with_moments)

    def _moment(self) -> None:
        if self._moments == self._number:
            self.has_cancelled = self.task.cancel()
        self._moments += 1

    def _moment_from_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        is_over = threading.Event()
        loop.call_soon_threadsafe(lambda: (self._moment(), is_over.set()))
        assert is_over.wait(LONG_S)


@pytest.mark.parametrize("verb", CLAIMS)
def test_no_moment_of_a_cancellation_leaves_a_claim(
    make_pool: Callable[..., TaskPool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    listening = async_news.InProcess.listening

    async def main() -> None:
        for number in itertools.count():
            pool = make_pool(tmp_path / str(number))

            def publish_and_listen(here: Any, *how: Any, pool: TaskPool = pool) -> Any:
                pool.publish("x", if_exists="ignore")
                return listening(here, *how)

            with monkeypatch.context() as patched:
                if verb == "claim_next":  # it waits first
                    patched.setattr(async_news.InProcess, "listening", publish_and_listen)
                else:
                    pool.publish("x")
                cancelling = Cancelling(number, patched)
                claiming = asyncio.create_task(_awaited(CLAIMS[verb](AsyncTaskPool(pool))))
                cancelling.task = claiming
                await asyncio.wait([claiming])
            if not cancelling.has_cancelled:
                assert os.listdir(pool.claimed_dir) == ["x_a.json"]
                assert number >= 3  # moments of a call
                return
            assert claiming.cancelled()
            assert os.listdir(pool.claimed_dir) == []
            assert not pool._selected()._waiters.all

    run(main)


def test_the_timeout_of_a_claim_counts_and_a_cancellation_does_not_wait_for_it(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x", exclusive=["k"])
    claim = TaskPool.claim

    async def main() -> None:
        from fastclaim import exclusive

        tasks = AsyncTaskPool(pool)
        loop, tries = asyncio.get_running_loop(), asyncio.Event()

        def tell_and_claim(pool: TaskPool, *args: Any, **how: Any) -> Any:
            loop.call_soon_threadsafe(tries.set)
            return claim(pool, *args, **how)

        with exclusive.held(pool._directories, {"k"}, "y", "y_b.json"):
            with pytest.raises(LockTimeout):
                await tasks.claim("x", "a", timeout=0.25)
            with monkeypatch.context() as patched:
                patched.setattr(TaskPool, "claim", tell_and_claim)
                claiming = asyncio.create_task(_awaited(tasks.claim("x", "a", timeout=None)))
                await tries.wait()
            claiming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await claiming
        assert await tasks.claim("x", "a", timeout=None)

    run(main)


class Pause:
    """Stops a thread in a method, once, where the test wants to go on first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self._arrived, self._go_on = threading.Event(), threading.Event()
        original = getattr(owner, name)

        def stop(*args: object, **how: object) -> object:
            if not self._arrived.is_set():
                self._arrived.set()
                self._go_on.wait(LONG_S)
            return original(*args, **how)

        monkeypatch.setattr(owner, name, stop)

    async def reached(self) -> None:
        while not self._arrived.is_set():
            await asyncio.sleep(0.01)

    def end(self) -> None:
        self._go_on.set()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(Selection, "dismiss", id="while its wait ends"),
        pytest.param(Selection, "claim_one", id="while it looks"),
    ],
)
def test_a_coroutine_that_is_cancelled_after_being_woken_wakes_another(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    monkeypatch.setattr(selection, "_SLOW_LOOK_S", 600.0)  # nobody looks by himself

    async def main() -> None:
        tasks = AsyncTaskPool(pool)
        waiting = []
        for number in range(2):
            call = tasks.claim_next(f"a{number}", wait=None)
            waiting.append(asyncio.create_task(_awaited(call)))
            while len(pool._selected()._waiters.all) <= number:
                await asyncio.sleep(0.01)
            # The very first one follows the owners, and looks and waits again.
            await asyncio.sleep(0.1)
        pause = Pause(monkeypatch, owner, name)
        pool.publish("x")
        await pause.reached()
        waiting[0].cancel()
        await asyncio.sleep(0)
        pause.end()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        assert (await asyncio.wait_for(waiting[1], 20)).task_id == "x"

    run(main)


def test_a_loop_that_was_closed_while_somebody_waits_harms_nobody(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_SLOW_LOOK_S", 600.0)
    loop = asyncio.new_event_loop()
    left_behind = loop.create_task(_awaited(AsyncTaskPool(pool).claim_next("a", wait=None)))
    loop.run_until_complete(_until_somebody_waits(pool))
    left_behind._log_destroy_pending = False  # type: ignore[attr-defined]  # we know
    loop.close()
    got: list[object] = []
    threads = [
        threading.Thread(target=lambda: got.append(pool.claim_next("b", wait=20))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    while len(pool._selected()._waiters.all) < 3:
        pass
    pool.publish("x")
    pool.publish("y")
    for thread in threads:
        thread.join()
    assert sorted(claim.task_id for claim in got if claim is not None) == ["x", "y"]


async def _until_somebody_waits(pool: TaskPool) -> None:
    while not pool._selected()._waiters.all:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # the very first one follows the owners, and looks and waits again


def _claim_in_child(tasks: AsyncTaskPool, told: Any) -> None:
    async def main() -> None:
        told.send((await tasks.claim_next("child", wait=LONG_S)).task_id)

    asyncio.run(main())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_that_was_used_works_in_a_child(pool: TaskPool, method: str) -> None:
    tasks = AsyncTaskPool(pool)
    run(lambda: _publish_and_complete(tasks))
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=_claim_in_child, args=(tasks, there))
    child.start()
    try:
        pool.publish("y")
        assert here.poll(20)
        assert here.recv() == "y"
    finally:
        child.kill()
        child.join()
    run(lambda: _publish_and_complete(tasks))


async def _publish_and_complete(tasks: AsyncTaskPool) -> None:
    await tasks.publish("x", if_exists="replace")
    await (await tasks.claim_next("parent")).complete()


def test_a_pool_can_be_pickled_after_use(pool: TaskPool) -> None:
    tasks = AsyncTaskPool(pool)
    run(lambda: _publish_and_complete(tasks))
    run(lambda: _publish_and_complete(pickle.loads(pickle.dumps(tasks))))


def test_a_timeout_is_told_as_the_caller_gave_it(pool: TaskPool) -> None:
    pool.publish("x", exclusive=["k"])

    async def main() -> None:
        from fastclaim import exclusive

        tasks = AsyncTaskPool(pool)
        with exclusive.held(pool._directories, {"k"}, "y", "y_b.json"):
            for timeout in (0.25, 0):
                with pytest.raises(LockTimeout, match=f" for {timeout} s$") as refused:
                    await tasks.claim("x", "a", timeout=timeout)
                assert refused.value.task_id == "x"

    run(main)


def test_two_loops_one_after_the_other_use_one_pool(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_SLOW_LOOK_S", 1e6)  # the loop hears, or nobody does
    tasks = AsyncTaskPool(pool)

    async def main() -> None:
        waits = asyncio.create_task(_awaited(tasks.claim_next("a", wait=None)))
        while not pool._selected()._waiters.all:
            await asyncio.sleep(0.01)
        await tasks.publish("x", if_exists="replace")
        await (await waits).complete()

    run(main)
    run(main)
