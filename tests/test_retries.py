"""Claims that come to nothing: another try, or the dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastclaim import ClaimLost, TaskExists, TaskNotAvailable, TaskPool


@pytest.mark.parametrize("by_task", [False, True])
def test_a_task_is_given_up_after_max_attempts_and_can_be_tried_again(
    make_pool: Callable[..., TaskPool], by_task: bool
) -> None:
    pool = make_pool(max_attempts=9 if by_task else 2)
    pool.publish("t", **({"max_attempts": 2} if by_task else {}))
    assert pool.claim("t", "a").fail("one") == "available"
    assert pool.claim("t", "b").fail("two") == "failed"
    (task,) = pool.tasks("failed")
    assert [(f["error"], f["agent"]) for f in task["failures"]] == [("one", "a"), ("two", "b")]
    assert task["attempts"] == 2
    assert pool.retry_failed() == 1
    assert pool.claim("t", "c").task.get("attempts", 0) == 0
    with pytest.raises(TaskNotAvailable):
        pool.retry_failed("t")


def test_a_task_can_be_tried_again_though_the_directory_for_it_has_gone(
    make_pool: Callable[..., TaskPool],
) -> None:
    pool = make_pool(max_attempts=1)
    pool.publish("t")
    pool.claim("t", "a").fail("one")
    pool.available_dir.rmdir()
    assert pool.retry_failed() == 1
    assert pool.claim("t", "b")


def test_a_task_is_not_claimed_before_its_time(pool: TaskPool) -> None:
    pool.publish("t")
    pool.claim("t", "a").fail("busy", retry_after_s=600)
    with pytest.raises(TaskNotAvailable):
        pool.claim("t", "b")
    pool.publish("u")
    pool.claim("u", "a").release(not_before=time.time() + 600)
    assert pool.claim_task("u", "b") == {}
    pool.publish("v")
    pool.claim("v", "a").release(not_before=time.time() - 1)
    pool.claim("v", "b")


@pytest.mark.parametrize("verb", ["complete", "release", "fail", "renew"])
def test_whoever_comes_too_late_changes_nothing(pool: TaskPool, verb: str) -> None:
    pool.publish("t")
    late = pool.claim("t", "a")
    pool.release("t", "a")
    pool.claim("t", "a")
    before = {p: p.read_bytes() for p in Path(pool.base_dir).rglob("*") if p.is_file()}
    arguments = {"fail": ("error",), "renew": (60,)}.get(verb, ())
    with pytest.raises(ClaimLost):
        getattr(late, verb)(*arguments)
    assert {p: p.read_bytes() for p in Path(pool.base_dir).rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("error", "attempts"), [(RuntimeError("no"), 1), (KeyboardInterrupt(), 0)])
def test_a_block_fails_by_an_exception_and_releases_by_an_interrupt(
    pool: TaskPool, error: BaseException, attempts: int
) -> None:
    pool.publish("t")
    with pytest.raises(type(error)), pool.claim("t", "a"):
        raise error
    assert pool.claim("t", "b").task.get("attempts", 0) == attempts


def test_a_failed_task_that_was_published_again_stays_until_that_is_gone(pool: TaskPool) -> None:
    for task_id in ("t", "u"):
        pool.publish(task_id, n=1, max_attempts=1)
        pool.claim(task_id, "a").fail("no")
    pool.publish("t", n=2, if_exists="replace")
    before = (pool.tasks_dir / "failed" / "t_failed.json").read_bytes()
    with pytest.raises(TaskExists):
        pool.retry_failed("t")
    with pytest.raises(TaskExists):
        pool.retry_failed()
    assert (pool.tasks_dir / "failed" / "t_failed.json").read_bytes() == before
    assert pool.claim_task("t", "b")["n"] == 2
    assert pool.retry_failed("t") == 1
    assert pool.claim_task("t", "c")["n"] == 1
