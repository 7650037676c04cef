"""Which task an agent gets next, and how it waits for one."""

from __future__ import annotations

import multiprocessing
import random
import re
import threading
import time
from typing import Any

import pytest

from fastclaim import InvalidName, KeyHeld, TaskNotAvailable, TaskPool

from ..other_hands import publish_unchecked
from .conftest import MakePool

RACERS = 4
TASKS = 100


def ids_in_order(pool: TaskPool, *capabilities: str, **how: Any) -> list[object]:
    ids = []
    while (claim := pool.claim_next("a", capabilities, **how)) is not None:
        ids.append(claim.task_id)
    return ids


# Order --------------------------------------------------------------------------------------------


def test_higher_priority_comes_first_then_older(pool: TaskPool) -> None:
    pool.publish("newer", created_at=20.0)
    pool.publish("older", created_at=10.0)
    pool.publish("urgent", created_at=30.0, priority=5)
    pool.publish("last", created_at=1.0, priority=-0.5)
    assert ids_in_order(pool) == ["urgent", "older", "newer", "last"]


def test_oldest_first_knows_no_priority(pool: TaskPool) -> None:
    pool.publish("newer", created_at=20.0, priority=9)
    pool.publish("older", created_at=10.0)
    assert ids_in_order(pool, order="oldest") == ["older", "newer"]


def test_any_order_gets_all(pool: TaskPool) -> None:
    pool.publish_many([{"task_id": f"t{n}", "priority": n} for n in range(20)])
    assert sorted(map(str, ids_in_order(pool, order="any"))) == sorted(f"t{n}" for n in range(20))


def test_tasks_without_a_date_are_as_old_as_their_publication(pool: TaskPool) -> None:
    for task_id in ("first", "second", "third"):
        pool.publish(task_id)
        time.sleep(0.002)  # so that clocks can tell them apart
    assert ids_in_order(pool) == ["first", "second", "third"]


def test_a_priority_or_date_that_is_no_number_does_no_harm(pool: TaskPool) -> None:
    publish_unchecked(pool, "a", priority="high", created_at=None)
    publish_unchecked(pool, "b", priority=10**400, created_at=[])
    publish_unchecked(pool, "c", priority=float("nan"))
    ids = ids_in_order(pool)
    assert ids[0] == "b"
    assert sorted(map(str, ids)) == ["a", "b", "c"]


def test_an_unknown_order_is_refused_by_name(pool: TaskPool) -> None:
    with pytest.raises(ValueError, match="'random'"):
        pool.claim_next("a", order="random")


def test_an_agent_that_cannot_have_a_claim_is_refused(pool: TaskPool) -> None:
    with pytest.raises(InvalidName):
        pool.claim_next("a/b")


def test_an_argument_of_the_wrong_kind_is_named(pool: TaskPool) -> None:
    wrong: Any
    for wrong in ("python", None, 7, [["python"]]):
        named = re.escape(f"capabilities is a list of names, not {wrong!r}")
        with pytest.raises(TypeError, match=named):
            pool.claim_next("a", wrong)
        with pytest.raises(TypeError, match=named):
            pool.claim_many("a", 2, wrong)
        if wrong is not None:
            with pytest.raises(TypeError, match=named):
                pool.why("x", wrong)
    for wrong in ("2", 1.5, True):
        with pytest.raises(ValueError, match=f"max_claims {wrong!r} is not a whole number"):
            pool.claim_next("a", max_claims=wrong)
        with pytest.raises(ValueError, match=f"n {wrong!r} is not a whole number"):
            pool.claim_many("a", wrong)
    with pytest.raises(ValueError, match="older_than '7d' is not a number of seconds"):
        pool.prune("completed", "7d")  # type: ignore[arg-type]


def test_nobody_is_no_agent(pool: TaskPool) -> None:
    pool.publish("x")
    for claim in (
        lambda: pool.claim("x", None),
        lambda: pool.claim_next(None),
        lambda: pool.claim_many(None, 2),
    ):
        with pytest.raises(InvalidName, match="agent id None"):
            claim()
    assert pool.counts()["claimed"] == 0


def test_a_number_of_attempts_that_is_none_is_refused(make_pool: MakePool) -> None:
    for wrong in ("3", 1.5, True, 0):
        with pytest.raises(ValueError, match=f"max_attempts {wrong!r} is not"):
            make_pool(max_attempts=wrong)


# What is left out ---------------------------------------------------------------------------------


def test_an_agent_gets_what_it_is_capable_of(pool: TaskPool) -> None:
    pool.publish("any-of-two", requirements=["python", "rust"])
    pool.publish("all-of-two", constraints={"required_capabilities": ["python", "sql"]})
    pool.publish("cobol", requirements=["cobol"], priority=9)
    pool.publish("everybodys")
    assert ids_in_order(pool, "python") == ["any-of-two", "everybodys"]
    assert ids_in_order(pool, "sql", "python") == ["all-of-two"]
    # As the original filters: who names no capability is not asked for any.
    assert ids_in_order(pool) == ["cobol"]


def test_what_every_agent_must_have_is_not_given_to_one_that_names_nothing(
    pool: TaskPool,
) -> None:
    pool.publish("x", constraints={"required_capabilities": ["python"]})
    assert pool.claim_next("a") is None
    pool.claim("x", "a")  # by id it takes what it is told


def test_capabilities_are_compared_as_values(pool: TaskPool) -> None:
    pool.publish("number", requirements=[7])
    pool.publish("text", requirements=["7"])
    assert ids_in_order(pool, "7") == ["text"]


def test_requirements_that_cannot_be_met_by_anyone_wait(pool: TaskPool) -> None:
    publish_unchecked(pool, "x", constraints={"required_capabilities": 5})
    assert pool.claim_next("a", ["python"]) is None


def test_a_task_past_its_deadline_is_left_out(pool: TaskPool) -> None:
    pool.publish("late", constraints={"deadline": time.time() - 60})
    pool.publish("in-time", constraints={"deadline": time.time() + 3600})
    assert ids_in_order(pool) == ["in-time"]


def test_a_task_is_not_claimed_before_its_time(pool: TaskPool) -> None:
    pool.publish("later", not_before=time.time() + 3600, priority=9)
    pool.publish("due", not_before=time.time() - 3600, priority=1)
    pool.publish("now")
    assert ids_in_order(pool) == ["due", "now"]
    with pytest.raises(TaskNotAvailable):
        pool.claim("later", "a")


def test_a_time_can_be_given_as_iso_8601(pool: TaskPool) -> None:
    pool.publish("later", not_before="2999-01-01T00:00:00+00:00")
    pool.publish("due", not_before="1999-01-01T00:00:00+00:00")
    with pytest.raises(TaskNotAvailable):
        pool.claim("later", "a")
    assert ids_in_order(pool) == ["due"]


def test_a_task_whose_time_comes_takes_its_place(pool: TaskPool) -> None:
    due_at = time.time() + 0.2
    pool.publish("urgent", not_before=due_at, priority=9)
    pool.publish("other")
    while time.time() < due_at + 0.05:
        time.sleep(0.02)  # not for a race: its time comes by the clock
    assert ids_in_order(pool) == ["urgent", "other"]


def test_a_blocked_task_waits_for_all_its_blockers(pool: TaskPool) -> None:
    pool.publish("c", blocked_by=["a", "b"], priority=9)
    pool.publish("a", priority=2)
    pool.publish("b", priority=1)
    first, second = pool.claim_next("x"), pool.claim_next("x")
    assert first is not None
    assert second is not None
    assert [first.task_id, second.task_id] == ["a", "b"]
    assert pool.claim_next("x") is None
    first.complete()
    assert pool.claim_next("x") is None
    second.complete()
    assert ids_in_order(pool) == ["c"]


def test_a_task_whose_blockers_are_completed_already_does_not_wait(pool: TaskPool) -> None:
    pool.publish("a")
    pool.claim("a", "x").complete()
    pool.publish("b", blocked_by=["a"])
    pool.publish_many([{"task_id": "c", "blocked_by": ["a"]}])
    assert sorted(map(str, ids_in_order(pool))) == ["b", "c"]


def test_an_unknown_blocker_blocks(pool: TaskPool) -> None:
    pool.publish("x", blocked_by=["nobody-has-published-this"])
    assert pool.claim_next("a") is None
    pool.claim("x", "a")  # by id it takes what it is told


def test_an_exclusive_key_is_held_by_one_claim(pool: TaskPool) -> None:
    for task_id in ("x", "y"):
        pool.publish(task_id, exclusive=["repo:main", f"only-{task_id}"], priority=task_id == "x")
    pool.publish("z", exclusive=["other"], priority=-1)
    first = pool.claim_next("a")
    assert first is not None
    assert first.task_id == "x"
    assert ids_in_order(pool) == ["z"]
    with pytest.raises(KeyHeld, match="repo:main") as refused:
        pool.claim("y", "a")
    assert (refused.value.task_id, refused.value.key) == ("y", "repo:main")
    first.complete()
    assert ids_in_order(pool) == ["y"]


def test_many_are_claimed_beside_others_that_share_their_keys(pool: TaskPool) -> None:
    keys = {"first": ["1"], "second": ["1", "2"], "third": ["2"], "none": []}
    for rank, (task_id, exclusive) in enumerate(keys.items()):
        pool.publish(task_id, exclusive=exclusive, priority=-rank)
    # More than a claim looks at in one go.
    pool.publish_many(
        [{"task_id": f"t{n}", "exclusive": ["k"], "priority": 10} for n in range(100)]
    )
    claims = pool.claim_many("a", 10)
    claimed = {claim.task_id for claim in claims if claim.task["priority"] < 10}
    assert claimed == {"first", "third", "none"}
    assert len(claims) == 4
    assert pool.claim_many("a", 10) == []
    for claim in claims:
        claim.complete()
    assert len(pool.claim_many("a", 2)) == 2


# Of what does not compress: an index stores a text compressed.
LONG_NAME = "".join(map(chr, random.Random(0).choices(range(0x4E00, 0x9FA0), k=4000)))


@pytest.mark.parametrize("key", [LONG_NAME, "\ud800", "a\0b"], ids=["long", "surrogate", "NUL"])
def test_any_text_is_a_key_or_the_name_of_a_blocker(pool: TaskPool, key: str) -> None:
    for rank, task_id in enumerate("xyz"):
        own = [f"{key}z"] if task_id == "z" else [key]
        pool.publish(task_id, exclusive=own, priority=9 - rank)
    pool.publish_many([{"task_id": "blocked", "blocked_by": [key]}])
    first, other = pool.claim_next("a"), pool.claim_next("a")
    assert first is not None
    assert other is not None
    assert [first.task_id, other.task_id] == ["x", "z"]
    with pytest.raises(TaskNotAvailable):
        pool.claim("y", "a")
    first.complete()
    assert ids_in_order(pool) == ["y"]
    assert pool.why("blocked")


@pytest.mark.parametrize("end", ["release", "fail"])
def test_an_exclusive_key_is_free_whichever_way_the_claim_ends(pool: TaskPool, end: str) -> None:
    pool.publish("x", exclusive=["k"])
    pool.publish("y", exclusive=["k"], priority=-1)
    pool.claim("x", "a")
    if end == "release":
        pool.release("x", "a")
    else:
        pool.fail("x", "a", "e")
    pool.claim("y", "a")
    assert pool.claim_next("b") is None


# How many -----------------------------------------------------------------------------------------


def test_several_tasks_are_claimed_at_once_in_order(pool: TaskPool) -> None:
    pool.publish_many([{"task_id": f"t{n:02}", "priority": -n} for n in range(15)])
    claims = pool.claim_many("a", 10)
    assert [claim.task_id for claim in claims] == [f"t{n:02}" for n in range(10)]
    assert len({claim.token for claim in claims}) == 10
    for claim in claims:
        claim.complete()
    assert len(pool.claim_many("a", 10)) == 5
    assert pool.claim_many("a", 10) == []


def test_an_agent_claims_no_more_than_it_may(pool: TaskPool) -> None:
    pool.publish_many([{"task_id": f"t{n}"} for n in range(5)])
    assert pool.claim_next("a", max_claims=2) is not None
    second = pool.claim_next("a", max_claims=2)
    assert second is not None
    assert pool.claim_next("a", max_claims=2) is None
    assert pool.claim_next("b", max_claims=2) is not None
    second.complete()
    assert pool.claim_next("a", max_claims=2) is not None


@pytest.mark.parametrize("max_claims", [2**31, 2**63, 10**40])
def test_an_agent_may_claim_as_many_as_it_says(pool: TaskPool, max_claims: int) -> None:
    pool.publish("x")
    assert pool.claim_next("a", max_claims=max_claims) is not None


@pytest.mark.parametrize("agent_id", ["a/b", "a\0b"])
def test_an_agent_that_can_claim_nothing_is_named(pool: TaskPool, agent_id: str) -> None:
    with pytest.raises(InvalidName, match=f"^agent id {re.escape(repr(agent_id))}: contains"):
        pool.claim_next(agent_id)


def drain(pool: TaskPool, agent: str, results: Any) -> None:
    got = []
    while (claim := pool.claim_next(agent)) is not None:
        got.append(claim.task_id)
        claim.complete()
    results.put(got)


def test_a_fleet_that_drains_a_pool_gets_each_task_once(pool: TaskPool) -> None:
    pool.publish_many([{"task_id": f"t{n}"} for n in range(TASKS)])
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    fleet = [spawn.Process(target=drain, args=(pool, f"a{n}", results)) for n in range(RACERS)]
    for process in fleet:
        process.start()
    got = [task_id for _ in fleet for task_id in results.get(timeout=60)]
    for process in fleet:
        process.join()
    assert sorted(got) == sorted(f"t{n}" for n in range(TASKS))
    assert pool.counts()["completed"] == TASKS


def test_tasks_with_one_exclusive_key_are_never_claimed_together(pool: TaskPool) -> None:
    pool.publish_many([{"task_id": f"t{n}", "exclusive": ["k"]} for n in range(20)])
    at_once, most = 0, 0
    lock = threading.Lock()

    def work(agent: str) -> None:
        nonlocal at_once, most
        while pool.counts()["completed"] < 20:
            claim = pool.claim_next(agent)
            if claim is None:
                continue
            with lock:
                at_once += 1
                most = max(most, at_once)
            with lock:
                at_once -= 1
            claim.complete()

    threads = [threading.Thread(target=work, args=(f"a{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


# Waiting ------------------------------------------------------------------------------------------


def wait_in_thread(pool: TaskPool, got: list[Any], **how: Any) -> threading.Thread:
    def wait() -> None:
        got.append(pool.claim_next("waiter", wait=60, **how))

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("how", ["publish", "publish_many", "publish_task", "release"])
def test_who_waits_gets_what_becomes_available(pool: TaskPool, how: str) -> None:
    if how == "release":
        pool.publish("x")
        pool.claim("x", "other")
    got: list[Any] = []
    thread = wait_in_thread(pool, got)
    if how == "publish":
        pool.publish("x")
    elif how == "publish_many":
        pool.publish_many([{"task_id": "x"}])
    elif how == "publish_task":
        pool.publish_task("x", "d")
    else:
        pool.release("x", "other")
    thread.join()
    assert got[0].task_id == "x"
    assert [task["claimed_by"] for task in pool.tasks("claimed")] == ["waiter"]


def test_who_waits_gets_what_a_completion_unblocks(pool: TaskPool) -> None:
    pool.publish("a")
    pool.publish("b", blocked_by=["a"])
    claim = pool.claim("a", "other")
    got: list[Any] = []
    thread = wait_in_thread(pool, got)
    claim.complete()
    thread.join()
    assert got[0].task_id == "b"


def test_who_waits_gets_a_task_when_its_time_comes(pool: TaskPool) -> None:
    pool.publish("x", not_before=time.time() + 0.2)
    claim = pool.claim_next("a", wait=60)
    assert claim is not None
    assert claim.task_id == "x"


def test_who_waits_in_vain_gets_nothing(pool: TaskPool) -> None:
    assert pool.claim_next("a", wait=0.05) is None


def test_who_waits_gets_a_task_when_the_pause_ends(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.publish("x")
    pool.pause(reason="deploy")
    got: list[Any] = []
    thread = wait_in_thread(pool, got)
    pool.resume()
    thread.join()
    assert got[0].task_id == "x"
