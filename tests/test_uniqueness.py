"""A task that must be new is published once, whoever publishes and claims it at the same time."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fastclaim import TaskExists, TaskPool, publishing, uniqueness

DURABILITIES = ["none", "data", "full"]

Race = Callable[[Callable[[TaskPool], None]], None]


@pytest.fixture
def meanwhile(pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> Race:
    """Lets others do something once the first task, not known yet, has been written."""

    def race(happen: Callable[[TaskPool], None]) -> None:
        prepare = publishing.Publication.prepare

        def prepare_and_let_happen(publication: publishing.Publication, sync: int) -> Any:
            prepared = prepare(publication, sync)
            monkeypatch.setattr(publishing.Publication, "prepare", prepare)
            happen(TaskPool(pool.base_dir))
            return prepared

        monkeypatch.setattr(publishing.Publication, "prepare", prepare_and_let_happen)

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
    meanwhile: Race,
    happen: Callable[[TaskPool], None],
    name: str,
    publish: Callable[[TaskPool, str], int],
) -> None:
    meanwhile(happen)
    with pytest.raises(TaskExists, match="'x'"):
        publish(pool, "error")
    assert everything(pool) == [name]


@pytest.mark.parametrize("durability", DURABILITIES)
def test_it_can_be_ignored_and_the_rest_of_a_batch_is_published(
    make_pool: Callable[..., TaskPool], meanwhile: Race, durability: str
) -> None:
    pool = make_pool(durability=durability)
    meanwhile(publish_and_claim)
    assert one(pool, "ignore") is False
    assert many(pool, "ignore") == 1
    assert everything(pool) == ["x_a.json", "y.json"]


@pytest.mark.parametrize("publish", [one, many])
def test_who_publishes_what_must_be_new_waits_for_another_who_does(
    pool: TaskPool, pausing: threading.Event, publish: Callable[[TaskPool, str], int]
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with uniqueness.PublishLock(pool._directories):
            published = threads.submit(publish, pool, "error")
            assert pausing.wait(60)
            pool.publish("z", if_exists="replace")  # as the original does: it waits for nobody
            assert everything(pool)[-1] == "z.json"
            assert not {"x.json", "y.json"} & set(everything(pool))
        assert published.result(60)
    assert "x.json" in everything(pool)


def test_a_publisher_that_was_stopped_in_the_middle_is_named(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uniqueness, "_TIMEOUT_S", 0.01)
    with uniqueness.PublishLock(pool._directories):
        for publish in (one, many):
            with pytest.raises(TimeoutError, match="available"):
                publish(pool, "ignore")
    assert everything(pool) == []


@pytest.mark.parametrize("publish", [one, many])
def test_a_directory_that_goes_under_a_publisher_is_made_anew(
    pool: TaskPool, meanwhile: Race, publish: Callable[[TaskPool, str], int]
) -> None:
    meanwhile(lambda _: shutil.rmtree(pool.tasks_dir))
    assert publish(pool, "error")
    assert "x.json" in everything(pool)


def test_of_many_publishers_of_the_same_tasks_each_task_is_done_once(pool: TaskPool) -> None:
    ids = [f"t{number}" for number in range(300)]

    def publish() -> None:
        for task_id in random.sample(ids, len(ids)):
            pool.publish(task_id, if_exists="ignore")

    def publish_together() -> None:
        for start in range(0, len(ids), 50):
            tasks = [{"task_id": task_id} for task_id in ids[start : start + 50]]
            pool.publish_many(tasks, if_exists="ignore")

    def work() -> list[str]:
        done: list[str] = []
        while not published.is_set() or pool.counts()["available"]:
            claim = pool.claim_next("a", order="any", wait=0.05)
            if claim is not None:
                claim.complete()
                done.append(claim.task_id)
        return done

    published = threading.Event()
    context = multiprocessing.get_context("fork")
    publishers = [context.Process(target=target) for target in (publish, publish_together, publish)]
    for publisher in publishers:
        publisher.start()
    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(work) for _ in range(2)]
        for publisher in publishers:
            publisher.join()
        published.set()
    assert [publisher.exitcode for publisher in publishers] == [0, 0, 0]
    assert sorted(done[0].result() + done[1].result()) == sorted(ids)
