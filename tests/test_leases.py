"""Claims on somebody's behalf: until when they last, and that they come back by themselves."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastclaim import ClaimLost, TaskNotAvailable, TaskPool, leases, recovery, selection
from fastclaim.changes import Changes

from .agents import agent

FAR_S = 3600.0


def seconds_noted(pool: TaskPool) -> list[int]:
    return sorted(int(path.stem) for path in (pool.tasks_dir / "owners").glob("*.lease"))


def let_time_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now_s = time.time
    monkeypatch.setattr(time, "time", lambda: now_s() + seconds)


CLAIMS: dict[str, Callable[[TaskPool], object]] = {
    "claim": lambda pool: pool.claim("t", "b").task_id,
    "claim_task": lambda pool: pool.claim_task("t", "b").get("task_id"),
    "claim_next": lambda pool: pool.claim_next("b").task_id,  # type: ignore[union-attr]
    "claim_many": lambda pool: next(claim.task_id for claim in pool.claim_many("b", 2)),
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_claimer_that_finds_nothing_gets_a_task_whose_lease_expired(
    make_pool: Callable[..., TaskPool],
    monkeypatch: pytest.MonkeyPatch,
    claim: Callable[[TaskPool], object],
    is_known: bool,
) -> None:
    ours, theirs = make_pool(), make_pool()
    ours.publish("t")
    if is_known:  # it has looked before there was a lease, and while there was one
        assert theirs.claim_task("nothing", "b") == {}
    ours.claim("t", "a", lease_s=FAR_S)
    assert theirs.claim_task("t", "b") == {}
    assert theirs.claim_next("b") is None
    let_time_pass(monkeypatch, FAR_S + 2)
    assert claim(theirs) == "t"
    assert theirs.claim_task("t", "c") == {}


def test_a_lease_in_a_pool_that_was_made_anew_within_its_second_comes_back(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s)
    for _ in range(2):
        shutil.rmtree(pool.tasks_dir)
        pool.publish("t")
        pool.claim("t", "a", lease_s=FAR_S)
        assert [name for name in os.listdir(pool.tasks_dir / "owners") if leases.is_lease(name)]


def test_a_lease_that_is_over_at_once_comes_back_at_once(pool: TaskPool) -> None:
    pool.publish("t")
    for _ in range(3):
        pool.claim("t", "a", lease_s=-1)
        pool.claim("t", "b").release()


def test_nobody_looks_through_the_claims_before_a_lease_ends(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("t")
    pool.claim("t", "a", lease_s=FAR_S)
    pool.claim_task("t", "b")  # makes this process's owner file
    pool.claim_next("b")

    def look(*arguments: object) -> None:
        raise AssertionError("the claims, or the names, were read")

    monkeypatch.setattr(recovery._Recovery, "claims", look)
    monkeypatch.setattr(leases, "ends", look)
    for _ in range(3):
        assert pool.claim_next("b") is None
        assert pool.claim_task("t", "b") == {}


def test_a_claim_that_has_to_wait_is_looked_at_once_a_second(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("t", n=1)
    pool.claim("t", "a", lease_s=-1)
    pool.publish("t", n=2, if_exists="replace", not_before=4e9)
    looks = []
    claims = recovery._Recovery.claims
    monkeypatch.setattr(
        recovery._Recovery, "claims", lambda self: (looks.append(1), claims(self))[1]
    )
    pool._directories.deaths().may_have_come()
    looks.clear()
    for _ in range(5):
        assert pool.claim_next("b") is None
    assert looks == []
    let_time_pass(monkeypatch, 2)
    for _ in range(5):
        assert pool.claim_next("b") is None
    assert len(looks) == 1
    assert seconds_noted(pool), "or nobody would look again"


def test_what_tells_of_a_lease_goes_when_that_is_over(pool: TaskPool) -> None:
    for task_id in ("past", "going on"):
        pool.publish(task_id)
    pool.claim("past", "a", lease_s=-1)
    going_on = pool.claim("going on", "a", lease_s=FAR_S)
    assert len(seconds_noted(pool)) == 2
    assert pool.recover().returned == ["past"]
    assert seconds_noted(pool) == [int(going_on.task["lease_expires_at"]) + 1]


def test_a_renewed_lease_lasts_longer_and_is_the_same_claim(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("t", mine=[1])
    claim = pool.claim("t", "a", lease_s=10)
    before = dict(claim.task)
    ends_at_s = claim.renew(FAR_S)
    path = pool.claimed_dir / "t_a.json"
    after = json.loads(path.read_text())
    assert before["lease_expires_at"] + FAR_S - 60 < ends_at_s == after["lease_expires_at"]
    changed = {"fastclaim", "lease_expires_at"}
    assert {n: v for n, v in after.items() if n not in changed} == {
        n: v for n, v in before.items() if n not in changed
    }
    let_time_pass(monkeypatch, 60)
    with pytest.raises(TaskNotAvailable):
        pool.claim("t", "b")
    let_time_pass(monkeypatch, FAR_S + 60)
    assert pool.claim("t", "b").task["attempts"] == 1
    with pytest.raises(ClaimLost):
        claim.renew(FAR_S)


def test_a_claim_without_a_lease_can_be_given_one(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("t")
    pool.claim("t", "a").renew(10)
    let_time_pass(monkeypatch, 20)
    assert pool.claim_next("b").task_id == "t"  # type: ignore[union-attr]


def test_a_bound_lease_ends_with_its_process(pool: TaskPool) -> None:
    pool.publish("t")
    with agent(lambda: pool.claim("t", "a", lease_s=FAR_S, bind=True)) as holder:
        task = json.loads((pool.claimed_dir / "t_a.json").read_text())
        assert {"owner", "lease_expires_at"} <= task.keys()
        assert pool.claim_task("t", "b") == {}
        holder.kill()
    assert pool.claim("t", "b").task["failures"][0]["error"] == "its process ended"


def test_a_bound_lease_ends_by_the_clock_though_its_process_lives(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("t")
    pool.claim("t", "a", lease_s=10, bind=True)
    assert pool.claim_task("t", "b") == {}
    let_time_pass(monkeypatch, 20)
    assert pool.claim("t", "b").task["failures"][0]["error"] == "its lease expired"


@pytest.mark.parametrize("lease_s", [float("inf"), 1e300, float("-inf"), -1e300])
def test_a_lease_of_any_length_can_be_made(pool: TaskPool, lease_s: float) -> None:
    pool.publish("t")
    pool.claim("t", "a", lease_s=lease_s)
    assert (pool.claim_task("t", "b") != {}) is (lease_s < 0)


def test_who_waits_sleeps_until_the_first_lease_ends(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("t")
    pool.claim("t", "b", lease_s=10)
    naps: list[float] = []

    def sleep(self: Changes, timeout_s: float, _: object = None) -> None:
        naps.append(timeout_s)
        let_time_pass(monkeypatch, timeout_s)

    monkeypatch.setattr(Changes, "wait", sleep)
    claim = pool.claim_next("a", wait=60)
    assert claim is not None
    assert 9 < sum(naps) < 12
    assert max(naps) < selection._SLOW_LOOK_S


def test_where_the_file_must_not_be_made_the_claim_stands(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: bytes) -> None:
        raise PermissionError(13, "not yours", path)

    monkeypatch.setattr(leases, "_make", refuse)
    pool.publish("t")
    pool.claim("t", "a", lease_s=-1)
    assert pool.recover().returned == ["t"]


def test_a_system_error_at_the_file_refuses_the_claim(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: bytes) -> None:
        raise OSError(28, "full", path)

    monkeypatch.setattr(leases, "_make", refuse)
    pool.publish("t")
    with pytest.raises(OSError, match="full"):
        pool.claim("t", "a", lease_s=60)
    assert Path(pool.available_dir / "t.json").exists()
