"""A task that is published again while somebody has it, or after somebody has completed it.

What stands here first holds everywhere. In a directory an earlier publication's claim, and its
result, are files of their own; on a server a task is one row, in one state: a new publication
takes the earlier one's place, and who held that is told so. Both are pinned down below.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from fastclaim import Claim, ClaimLost, TaskExists, TaskPool

Publish = Callable[[TaskPool], object]
PUBLISH: list[Publish] = [
    lambda pool: pool.publish("x", "new", if_exists="replace"),
    lambda pool: pool.publish_task("x", "new"),
    lambda pool: pool.publish_many([{"task_id": "x", "description": "new"}], if_exists="replace"),
]
VERBS: dict[str, Callable[[Claim], object]] = {
    "complete": lambda claim: claim.complete({"by": "old"}),
    "release": lambda claim: claim.release(),
    "release until": lambda claim: claim.release(not_before=4e9),
    "fail": lambda claim: claim.fail("e"),
    "renew": lambda claim: claim.renew(600),
}


@pytest.fixture(params=PUBLISH, ids=["publish", "publish_task", "publish_many"])
def publish_anew(request: pytest.FixtureRequest) -> Publish:
    """Publishes x again."""
    return request.param


@pytest.fixture
def earlier(pool: TaskPool, publish_anew: Publish) -> Claim:
    """A claim of x, which has been published again since."""
    pool.publish("x", "old")
    claim = pool.claim("x", "a")
    publish_anew(pool)
    return claim


@pytest.fixture(params=VERBS)
def end(request: pytest.FixtureRequest) -> Iterator[Callable[[Claim], None]]:
    """Ends a claim, as far as that can be."""

    def end(claim: Claim) -> None:
        with contextlib.suppress(ClaimLost, TaskExists):
            VERBS[request.param](claim)

    return end


def test_the_holder_of_the_earlier_one_changes_nothing_of_the_new_one_that_waits(
    pool: TaskPool, earlier: Claim, end: Callable[[Claim], None]
) -> None:
    end(earlier)
    (task,) = pool.tasks()
    assert (task["description"], task["status"], task.get("attempts")) == ("new", "available", None)
    assert "not_before" not in task
    claim = pool.claim("x", "b")
    assert claim.task["description"] == "new"
    claim.complete({"by": "b"})
    (task,) = pool.tasks("completed")
    assert (task["description"], task["result"]) == ("new", {"by": "b"})


def test_the_holder_of_the_earlier_one_changes_nothing_of_the_new_one_that_is_claimed(
    pool: TaskPool, earlier: Claim, end: Callable[[Claim], None]
) -> None:
    claim = pool.claim("x", "b")
    end(earlier)
    assert claim.task["description"] == "new"
    assert [task["description"] for task in pool.tasks("claimed") if task["claimed_by"] == "b"] == [
        "new"
    ]
    claim.complete({"by": "b"})
    assert [task["result"] for task in pool.tasks("completed")] == [{"by": "b"}]


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_agents_new_claim_ends_its_earlier_one(
    pool: TaskPool, earlier: Claim, verb: str
) -> None:
    claim = pool.claim("x", "a")
    with pytest.raises(ClaimLost):
        VERBS[verb](earlier)
    claim.complete({"by": "new"})
    (task,) = pool.tasks("completed")
    assert (task["description"], task["result"]) == ("new", {"by": "new"})


def test_the_holder_of_the_earlier_one_is_told(
    kind: object, pool: TaskPool, earlier: Claim
) -> None:
    if kind == "postgres":
        for verb in VERBS.values():
            with pytest.raises(ClaimLost, match=r"'x' .* was published again"):
                verb(earlier)
        return
    for name in ("release", "fail"):
        with pytest.raises(TaskExists, match="'x' was published again"):
            VERBS[name](earlier)
    earlier.complete({"by": "old"})
    (task,) = pool.tasks("completed")
    assert (task["description"], task["result"]) == ("old", {"by": "old"})


def test_an_earlier_result_stands_beside_the_new_publication_in_a_directory_only(
    kind: object, pool: TaskPool, publish_anew: Publish
) -> None:
    pool.publish("x", "old")
    pool.claim("x", "a").complete()
    publish_anew(pool)
    pool.publish("dependent", blocked_by=["x"], requirements=["d"])
    assert pool.counts()["completed"] == (0 if kind == "postgres" else 1)
    with pool.claim("x", "b"):
        pass
    assert pool.counts()["completed"] == 1
    claim = pool.claim_next("c", ["d"])
    assert claim is not None
    assert claim.task_id == "dependent"
