"""What is published is there whole, once, and as it was given."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fastclaim import InvalidName, InvalidTask, TaskExists, TaskNotAvailable, TaskPool

from .conftest import MakePool

BAD_IDS = ["a/b", "/etc/passwd", "../x", "nul\0", "x" * 251, "\ud800"]
PLAIN_IDS = ["", ".", "..", ".hidden", "new\nline", "%s", "x" * 230, "é", "e\u0301", "a_b", "*"]
# What JSON can hold and a database's own JSON types cannot, or would change.
HARD_VALUES = [
    float("inf"),
    1e300,
    0.1,
    10**400,
    -(2**70),
    "nul\0",
    "\ud800",
    "ä\u2028\n\"\\'%s{}",
    {"": {"a": [None, True, [], {}]}},
    "x" * 100_000,
]


def total(pool: TaskPool) -> int:
    return sum(pool.counts().values())


def verbs_with(pool: TaskPool, bad: str) -> list[Callable[[], object]]:
    """Each verb with this id, be it the task's or the agent's; the other one is good."""
    return [
        lambda: pool.publish(bad),
        lambda: pool.publish_many([{"task_id": bad}]),
        lambda: pool.claim(bad, "a"),
        lambda: pool.claim("x", bad),
        lambda: pool.complete(bad, "a"),
        lambda: pool.complete("x", bad),
        lambda: pool.release(bad, "a"),
        lambda: pool.release("x", bad),
    ]


def originals_methods_with(pool: TaskPool, bad: str) -> list[tuple[Callable[[], object], object]]:
    """The same of the original's methods, each with what it returns for a refusal."""
    return [
        (lambda: pool.publish_task(bad, "d"), False),
        (lambda: pool.claim_task(bad, "a"), {}),
        (lambda: pool.claim_task("x", bad), {}),
        (lambda: pool.complete_task(bad, "a", {}), False),
        (lambda: pool.complete_task("x", bad, {}), False),
    ]


def test_a_task_is_published_by_id_and_fields_or_as_a_whole(pool: TaskPool) -> None:
    assert pool.publish("x", "Fix it", requirements=["python"], priority=2)
    assert pool.publish({"task_id": "y", "description": "Test it"})
    tasks = {task["task_id"]: task for task in pool.tasks()}
    assert tasks["x"]["description"] == "Fix it"
    assert tasks["x"]["priority"] == 2
    assert tasks["y"]["status"] == "available"


@pytest.mark.parametrize("value", HARD_VALUES, ids=lambda value: ascii(value)[:20])
def test_a_value_comes_back_as_it_was_given(pool: TaskPool, value: object) -> None:
    pool.publish("x", value=value)
    claim = pool.claim("x", "a")
    assert claim.task["value"] == value
    claim.complete(value)
    (task,) = pool.tasks("completed")
    assert task["value"] == value
    assert task["result"] == value


@pytest.mark.parametrize("state", ["available", "claimed", "completed"])
def test_a_task_that_is_known_in_any_state_is_not_published_again(
    pool: TaskPool, state: str
) -> None:
    pool.publish("x", "first")
    if state != "available":
        claim = pool.claim("x", "a")
    if state == "completed":
        claim.complete()
    for publish in (
        lambda **how: pool.publish("x", "second", **how),
        lambda **how: pool.publish_many([{"task_id": "x"}, {"task_id": "new"}], **how),
    ):
        with pytest.raises(TaskExists, match="'x'"):
            publish()
        assert total(pool) == 1
    assert pool.publish("x", "second", if_exists="ignore") is False
    assert total(pool) == 1
    assert pool.publish_many([{"task_id": "x"}, {"task_id": "new"}], if_exists="ignore") == 1
    assert pool.publish("x", "third", if_exists="replace")
    assert pool.claim("x", "b").task["description"] == "third"


def test_a_batch_replaces_what_is_there(pool: TaskPool) -> None:
    pool.publish("x", "first")
    tasks = [{"task_id": "x", "description": "second"}, {"task_id": "y"}]
    assert pool.publish_many(tasks, if_exists="replace") == 2
    assert pool.claim("x", "a").task["description"] == "second"


def test_unknown_settings_are_refused_by_name(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="durability 'max'"):
        make_pool(durability="max")
    with pytest.raises(ValueError, match="if_exists 'maybe'"):
        make_pool().publish("x", if_exists="maybe")
    with pytest.raises(ValueError, match="if_exists 'maybe'"):
        make_pool().publish_many([], if_exists="maybe")
    with pytest.raises(ValueError, match="state 'done'"):
        make_pool().tasks("done")


@pytest.mark.parametrize("durability", ["none", "data", "full"])
def test_every_durability_takes_a_task_to_its_end(make_pool: MakePool, durability: str) -> None:
    pool = make_pool(durability=durability)
    pool.publish("x")
    pool.claim("x", "a").complete()
    assert pool.counts()["completed"] == 1


@pytest.mark.parametrize(
    "task",
    [
        {"task_id": "x", "o": object},
        {"task_id": "x", "s": {1, 2}},
        {"task_id": "x", "constraint_enforcement": []},
        {"description": "no id"},
        ["task_id"],
        None,
    ],
    ids=repr,
)
def test_what_cannot_be_a_task_is_refused_before_anything_is_written(
    pool: TaskPool, task: Any
) -> None:
    with pytest.raises(InvalidTask):
        pool.publish(task)
    with pytest.raises(InvalidTask):
        pool.publish_many([{"task_id": "good"}, task])
    assert total(pool) == 0


def test_a_circular_task_is_refused(pool: TaskPool) -> None:
    task: dict[str, object] = {"task_id": "x"}
    task["me"] = task
    with pytest.raises(InvalidTask):
        pool.publish(task)
    assert not pool.publish_task("x", task)  # type: ignore[arg-type]
    assert total(pool) == 0


def test_a_batch_publishes_nothing_if_an_id_comes_twice(pool: TaskPool) -> None:
    with pytest.raises(TaskExists, match="twice"):
        pool.publish_many([{"task_id": "x"}, {"task_id": "y"}, {"task_id": "x"}])
    assert total(pool) == 0


def test_fields_that_the_pool_manages_are_those_of_a_waiting_task(pool: TaskPool) -> None:
    pool.publish({"task_id": "x", "status": "claimed", "claimed_by": "z", "claim_token": "t"})
    (task,) = pool.tasks()
    assert task["status"] == "available"
    assert "claimed_by" not in task
    pool.claim("x", "a")


@pytest.mark.parametrize("bad", BAD_IDS, ids=ascii)
def test_ids_that_cannot_be_file_names_are_refused_by_every_verb(
    pool: TaskPool, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    pool.publish("x")
    for verb in verbs_with(pool, bad):
        with pytest.raises(InvalidName):
            verb()
    for call, refused in originals_methods_with(pool, bad):
        caplog.clear()
        assert call() == refused
        assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert total(pool) == pool.counts()["available"] == 1


@pytest.mark.parametrize("plain", PLAIN_IDS, ids=ascii)
def test_every_other_id_is_a_plain_name(pool: TaskPool, plain: str) -> None:
    pool.publish(plain, "d")
    with pool.claim(plain, "a") as claim:
        assert claim.task["task_id"] == plain
    assert pool.publish_task(plain, "d")
    assert pool.claim_task(plain, "a")["task_id"] == plain
    assert pool.complete_task(plain, "a", {})
    if plain:
        pool.publish("x", if_exists="replace")
        pool.claim("x", plain).complete()
    assert pool.counts()["claimed"] == 0


@pytest.mark.parametrize("task_id", ["a/b", "a\0b", "\ud800", "x" * 255])
def test_who_asks_for_what_cannot_be_an_id_is_told(pool: TaskPool, task_id: str) -> None:
    for verb in (pool.why, pool.retry_failed):
        with pytest.raises(InvalidName):
            verb(task_id)
    assert pool.mine(task_id) == []


@pytest.mark.parametrize("when", ["2999-01-01T00:00:00+00:00", 1_700_000_007, 10**400, 0])
def test_a_time_comes_back_as_it_was_given(pool: TaskPool, when: object) -> None:
    pool.publish("x", not_before=when)
    (task,) = pool.tasks()
    assert (task["not_before"], type(task["not_before"])) == (when, type(when))


def test_a_time_that_a_claim_has_put_off_is_the_new_one(pool: TaskPool) -> None:
    pool.publish("x", not_before=1_700_000_007)
    claim = pool.claim("x", "a")
    assert "not_before" not in claim.task
    claim.release()
    (task,) = pool.tasks()
    assert "not_before" not in task
    later = time.time() + 3600
    pool.claim("x", "a").release(not_before=later)
    (task,) = pool.tasks()
    assert task["not_before"] == later
    with pytest.raises(TaskNotAvailable, match="may not be claimed before"):
        pool.claim("x", "a")


def test_a_number_is_an_id_as_it_is_written(pool: TaskPool) -> None:
    pool.publish({"task_id": 7})
    claim = pool.claim("7", 3)
    assert claim.task["task_id"] == 7
    assert claim.task["claimed_by"] == 3
    claim.complete()
    assert pool.counts()["completed"] == 1


def test_a_task_that_could_never_be_completed_is_not_published(pool: TaskPool) -> None:
    for if_exists in ("error", "ignore", "replace"):
        with pytest.raises(InvalidName):
            pool.publish("x" * 245, if_exists=if_exists)
        with pytest.raises(InvalidName):
            pool.publish_many([{"task_id": "x" * 245}], if_exists=if_exists)
