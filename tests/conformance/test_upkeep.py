"""Who has died, what is paused, what is old, and what people can ask a pool."""

from __future__ import annotations

import json
import math
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fastclaim import AlreadyClaimed, ClaimLost, TaskNotAvailable, TaskPool, cli, errors
from fastclaim.diagnosis import Finding
from fastclaim.pausing import local_time

from ..other_hands import publish_unchecked
from .conftest import MakePool

CLAIM_AND_LIVE = """
import os, pickle, sys
pool, bind = pickle.load(sys.stdin.buffer)
for task_id in sys.argv[1:]:
    pool.claim(task_id, "mortal", bind=bind)
print("claimed", flush=True)
os.read(0, 1)
import time
time.sleep(600)
"""


class Mortal:
    """A process that claims, and can be killed."""

    def __init__(self, pool: TaskPool, *task_ids: str, bind: bool | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLAIM_AND_LIVE, *task_ids],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(pickle.dumps((pool, bind)))
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"claimed\n"

    def die(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass


@pytest.fixture
def mortals() -> Iterator[list[Mortal]]:
    """Whoever is still alive at the end is not then."""
    alive: list[Mortal] = []
    yield alive
    for mortal in alive:
        mortal.die()


# The dead -----------------------------------------------------------------------------------------


def test_the_claims_of_a_dead_process_go_to_who_asks_next(
    pool: TaskPool, mortals: list[Mortal]
) -> None:
    for task_id in ("x", "y"):
        pool.publish(task_id)
    mortals.append(mortal := Mortal(pool, "x", "y"))
    with pytest.raises(AlreadyClaimed):
        pool.claim("x", "heir")
    assert pool.claim_next("heir") is None
    mortal.die()
    # Waiting: another machine, or kernel thread, has to notice the death first.
    claim = pool.claim_next("heir", wait=60)
    assert claim is not None
    assert claim.task["attempts"] == 1
    other = pool.claim("y" if claim.task_id == "x" else "x", "heir")
    assert other.task["attempts"] == 1


def test_a_dead_processs_task_can_be_claimed_by_id(pool: TaskPool, mortals: list[Mortal]) -> None:
    pool.publish("x")
    mortals.append(mortal := Mortal(pool, "x"))
    mortal.die()
    until_s = time.monotonic() + 60
    while True:
        try:
            claim = pool.claim("x", "heir")
        except AlreadyClaimed:
            assert time.monotonic() < until_s
            time.sleep(0.01)  # until the death is noticed
        else:
            break
    assert claim.task["attempts"] == 1


def test_the_claims_of_a_living_process_are_never_touched(
    pool: TaskPool, mortals: list[Mortal]
) -> None:
    pool.publish("x")
    pool.publish("mine")
    mortals.append(mortal := Mortal(pool, "x"))
    mortal.process.send_signal(signal.SIGSTOP)
    pool.claim("mine", "a")
    pool.recover()
    pool.recover(older_than=0)
    assert pool.counts()["claimed"] == 2


def test_an_unbound_claim_outlives_its_process(pool: TaskPool, mortals: list[Mortal]) -> None:
    pool.publish("x")
    mortals.append(mortal := Mortal(pool, "x", bind=False))
    mortal.die()
    pool.recover()
    with pytest.raises(AlreadyClaimed):
        pool.claim("x", "heir")
    pool.recover(older_than=3600)
    assert pool.counts()["claimed"] == 1
    pool.recover(older_than=0, dry_run=True)
    assert pool.counts()["claimed"] == 1
    pool.recover(older_than=0)
    assert pool.claim("x", "heir").task["attempts"] == 1


@pytest.mark.parametrize("ended", ["its process", "its lease", "a look for old ones"])
def test_a_claim_that_was_lost_is_among_the_failures_with_its_reason(
    pool: TaskPool, mortals: list[Mortal], ended: str
) -> None:
    pool.publish("x")
    pool.claim("x", "first").fail("e")
    told = None
    if ended == "its process":
        mortals.append(mortal := Mortal(pool, "x"))
        mortal.die()
        words = "its process ended"
    elif ended == "its lease":
        pool.claim("x", "mortal", lease_s=-1)
        words = "its lease expired"
    else:
        pool.claim("x", "mortal", bind=False)
        told, words = 0, "it was older than 0 s"
    until_s = time.monotonic() + 60
    while not pool.recover(older_than=told):
        assert time.monotonic() < until_s
        time.sleep(0.01)  # until the death is noticed
    (task,) = pool.tasks()
    assert [failure["error"] for failure in task["failures"]] == ["e", words]
    assert task["failures"][1]["agent"] == "mortal"
    assert task["failures"][1]["at"] == pytest.approx(time.time(), abs=60)
    assert task["attempts"] == 2


def test_a_task_whose_claimers_keep_dying_is_given_up(
    make_pool: MakePool, mortals: list[Mortal]
) -> None:
    pool = make_pool(max_attempts=1)
    pool.publish("x")
    mortals.append(mortal := Mortal(pool, "x"))
    mortal.die()
    until_s = time.monotonic() + 60
    while pool.counts()["failed"] == 0:
        pool.recover()
        assert time.monotonic() < until_s
        time.sleep(0.01)  # until the death is noticed
    (task,) = pool.tasks("failed")
    assert task["attempts"] == 1


def test_a_pool_can_bind_no_claims(make_pool: MakePool, mortals: list[Mortal]) -> None:
    pool = make_pool(bind_claims=False)
    pool.publish("x")
    mortals.append(mortal := Mortal(pool, "x"))
    mortal.die()
    pool.recover()
    pool.complete("x", "mortal")


def test_a_late_completion_by_the_dead_changes_nothing(
    pool: TaskPool, mortals: list[Mortal]
) -> None:
    pool.publish("x")
    mortals.append(mortal := Mortal(pool, "x"))
    (token,) = [task["claim_token"] for task in pool.tasks("claimed")]
    mortal.die()
    until_s = time.monotonic() + 60
    while pool.counts()["available"] == 0:
        pool.recover()
        assert time.monotonic() < until_s
        time.sleep(0.01)  # until the death is noticed
    pool.claim("x", "heir")
    with pytest.raises(ClaimLost):
        pool.complete("x", "mortal", {"late": True}, token=token)
    assert [task["claimed_by"] for task in pool.tasks("claimed")] == ["heir"]


# Pauses -------------------------------------------------------------------------------------------


def test_nobody_claims_while_the_pool_is_paused(pool: TaskPool) -> None:
    pool.publish("x")
    pool.publish("y")
    claim = pool.claim("y", "a")
    assert pool.paused() is None
    pool.pause(reason="deploy")
    pause = pool.paused()
    assert pause is not None
    assert pause.reason == "deploy"
    assert pool.claim_next("a") is None
    with pytest.raises(errors.PoolPaused, match="deploy") as refused:
        pool.claim("x", "a")
    assert isinstance(refused.value, TaskNotAvailable)
    assert refused.value.until == math.inf
    assert pool.claim_task("x", "a") == {}
    claim.complete()
    pool.publish("z")
    pool.resume()
    assert pool.paused() is None
    pool.claim("x", "a")


def test_a_pause_is_no_reason_where_nothing_waits(pool: TaskPool) -> None:
    pool.publish("x")
    pool.claim("x", "a")
    pool.pause()
    with pytest.raises(AlreadyClaimed):
        pool.claim("x", "b")
    with pytest.raises(TaskNotAvailable) as refused:
        pool.claim("nowhere", "b")
    assert not isinstance(refused.value, errors.PoolPaused)


@pytest.mark.parametrize("reason", ["a\0b", "\ud800"])
def test_any_text_is_a_reason_to_pause(pool: TaskPool, reason: str) -> None:
    pool.publish("x")
    pool.pause(reason=reason)
    with pytest.raises(errors.PoolPaused):
        pool.claim("x", "b")
    assert pool.why("x")
    assert pool.paused()


def test_a_pause_ends_by_itself(pool: TaskPool) -> None:
    pool.publish("x")
    pool.pause(time.time() - 1)
    assert pool.paused() is None
    until = time.time() + 3600
    pool.pause(until)
    pause = pool.paused()
    assert pause is not None
    assert pause.until == pytest.approx(until)
    pool.pause(time.time() - 1)
    pool.claim("x", "a")


# Looking, removing --------------------------------------------------------------------------------


def test_why_says_where_a_task_is_and_what_it_waits_for(pool: TaskPool) -> None:
    pool.publish("x", requirements=["rust"])
    pool.publish("blocked", blocked_by=["blocker"])
    pool.publish("later", not_before=time.time() + 3600)
    pool.publish("held", exclusive=["k"])
    pool.publish("holder", exclusive=["k"])
    pool.claim("holder", "somebody")
    pool.publish("given-up", max_attempts=1)
    pool.claim("given-up", "a")
    pool.fail("given-up", "a", "e")
    for task_id, capabilities, words in (
        ("nowhere", None, "is not there"),
        ("x", None, "waits for an agent"),
        ("x", ["python"], "rust"),
        ("blocked", None, "blocker"),
        ("later", None, "may not be claimed before"),
        ("held", None, 'key "k"'),
        ("holder", None, "somebody"),
        ("given-up", None, "failed"),
    ):
        sentence = pool.why(task_id, capabilities)
        assert re.search(words, sentence)
        assert "\n" not in sentence


def test_why_has_the_same_sentences_wherever_the_pool_is(pool: TaskPool) -> None:
    pool.publish("ready", requirements=["rust", "c"])
    pool.publish("late", constraints={"deadline": 0})
    pool.publish("later", not_before=4e9)
    pool.publish("blocked", blocked_by=["z", "a"])
    pool.publish("lost", blocked_by=["a/b"])
    for task_id in ("holder", "held"):
        pool.publish(task_id, exclusive=["k", "l"])
    pool.publish("done")
    pool.publish("given-up", max_attempts=1)
    claims = {task_id: pool.claim(task_id, "agent") for task_id in ("holder", "done", "given-up")}
    claims["done"].complete()
    claims["given-up"].fail("no luck")
    ended_at = "since [0-9 :-]*"
    for task_id, capabilities, words in (
        ("nowhere", None, "is not there"),
        ("ready", None, "waits for an agent to claim it"),
        ("ready", ["c"], "waits for an agent to claim it"),
        ("ready", ["perl"], 'needs capability "rust or c"'),
        ("late", None, f"had to be claimed before {local_time(0)}"),
        ("later", None, f"may not be claimed before {local_time(4e9)}"),
        ("blocked", None, r"waits for z \(not there\)"),
        ("lost", None, r"waits for a/b \(can never be there: .*contains '/'\)"),
        ("held", None, rf'is held by key "k" \(holder claimed by agent {ended_at}\)'),
        ("holder", None, f"is claimed by agent {ended_at}"),
        ("done", None, f"is completed by agent {ended_at}"),
        ("given-up", None, r"has failed for good \(retry_failed\(\) brings it back\): no luck"),
    ):
        assert re.fullmatch(f"task '{task_id}' {words}", pool.why(task_id, capabilities))


@pytest.mark.parametrize("ended", ["its process ended", "its lease expired"])
def test_why_says_that_a_claim_has_ended(pool: TaskPool, mortals: list[Mortal], ended: str) -> None:
    pool.publish("x", exclusive=["k"])
    pool.publish("blocked", blocked_by=["x"])
    pool.publish("held", exclusive=["k"])
    task_ids = ("x", "blocked", "held")
    if ended == "its process ended":
        mortals.append(mortal := Mortal(pool, "x"))
        assert not any("ended" in pool.why(task_id) for task_id in task_ids)
        mortal.die()
    else:
        pool.claim("x", "mortal", lease_s=600)
        assert not any("expired" in pool.why(task_id) for task_id in task_ids)
        pool.renew("x", "mortal", -1)
    until_s = time.monotonic() + 60
    while ended not in pool.why("x"):
        assert time.monotonic() < until_s
        time.sleep(0.01)  # until the death is noticed
    for task_id in task_ids:
        words = f"claimed by mortal since [0-9 :-]*, but {ended}: the next claimer takes it back"
        assert re.search(words, pool.why(task_id))


def test_status_list_and_mine_say_that_a_claim_has_ended(
    pool: TaskPool, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*command: str) -> list[dict[str, Any]]:
        assert cli.main([*command, "--json", "--pool", place]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    for task_id in ("ended", "stands"):
        pool.publish(task_id)
        pool.claim(task_id, "a", lease_s=600)
    pool.renew("ended", "a", -1)
    expected = {"ended": "its lease expired", "stands": None}
    (status,) = told("status")
    assert {claim["task_id"]: claim["ended"] for claim in status["agents"][0]["claims"]} == expected
    for command in (("list", "--state", "claimed"), ("mine", "--agent", "a")):
        assert {claim["task_id"]: claim.get("ended") for claim in told(*command)} == expected


def test_why_says_that_what_a_task_waits_for_has_failed_or_is_not_there(pool: TaskPool) -> None:
    pool.publish("f", max_attempts=1)
    pool.claim("f", "a").fail("e")
    pool.publish("waiting")
    pool.publish("held")
    pool.claim("held", "somebody")
    for blocker, words in (
        ("f", "waits for f (failed for good; see retry_failed())"),
        ("waiting", "waits for waiting (waiting itself)"),
        ("nowhere", "waits for nowhere (not there)"),
        ("held", "waits for held (claimed by somebody"),
    ):
        pool.publish("x", blocked_by=[blocker], if_exists="replace")
        assert words in pool.why("x")


def test_a_task_whose_not_before_is_no_time_is_nobodys_next_and_why_says_so(
    pool: TaskPool,
) -> None:
    publish_unchecked(pool, "x", not_before="x")
    assert pool.claim_next("a", wait=0.05) is None
    assert pool.claim_many("a", 2) == []
    assert "cannot be claimed: not_before 'x' is no time" in pool.why("x")
    (task,) = pool.tasks()
    assert task["not_before"] == "x"
    pool.claim("x", "a").complete()  # who names it is not held up


@pytest.mark.parametrize("reason", ["", "the limit of the API"])
def test_why_says_that_the_pool_is_paused_and_until_when(pool: TaskPool, reason: str) -> None:
    pool.publish("x", blocked_by=["y"])
    pool.pause(reason=reason)
    waits = "waits because the pool is paused until"
    why = reason or "no reason was given"
    assert f"'x' {waits} somebody resumes it: {why}" in pool.why("x")
    until_s = time.time() + 3 * 86400
    pool.pause(until_s, reason)
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(until_s))
    assert f"'x' {waits} {day}: {why}" in pool.why("x")
    pool.resume()
    assert "paused" not in pool.why("x")
    assert "y" in pool.why("x")


def test_what_is_old_is_removed_when_asked_twice(pool: TaskPool) -> None:
    for task_id in ("x", "y"):
        pool.publish(task_id)
    pool.claim("x", "a").complete()
    assert pool.prune("completed", 3600, dry_run=False) == []
    assert pool.prune("completed", 0) == ["x"]
    assert pool.counts()["completed"] == 1
    assert pool.prune("completed", 0, dry_run=False) == ["x"]
    assert pool.counts()["completed"] == 0
    assert pool.counts()["available"] == 1


def test_what_is_no_age_removes_nothing(pool: TaskPool) -> None:
    pool.publish("x")
    for seconds in (-1, -math.inf, math.nan):
        with pytest.raises(ValueError, match=f"older_than {seconds}"):
            pool.prune("available", seconds, dry_run=False)
    assert pool.counts()["available"] == 1


def test_what_others_are_blocked_by_is_not_removed(pool: TaskPool) -> None:
    for task_id in ("a", "b"):
        pool.publish(task_id)
        pool.claim(task_id, "agent").complete()
    pool.publish("y", blocked_by=["a"])
    assert pool.prune("completed", 0, dry_run=False) == ["b"]
    pool.claim_next("agent").complete()
    assert sorted(pool.prune("completed", 0, dry_run=False)) == ["a", "y"]


def test_what_a_task_is_blocked_by_that_is_claimed_or_failed_is_not_removed(
    pool: TaskPool,
) -> None:
    for task_id in ("a", "b", "c"):
        pool.publish(task_id)
        pool.claim(task_id, "agent").complete()
    for task_id, blocker in (("given-up", "a"), ("held", "b")):
        pool.publish(task_id, blocked_by=[blocker], max_attempts=1)
    pool.claim("given-up", "agent").fail("e")
    pool.claim("held", "agent")
    assert pool.prune("completed", 0) == ["c"]
    assert pool.prune("available", 0) == []
    assert pool.prune("failed", 0, dry_run=False) == ["given-up"]
    assert sorted(pool.prune("completed", 0, dry_run=False)) == ["a", "c"]


@pytest.mark.parametrize("state", ["claimed", "done"])
def test_only_tasks_that_nobody_works_on_can_be_removed(pool: TaskPool, state: str) -> None:
    pool.publish("x")
    pool.claim("x", "a")
    with pytest.raises(ValueError, match=f"'{state}'"):
        pool.prune(state, 0, dry_run=False)
    assert pool.counts()["claimed"] == 1


def test_the_doctor_finds_a_new_pool_healthy(pool: TaskPool) -> None:
    findings = pool.doctor()
    assert findings
    for finding in findings:
        assert finding.level in ("ok", "warning", "error")
        assert finding.message
    assert [finding for finding in findings if finding.level == "error"] == []


def test_what_nobody_can_ever_come_to_is_named(pool: TaskPool) -> None:
    def found() -> dict[str, Finding]:
        return {finding.check: finding for finding in pool.doctor()}

    pool.publish("done")
    pool.claim("done", "a").complete()
    pool.publish("good", blocked_by=["done", "free"])
    pool.publish("free")
    assert found()["blocked"].level == "ok"
    pool.publish("one", blocked_by=["other", "done"])
    pool.publish("other", blocked_by="one")
    assert found()["blocked"].message.startswith("task 'one' waits for itself: one after other")
    pool.prune("available", 0, dry_run=False)
    pool.publish("lost", blocked_by=["a/b", "done", "free"])
    assert found()["blocked"].message == (
        "tasks wait for what is nowhere: lost for a/b, lost for free"
    )
    pool.publish("free", if_exists="replace", max_attempts=1)
    pool.publish("lost", blocked_by="free", if_exists="replace")
    pool.claim("free", "a").fail("no")
    assert found()["blocked"] == Finding(
        "warning",
        "blocked",
        "tasks wait for what has failed for good: lost for free",
        "run retry_failed()",
    )


def test_counts_and_tasks_agree(pool: TaskPool) -> None:
    pool.publish_many([{"task_id": f"t{n}"} for n in range(1200)])
    for n in range(3):
        pool.claim(f"t{n}", "a")
    pool.complete("t0", "a")
    counts = pool.counts()
    assert (counts["available"], counts["claimed"], counts["completed"]) == (1197, 2, 1)
    for state in counts:
        assert len(list(pool.tasks(state))) == counts[state]
