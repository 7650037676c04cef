"""A task that must be new is published once, whoever publishes and claims it at the same time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from fastclaim import TaskExists, TaskPool, publishing, uniqueness

DURABILITIES = ["none", "data", "full"]

Race = Callable[[Callable[[TaskPool], None]], None]


@pytest.fixture(params=[False, True], ids=["changed lately", "settled"])
def is_settled(request: pytest.FixtureRequest, pool: TaskPool) -> bool:
    """Whether claimed/ was left alone for so long that its time tells of any change."""
    if request.param:
        os.utime(pool.claimed_dir, (1e9, 1e9))
    return request.param


@pytest.fixture
def after_the_look(pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> Race:
    """Lets others do something between the look whether a task is known and its publication."""

    def race(happen: Callable[[TaskPool], None]) -> None:
        def look_first(look: Callable[..., Any]) -> Callable[..., Any]:
            def look_and_let_happen(*arguments: Any) -> Any:
                found = look(*arguments)
                happen(TaskPool(pool.base_dir))
                return found

            return look_and_let_happen

        for name in ("is_known", "known_ids"):
            monkeypatch.setattr(publishing, name, look_first(getattr(publishing, name)))

    return race


def publish_and_claim(others: TaskPool) -> None:
    others.publish("x", "theirs", if_exists="replace")
    others.claim("x", "a")


def publish_and_complete(others: TaskPool) -> None:
    others.publish("x", "theirs", if_exists="replace")
    others.claim("x", "a").complete()


def publish_and_give_up(others: TaskPool) -> None:
    others.publish("x", "theirs", if_exists="replace", max_attempts=1)
    others.claim("x", "a").fail("broken")


def one(pool: TaskPool, if_exists: str) -> int:
    return pool.publish("x", "ours", if_exists=if_exists)


def many(pool: TaskPool, if_exists: str) -> int:
    tasks = [{"task_id": "x", "description": "ours"}, {"task_id": "y"}]
    return pool.publish_many(tasks, if_exists=if_exists)


def everything(pool: TaskPool) -> list[str]:
    directories = (pool.available_dir, pool.claimed_dir, pool.completed_dir, pool.failed_dir)
    return sorted(path.name for directory in directories for path in directory.iterdir())


@pytest.mark.usefixtures("is_settled")
@pytest.mark.parametrize("publish", [one, many])
@pytest.mark.parametrize(
    ("happen", "name"),
    [
        (publish_and_claim, "x_a.json"),
        (publish_and_complete, "x_complete.json"),
        (publish_and_give_up, "x_failed.json"),
    ],
)
def test_what_was_published_and_claimed_meanwhile_is_not_published_again(
    pool: TaskPool,
    after_the_look: Race,
    happen: Callable[[TaskPool], None],
    name: str,
    publish: Callable[[TaskPool, str], int],
) -> None:
    after_the_look(happen)
    with pytest.raises(TaskExists, match="'x'"):
        publish(pool, "error")
    assert everything(pool) == [name]


@pytest.mark.parametrize("durability", DURABILITIES)
def test_it_can_be_ignored_and_the_rest_of_a_batch_is_published(
    make_pool: Callable[..., TaskPool], after_the_look: Race, durability: str
) -> None:
    pool = make_pool(durability=durability)
    after_the_look(publish_and_claim)
    assert one(pool, "ignore") is False
    assert many(pool, "ignore") == 1
    assert everything(pool) == ["x_a.json", "y.json"]


@pytest.mark.parametrize("is_settled", [True], indirect=True)
@pytest.mark.usefixtures("is_settled")
def test_no_second_look_where_nothing_was_claimed(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uniqueness, "is_taken", lambda *_: pytest.fail("looked again"))
    assert one(pool, "error")
    assert many(pool, "ignore") == 1


def test_a_second_look_that_fails_leaves_nothing(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise OSError(errno.EIO, "the disk is broken", "claimed")

    monkeypatch.setattr(uniqueness, "is_taken", fail)
    for publish in (one, many):
        with pytest.raises(OSError, match="broken"):
            publish(pool, "ignore")
        assert everything(pool) == []


def test_another_publication_that_came_in_between_is_not_withdrawn_in_its_place(
    pool: TaskPool, after_the_look: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_look(publish_and_claim)
    rename = os.rename

    def replace_first(*paths: Any) -> None:
        TaskPool(pool.base_dir).publish("x", "newer", if_exists="replace")
        rename(*paths)

    monkeypatch.setattr(uniqueness.os, "rename", replace_first)
    assert one(pool, "error")  # and replaced
    monkeypatch.undo()
    assert everything(pool) == ["x.json", "x_a.json"]
    assert pool.claim("x", "b").task["description"] == "newer"


def test_what_an_original_has_claimed_in_between_stays_claimed(
    pool: TaskPool, after_the_look: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_look(publish_and_complete)
    rename = os.rename

    def claim_first(source: bytes, target: bytes) -> None:
        # As an original does, which knows nothing of who holds the file.
        rename(source, os.fsencode(pool.claimed_dir / "x_original.json"))
        rename(source, target)

    monkeypatch.setattr(uniqueness.os, "rename", claim_first)
    assert one(pool, "error")
    assert everything(pool) == ["x_complete.json", "x_original.json"]
