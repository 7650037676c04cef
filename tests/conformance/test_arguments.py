"""What no verb can do anything sensible with is refused by name, and nothing has happened."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from fastclaim import InvalidName, InvalidTask, TaskPool
from fastclaim.aio import AsyncTaskPool

NAN = float("nan")


class Role(str, enum.Enum):  # noqa: UP042  that is the point: it prints otherwise than it is
    """As many write down who their agents are."""

    CODER = "coder"


@pytest.mark.parametrize("nobody", [None, True, 1.5, NAN, ["a"], {"a": 1}, b"a", Role.CODER])
def test_nothing_but_a_name_claims_or_is_claimed(pool: TaskPool, nobody: Any) -> None:
    pool.publish("x")
    for claim in (
        lambda: pool.claim("x", nobody),
        lambda: pool.claim(nobody, "a"),
        lambda: pool.claim_next(nobody),
        lambda: pool.claim_many(nobody, 1),
    ):
        with pytest.raises(InvalidName) as refused:
            claim()
        assert repr(nobody) in str(refused.value)
    assert pool.counts()["available"] == 1


def test_a_name_that_prints_otherwise_than_it_is_names_no_task(pool: TaskPool) -> None:
    with pytest.raises(InvalidName, match=r"'coder', but prints as 'Role\.CODER'"):
        pool.publish(Role.CODER)
    with pytest.raises(InvalidName, match="CODER"):
        pool.publish_many([{"task_id": Role.CODER}])
    assert sum(pool.counts().values()) == 0


@pytest.mark.parametrize("name", ["status", "owner", "result", "attempts", "claim_token"])
def test_a_field_of_the_pools_own_is_refused_as_a_keyword_and_left_out_of_a_mapping(
    pool: TaskPool, name: str
) -> None:
    with pytest.raises(InvalidTask, match=f"'{name}' is the pool's own"):
        pool.publish("x", **{name: "mine"})
    pool.publish({"task_id": "x", name: "mine", "n": 1})
    (task,) = pool.tasks()
    assert task["n"] == 1
    assert task.get(name) != "mine"


def test_one_task_has_one_id(pool: TaskPool) -> None:
    with pytest.raises(InvalidTask, match="'x' is given a second id, 'y'"):
        pool.publish("x", task_id="y")
    assert sum(pool.counts().values()) == 0


@pytest.mark.parametrize("one", [{"task_id": "x"}, "x"], ids=["mapping", "text"])
def test_many_tasks_are_not_one(pool: TaskPool, one: Any) -> None:
    with pytest.raises(InvalidTask, match="not one task"):
        pool.publish_many(one)
    assert sum(pool.counts().values()) == 0


MISTAKES: dict[str, tuple[Callable[[TaskPool], object], str]] = {
    "order": (lambda pool: pool.claim_next("a", order=["any"]), r"order \['any'\]"),
    "n": (lambda pool: pool.claim_many("a", -1), "n -1"),
    "max_claims": (lambda pool: pool.claim_next("a", max_claims=-1), "max_claims -1"),
    "older_than": (lambda pool: pool.recover(older_than=-1), "older_than -1"),
    "token": (lambda pool: pool.complete("x", "a", token=5), "token 5"),
    "reason": (lambda pool: pool.pause(reason=None), "reason None"),
    "bytes": (lambda pool: pool.pause(reason=b"tea"), "reason b'tea'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistaken_argument_is_named(pool: TaskPool, mistake: str) -> None:
    call, named = MISTAKES[mistake]
    pool.publish("x")
    pool.claim("x", "a", bind=False)
    with pytest.raises((TypeError, ValueError), match=named):
        call(pool)
    assert pool.counts()["claimed"] == 1
    assert pool.paused() is None


def async_calls(tasks: AsyncTaskPool, seconds: Any) -> Iterable[Any]:
    yield tasks.claim("x", "a", timeout=seconds)
    yield tasks.claim_next("a", wait=seconds)


@pytest.mark.parametrize("seconds", [NAN, True, "1"])
def test_coroutines_ask_for_seconds_as_the_verbs_do(pool: TaskPool, seconds: Any) -> None:
    pool.publish("x")

    async def main() -> None:
        for call in async_calls(AsyncTaskPool(pool), seconds):
            with pytest.raises(ValueError, match="is not a number of seconds"):
                await call

    asyncio.run(main())
    assert pool.counts()["available"] == 1
