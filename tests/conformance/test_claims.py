"""A claim is one agent's; it ends once, by who holds it."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fastclaim import (
    AlreadyClaimed,
    ClaimLost,
    InvalidName,
    InvalidTask,
    TaskExists,
    TaskNotAvailable,
    TaskPool,
    errors,
)
from fastclaim.aio import AsyncTaskPool

from ..other_hands import publish_unchecked
from .conftest import MakePool

RACERS = 4
TASKS = 40


# Claiming -----------------------------------------------------------------------------------------


def test_a_claimed_task_carries_who_has_it(pool: TaskPool) -> None:
    pool.publish("x", "d")
    before_s = time.time() - 5
    claim = pool.claim("x", "a")
    assert claim.task["status"] == "claimed"
    assert claim.task["claimed_by"] == "a"
    assert claim.task["claim_token"] == claim.token
    assert before_s < claim.task["claimed_at"] < time.time() + 5
    assert list(pool.tasks("claimed")) == [claim.task]


def test_a_refusal_names_the_holder(pool: TaskPool) -> None:
    pool.publish("x")
    pool.claim("x", "a1")
    with pytest.raises(AlreadyClaimed, match="a1") as refused:
        pool.claim("x", "a2")
    assert (refused.value.task_id, refused.value.holder) == ("x", "a1")
    assert isinstance(refused.value, LookupError)


def test_a_task_that_nobody_has_is_not_available(pool: TaskPool) -> None:
    for published in (False, True):
        if published:
            pool.publish("x")
            pool.claim("x", "a").complete()
        with pytest.raises(TaskNotAvailable, match="'x'") as refused:
            pool.claim("x", "a")
        assert not isinstance(refused.value, AlreadyClaimed)


def test_who_has_a_task_already_gets_the_same_claim(pool: TaskPool) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    assert pool.claim("x", "a").token == claim.token


@pytest.mark.parametrize("hold", [{"lease_s": 60}, {"bind": False}], ids=str)
def test_who_has_a_task_already_gets_the_same_claim_however_it_asks(
    pool: TaskPool, hold: dict[str, Any]
) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    assert pool.claim("x", "a", **hold).token == claim.token


def test_a_claim_that_is_not_bound_is_nobodys_second_time(pool: TaskPool) -> None:
    pool.publish("x")
    pool.claim("x", "a", bind=False)
    with pytest.raises(AlreadyClaimed):
        pool.claim("x", "a", bind=False)


def race(pool: TaskPool, agent: str, barrier: Any, results: Any) -> None:
    barrier.wait()
    won = []
    for number in range(TASKS):
        try:
            claim = pool.claim(f"t{number}", agent)
        except TaskNotAvailable:
            continue
        won.append(claim.task_id)
        claim.complete({"by": agent})
    results.put(won)


def test_of_many_processes_one_gets_each_task(pool: TaskPool) -> None:
    pool.publish_many([{"task_id": f"t{number}"} for number in range(TASKS)])
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(RACERS), spawn.Queue()
    racers = [
        spawn.Process(target=race, args=(pool, f"a{number}", barrier, results))
        for number in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    won = [task_id for _ in racers for task_id in results.get(timeout=60)]
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    assert sorted(won) == sorted(f"t{number}" for number in range(TASKS))
    assert pool.counts()["completed"] == TASKS


def test_of_many_threads_one_gets_the_task(pool: TaskPool) -> None:
    pool.publish("x")
    outcomes: list[object] = []
    barrier = threading.Barrier(8)

    def claim(agent: str) -> None:
        barrier.wait()
        try:
            outcomes.append(pool.claim("x", agent).agent_id)
        except AlreadyClaimed as refused:
            outcomes.append(refused)

    threads = [threading.Thread(target=claim, args=(f"a{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(outcomes) == 8
    assert [task["claimed_by"] for task in pool.tasks("claimed")] == winners


def test_an_agent_that_has_forgotten_finds_its_claims(pool: TaskPool) -> None:
    for task_id in ("x", "y", "z"):
        pool.publish(task_id)
    pool.claim("x", "a")
    pool.claim("y", "a")
    pool.claim("z", "b")
    mine = pool.mine("a")
    assert sorted(str(claim.task_id) for claim in mine) == ["x", "y"]
    for claim in mine:
        claim.complete()
    assert pool.mine("a") == []


# Ending -------------------------------------------------------------------------------------------


def test_a_with_block_completes_the_task_with_its_result(pool: TaskPool) -> None:
    pool.publish("x")
    with pool.claim("x", "a") as claim:
        claim.result = {"lines": 3}
    (task,) = pool.tasks("completed")
    assert task["result"] == {"lines": 3}
    assert task["claimed_by"] == "a"
    assert task["status"] == "completed"


def test_a_with_block_that_raises_fails_the_claim(pool: TaskPool) -> None:
    pool.publish("x")
    with pytest.raises(ZeroDivisionError), pool.claim("x", "a"):
        1 / 0  # noqa: B018
    (task,) = pool.tasks()
    assert task["attempts"] == 1
    assert task["failures"][0]["error"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("kind_of_end", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_with_block_that_is_interrupted_gives_the_task_back(
    pool: TaskPool, kind_of_end: type[BaseException]
) -> None:
    pool.publish("x")
    with pytest.raises(kind_of_end), pool.claim("x", "a"):
        raise kind_of_end
    (task,) = pool.tasks()
    assert "attempts" not in task


def test_a_with_block_that_has_ended_the_claim_itself_is_left_alone(pool: TaskPool) -> None:
    pool.publish("x")
    with pool.claim("x", "a") as claim:
        claim.release()
    assert pool.counts() == {"available": 1, "claimed": 0, "completed": 0, "failed": 0}


def test_a_released_task_is_as_it_was(pool: TaskPool) -> None:
    pool.publish("x", "d", constraint_enforcement={"enabled": True})
    (before,) = pool.tasks()
    pool.claim("x", "a").release()
    (after,) = pool.tasks()
    assert after | {"fastclaim": None} == before | {"fastclaim": None}


def test_the_error_of_a_with_block_survives_a_lost_claim(pool: TaskPool) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    pool.release("x", "a")
    with pytest.raises(ZeroDivisionError) as raised, claim:
        1 / 0  # noqa: B018
    assert "could not be given back" in raised.value.__notes__[0]


def test_the_task_of_a_claim_stays_known_after_its_end(pool: TaskPool) -> None:
    pool.publish("x", "d")
    claim = pool.claim("x", "a")
    assert claim.task["description"] == "d"
    claim.complete()
    assert claim.task["description"] == "d"


def verbs_with_token(pool: TaskPool, task_id: str, agent_id: str, token: str) -> list[Any]:
    """Every way to end or keep a claim that this pool has."""
    verbs: list[Callable[[], object]] = [
        lambda: pool.complete(task_id, agent_id, {}, token=token),
        lambda: pool.release(task_id, agent_id, token=token),
    ]
    if hasattr(pool, "fail"):
        verbs.append(lambda: pool.fail(task_id, agent_id, "e", token=token))
        verbs.append(lambda: pool.renew(task_id, agent_id, 60.0, token=token))
    return verbs


def test_a_late_end_changes_nothing(pool: TaskPool) -> None:
    pool.publish("x")
    old = pool.claim("x", "a")
    old.release()
    new = pool.claim("x", "a")
    assert new.token != old.token
    for verb in verbs_with_token(pool, "x", "a", old.token):
        with pytest.raises(ClaimLost, match="'x'"):
            verb()
    (task,) = pool.tasks("claimed")
    assert task == new.task
    new.complete()
    for verb in verbs_with_token(pool, "x", "a", new.token):
        with pytest.raises(ClaimLost):
            verb()
    assert pool.counts()["completed"] == 1


def test_nobody_completes_what_another_agent_holds(pool: TaskPool) -> None:
    pool.publish_task("x", "d")
    token = pool.claim("x", "a").token
    for call in (pool.complete, pool.release):
        with pytest.raises(ClaimLost):
            call("x", "b")
    for verb in verbs_with_token(pool, "x", "b", token):
        with pytest.raises(ClaimLost):
            verb()
    assert not pool.complete_task("x", "b", {})
    assert pool.counts()["claimed"] == 1


def test_a_result_that_is_no_json_leaves_the_claim(pool: TaskPool) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    with pytest.raises(errors.InvalidTask, match="result"):
        claim.complete(object())
    claim.complete("fine")


def test_a_release_never_replaces_a_newer_publication(pool: TaskPool) -> None:
    pool.publish("x", "old")
    claim = pool.claim("x", "a")
    pool.publish("x", "new", if_exists="replace")
    with pytest.raises((ClaimLost, TaskExists)):
        claim.release()
    (task,) = pool.tasks()
    assert task["description"] == "new"


# Failing, leases ----------------------------------------------------------------------------------


def test_a_failed_attempt_is_counted_and_told(pool: TaskPool) -> None:
    pool.publish("x")
    for attempt, error in enumerate(('no "luck"\n%s', "again"), start=1):
        claim = pool.claim("x", "a")
        assert pool.fail("x", "a", error, token=claim.token) == "available"
        (task,) = pool.tasks()
        assert task["attempts"] == attempt
        failure = task["failures"][-1]
        assert (failure["error"], failure["agent"]) == (error, "a")
        assert abs(failure["at"] - time.time()) < 60
    assert [failure["error"] for failure in task["failures"]] == ['no "luck"\n%s', "again"]


def test_a_task_is_given_up_after_max_attempts(make_pool: MakePool) -> None:
    pool = make_pool(max_attempts=2)
    pool.publish("x")
    pool.publish("patient", max_attempts=3)
    for state in ("available", "failed"):
        pool.claim("x", "a")
        assert pool.fail("x", "a", "e") == state
        pool.claim("patient", "a")
        assert pool.fail("patient", "a", "e") == "available"
    with pytest.raises(TaskNotAvailable):
        pool.claim("x", "a")
    (task,) = pool.tasks("failed")
    assert task["status"] == "failed"
    assert task["failed_at"] > 0
    with pytest.raises(TaskExists):
        pool.publish("x")


@pytest.mark.parametrize("value", [0, -1, True, "2", None])
def test_what_is_no_number_of_attempts_limits_none(pool: TaskPool, value: object) -> None:
    publish_unchecked(pool, "x", max_attempts=value)
    for _ in range(2):
        pool.claim("x", "a")
        assert pool.fail("x", "a", "e") == "available"


def test_what_was_given_up_has_no_time_to_wait_for(pool: TaskPool) -> None:
    pool.publish("x", max_attempts=1)
    assert pool.claim("x", "a").fail("e", retry_after_s=3600) == "failed"
    (task,) = pool.tasks("failed")
    assert "not_before" not in task


def test_a_failed_attempt_can_be_retried_later(pool: TaskPool) -> None:
    pool.publish("x")
    pool.claim("x", "a")
    pool.fail("x", "a", "e", retry_after_s=3600)
    with pytest.raises(TaskNotAvailable):
        pool.claim("x", "a")
    assert pool.claim_next("a") is None
    (task,) = pool.tasks()
    assert task["not_before"] > time.time() + 3000


def test_a_release_can_put_a_task_off(pool: TaskPool) -> None:
    pool.publish("x")
    pool.claim("x", "a")
    pool.release("x", "a", not_before=time.time() + 3600)
    with pytest.raises(TaskNotAvailable):
        pool.claim("x", "a")
    assert pool.claim_next("a") is None


def test_failed_tasks_are_retried_one_or_all(pool: TaskPool) -> None:
    for task_id in ("x", "y", "z"):
        pool.publish(task_id, max_attempts=1)
        pool.claim(task_id, "a")
        assert pool.fail(task_id, "a", "e") == "failed"
    assert pool.retry_failed("x") == 1
    (task,) = pool.tasks()
    assert "attempts" not in task or task["attempts"] == 0
    assert pool.retry_failed() == 2
    assert pool.counts() == {"available": 3, "claimed": 0, "completed": 0, "failed": 0}
    pool.claim("x", "a")


def test_a_claim_past_its_lease_is_anybodys(pool: TaskPool) -> None:
    pool.publish("x")
    pool.publish("y")
    short = pool.claim("x", "a", lease_s=0.05)
    long = pool.claim("y", "a", lease_s=3600)
    assert short.task["lease_expires_at"] < time.time() + 5
    while time.time() < short.task["lease_expires_at"] + 0.05:
        time.sleep(0.02)  # not for a race: leases end by the clock
    assert pool.recover().returned == ["x"]
    taken = pool.claim("x", "b")
    assert taken.task["attempts"] == 1
    with pytest.raises(ClaimLost):
        short.complete()
    with pytest.raises(AlreadyClaimed):
        pool.claim("y", "b")
    long.complete()


@pytest.mark.parametrize("verb", ["claim", "claim_next", "claim_many"])
def test_a_task_whose_lease_expired_comes_back_without_recover(pool: TaskPool, verb: str) -> None:
    pool.publish("x")
    pool.claim("x", "a", lease_s=-1)
    if verb == "claim":
        claim = pool.claim("x", "b")
    elif verb == "claim_next":
        claim = pool.claim_next("b")
    else:
        (claim,) = pool.claim_many("b", 2)
    assert claim is not None
    assert claim.task["attempts"] == 1


def test_a_renewed_lease_holds(pool: TaskPool) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a", lease_s=0.05)
    expires_at = pool.renew("x", "a", 3600, token=claim.token)
    assert expires_at > time.time() + 3000
    time.sleep(0.1)  # past the first lease
    pool.recover()
    with pytest.raises(AlreadyClaimed):
        pool.claim("x", "b")
    claim.complete()


# The object ---------------------------------------------------------------------------------------


def test_pools_claims_and_errors_pickle_and_copy(pool: TaskPool) -> None:
    pool.publish("x")
    twin = copy.deepcopy(pickle.loads(pickle.dumps(pool)))
    claim = pickle.loads(pickle.dumps(twin.claim("x", "a")))
    claim.complete()
    assert pool.counts()["completed"] == 1
    error = pickle.loads(pickle.dumps(AlreadyClaimed("taken", "x", "a")))
    assert (str(error), error.task_id, error.holder) == ("taken", "x", "a")
    paused = pickle.loads(pickle.dumps(errors.PoolPaused("paused", "x", until=5.0)))
    assert (str(paused), paused.task_id, paused.until) == ("paused", "x", 5.0)


class Mine(TaskPool):
    """A user's own pool, as they always could write one."""

    def claim_task(self, task_id: str, agent_id: str, timeout: float = 10.0) -> dict[str, Any]:
        return {"mine": True, **super().claim_task(task_id, agent_id, timeout)}


class MineElsewhere(Mine):
    """One that says itself where it is."""

    place = ""

    def __init__(self) -> None:
        super().__init__(self.place)
        self.colour = "red"


def test_a_subclass_keeps_its_methods_wherever_the_pool_is(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A2A_BASE_DIR", place)
    monkeypatch.setattr(MineElsewhere, "place", place)
    for mine in (Mine(), Mine(place), MineElsewhere()):
        assert isinstance(mine, Mine)
        mine.publish("x", if_exists="replace")
        copied = pickle.loads(pickle.dumps(mine))
        assert copied.__dict__.get("colour") == mine.__dict__.get("colour")
        task = copied.claim_task("x", "a")
        assert (task["mine"], task["task_id"]) == (True, "x")
        assert mine.complete_task("x", "a", {})


def test_a_block_whose_result_is_no_json_fails_the_claim(pool: TaskPool) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    with pytest.raises(InvalidTask), claim:
        claim.result = {1, 2}
    (task,) = pool.tasks()
    assert task["attempts"] == 1


@pytest.mark.parametrize("token", ["x\0", "x\udcff", '"', "é"])
def test_any_text_that_is_not_its_token_ends_no_claim(pool: TaskPool, token: str) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    words = "task 'x' is claimed by 'a', but not with that token"
    for end in (pool.complete, pool.release):
        with pytest.raises(ClaimLost, match=words):
            end("x", "a", token=token)
    with pytest.raises(ClaimLost, match=words):
        pool.fail("x", "a", "e", token=token)
    claim.complete()


def test_another_claim_of_the_same_agent_is_told_as_such(pool: TaskPool) -> None:
    pool.publish("x")
    pool.claim("x", "a")
    with pytest.raises(ClaimLost, match="is claimed by 'a', but not with that token"):
        pool.complete("x", "a", token="another")


@pytest.mark.parametrize("seconds", [float("nan"), "1", True, 10**400], ids=lambda s: f"{s}"[:5])
def test_what_is_no_number_of_seconds_is_refused_by_name(pool: TaskPool, seconds: object) -> None:
    pool.publish("x")
    with pytest.raises(ValueError, match="timeout"):
        pool.claim("x", "a", timeout=seconds)
    with pytest.raises(ValueError, match="lease_s"):
        pool.claim("x", "a", lease_s=seconds)
    claim = pool.claim("x", "a")
    for wrong in (seconds, None):
        with pytest.raises(ValueError, match="lease_s"):
            claim.renew(wrong)


def test_a_task_that_came_back_keeps_its_age(pool: TaskPool) -> None:
    for task_id in ("first", "second"):
        pool.publish(task_id)
    claim = pool.claim("first", "a", lease_s=600)
    claim.renew(600)
    claim.fail("e")
    pool.claim("first", "a").release()
    assert pool.claim_next("a", order="oldest").task_id == "first"


# One task -----------------------------------------------------------------------------------------


def test_a_task_is_found_whatever_its_state(pool: TaskPool) -> None:
    assert pool.find("x") is None
    pool.publish("x", "d", n=1)
    assert pool.find("x")["status"] == "available"
    claim = pool.claim("x", "a")
    assert pool.find("x") == claim.task
    claim.complete({"ok": True})
    found = pool.find("x")
    assert (found["status"], found["n"], found["result"]) == ("completed", 1, {"ok": True})
    pool.publish("x", "again", if_exists="replace")
    assert pool.find("x")["description"] == "again"
    pool.publish("y", max_attempts=1)
    pool.claim("y", "a").fail("no")
    assert pool.find("y")["status"] == "failed"
    assert asyncio.run(AsyncTaskPool(pool).find("y"))["status"] == "failed"


def test_of_a_name_that_no_task_can_have_none_is_looked_for(pool: TaskPool) -> None:
    with pytest.raises(InvalidName):
        pool.find("a/b")
