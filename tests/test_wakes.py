"""A wake is owed until somebody has looked: no waiter sleeps while there is a task for it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fastclaim import Claim, TaskPool, deaths, exclusive, selection
from fastclaim.changes import Changes
from fastclaim.selection import Selection

from .agents import agent

LONG_S = 60.0


@pytest.fixture(autouse=True)
def no_slow_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody finds by looking now and then what he should have been told of."""
    monkeypatch.setattr(selection, "_SLOW_LOOK_S", 10 * LONG_S)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


def waiting(pool: TaskPool) -> int:
    return len(pool._selected()._waiters.all)


def test_a_listener_hears_of_what_another_thread_has_read_first(
    pool: TaskPool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    listens, read = threading.Event(), threading.Event()
    wait = Changes.wait

    def wait_once_it_was_read(changes: Changes, *how: Any) -> None:
        listens.set()
        assert read.wait(LONG_S)
        wait(changes, *how)

    monkeypatch.setattr(Changes, "wait", wait_once_it_was_read)
    waits = threads.submit(pool.claim_next, "a", ["gpu"], wait=LONG_S)
    assert listens.wait(LONG_S)
    pool.publish("x", requirements=["gpu"])
    assert pool.claim_next("b", ["docs"]) is None
    read.set()
    assert waits.result(LONG_S).task_id == "x"


def test_any_number_of_kinds_of_agents_can_wait(
    pool: TaskPool, threads: ThreadPoolExecutor
) -> None:
    kinds = [f"skill-{number}" for number in range(selection._MOST_VIEWS + 2)]
    waits = []
    for number, kind in enumerate(kinds):
        waits.append(threads.submit(pool.claim_next, kind, [kind], wait=LONG_S))
        until(lambda number=number: waiting(pool) > number)
    for kind in kinds:
        pool.publish(kind, requirements=[kind])
    assert [claim.result(LONG_S).task_id for claim in waits] == kinds


def test_who_was_woken_and_fails_before_it_looks_wakes_another(
    pool: TaskPool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = [threads.submit(pool.claim_next, agent_id, wait=LONG_S) for agent_id in "ab"]
    until(lambda: waiting(pool) == 2)
    is_look_due = Selection.is_look_due

    def fail_once(chosen: Selection) -> bool:
        monkeypatch.setattr(Selection, "is_look_due", is_look_due)
        raise RuntimeError("before the look")

    monkeypatch.setattr(Selection, "is_look_due", fail_once)
    pool.publish("x")
    came_to = [(each.exception(LONG_S), each) for each in waits]
    assert sorted(error is None for error, _ in came_to) == [False, True]
    assert [each.result().task_id for error, each in came_to if error is None] == ["x"]


def test_what_was_read_and_not_told_is_found(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.claim_next("a") is None
    pool.publish("x")
    read = Changes.read

    def read_and_fail(changes: Changes) -> object:
        monkeypatch.setattr(Changes, "read", read)
        assert read(changes)
        raise KeyboardInterrupt

    monkeypatch.setattr(Changes, "read", read_and_fail)
    with pytest.raises(KeyboardInterrupt):
        pool.claim_next("a")
    assert pool.claim_next("a").task_id == "x"


@pytest.mark.parametrize("order", ["priority", "any"])
def test_a_task_that_one_agent_cannot_have_goes_to_another(
    pool: TaskPool, threads: ThreadPoolExecutor, order: str
) -> None:
    long_id = "a" * 150
    waits = [threads.submit(pool.claim_next, long_id, order=order, wait=LONG_S)]
    until(lambda: waiting(pool) == 1)
    waits.append(threads.submit(pool.claim_next, "b", order=order, wait=LONG_S))
    until(lambda: waiting(pool) == 2)
    pool.publish("t" * 120)
    assert waits[1].result(LONG_S).agent_id == "b"
    pool.publish("x")
    assert waits[0].result(LONG_S).task_id == "x"


@pytest.mark.parametrize("order", ["priority", "any"])
def test_what_one_agent_could_not_have_is_tried_by_the_next(pool: TaskPool, order: str) -> None:
    pool.publish("t" * 120)
    for _ in range(2):
        assert pool.claim_next("a" * 150, order=order) is None
    assert pool.claim_next("b", order=order).task_id == "t" * 120


def test_an_agent_at_its_limit_sleeps_and_others_get_the_task(
    pool: TaskPool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = itertools.count()
    nap = Selection._nap

    def counted(chosen: Selection, *how: Any) -> None:
        next(naps)
        nap(chosen, *how)

    monkeypatch.setattr(Selection, "_nap", counted)
    pool.publish("first")
    held = pool.claim_next("a")
    at_limit = threads.submit(pool.claim_next, "a", max_claims=1, wait=LONG_S)
    until(lambda: waiting(pool) == 1)
    free = threads.submit(pool.claim_next, "b", wait=LONG_S)
    until(lambda: waiting(pool) == 2)
    pool.publish("x")
    assert free.result(LONG_S).task_id == "x"
    pool.publish("y")
    held.complete()
    assert at_limit.result(LONG_S).task_id == "y"
    assert next(naps) < 20


def test_who_waits_for_a_place_gives_up_on_a_process_that_was_stopped(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive, "_AGENT_LOCK_S", 0.01)
    pool.publish("x")
    with exclusive.agent_lock(pool._directories, "a") as is_alone:
        assert is_alone
        assert pool.claim_next("a", max_claims=1) is None
    assert pool.claim_next("a", max_claims=1).task_id == "x"


def test_a_time_that_only_somebody_else_knew_of_is_not_forgotten(
    pool: TaskPool, threads: ThreadPoolExecutor
) -> None:
    waits = [threads.submit(pool.claim_next, "a", wait=0.3)]
    until(lambda: waiting(pool) == 1)
    waits.append(threads.submit(pool.claim_next, "b", wait=LONG_S))
    until(lambda: waiting(pool) == 2)
    pool.publish("x", not_before=time.time() + 0.6)
    assert waits[0].result(LONG_S) is None
    assert waits[1].result(LONG_S).task_id == "x"


def forget_what_was_heard(pool: TaskPool) -> None:
    """For a second after a death every look is one after the dead."""
    pool._directories.deaths()._heard_at_s = float("-inf")


# The dead -----------------------------------------------------------------------------------------


@pytest.fixture
def claim_of_the_dead(pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> TaskPool:
    """A pool that has looked after the dead before somebody died with the task "x"."""
    monkeypatch.setattr(deaths, "_FIRST_AGAIN_S", 0.01)
    pool.publish("x")
    with agent(lambda: TaskPool(pool.base_dir).claim("x", "dead")):
        assert pool.claim_next("a") is None
        assert pool.claim_next("a") is None
    return pool


def test_a_look_after_the_dead_that_failed_is_repeated(
    claim_of_the_dead: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = claim_of_the_dead
    with monkeypatch.context() as patched:

        def fail(*_: object) -> bool:
            raise OSError("no descriptor left")

        patched.setattr("fastclaim.recovery.give_back_of_dead_owners", fail)
        with pytest.raises(OSError, match="no descriptor"):
            pool.claim_next("a")
    forget_what_was_heard(pool)
    assert pool.claim_next("a", wait=LONG_S).task_id == "x"


def test_a_claim_of_the_dead_that_had_to_wait_goes_back_later(claim_of_the_dead: TaskPool) -> None:
    pool = claim_of_the_dead
    pool.publish("x", requirements=["gpu"], if_exists="replace")
    assert pool.claim_next("a", ["docs"]) is None  # the newer one stands in its way
    forget_what_was_heard(pool)
    pool.claim_next("b", ["gpu"]).complete()
    assert pool.claim_next("a", wait=LONG_S).task_id == "x"


def test_a_claim_that_cannot_be_given_back_keeps_no_other(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "_FIRST_AGAIN_S", 0.01)
    names = [f"x{number}" for number in range(4)]
    pool.publish_many([{"task_id": name} for name in names])

    def claim_all() -> list[Claim]:
        return TaskPool(pool.base_dir).claim_many("dead", 4)

    with agent(claim_all):
        pass
    from fastclaim.recovery import _Recovery

    claim = _Recovery.claim

    def refuse_one(recovery: _Recovery, path: str) -> None:
        if path.endswith("x1_dead.json"):
            raise PermissionError(1, "immutable", path)
        claim(recovery, path)

    with monkeypatch.context() as patched:
        patched.setattr(_Recovery, "claim", refuse_one)
        assert {pool.claim_next("a").task_id for _ in range(3)} == {"x0", "x2", "x3"}
    assert pool.claim_next("a", wait=LONG_S).task_id == "x1"
