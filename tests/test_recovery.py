"""What the dead have left is put right, and nothing of the living is touched."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastclaim import NameCollision, TaskPool, owners, recovery

from .agents import agent, run


def snapshot(pool: TaskPool) -> dict[str, bytes]:
    return {f"{p}": p.read_bytes() for p in Path(pool.base_dir).rglob("*") if p.is_file()}


HALVES = [
    ({"task_id": "a_b"}, "returned", "available/a_b.json"),
    ({"task_id": "wrong"}, "returned", "available/a_b.json"),
    ({}, "returned", "available/a_b.json"),
    ({"status": "available", "attempts": 1}, "returned", "available/a_b.json"),
    (
        {"status": "completed", "claimed_by": "c", "result": 1},
        "completed",
        "completed/a_b_complete.json",
    ),
    ({"task_id": "a_b", "status": "failed", "failures": []}, "failed", "failed/a_b_failed.json"),
]


@pytest.mark.parametrize(("document", "told", "target"), HALVES)
def test_half_a_transition_is_undone_or_made_whole(
    pool: TaskPool, document: dict[str, object], told: str, target: str
) -> None:
    raw = json.dumps(document)
    (pool.claimed_dir / "a_b_c.json").write_text(raw)
    before = snapshot(pool)
    assert getattr(pool.recover(dry_run=True), told) == ["a_b"]
    assert snapshot(pool) == before
    assert getattr(pool.recover(), told) == ["a_b"]
    assert (pool.tasks_dir / target).read_text() == raw
    assert not pool.recover()


@pytest.mark.parametrize("document", [document for document, _, _ in HALVES])
def test_what_somebody_holds_is_left_alone(pool: TaskPool, document: dict[str, object]) -> None:
    path = pool.claimed_dir / "a_b_c.json"
    path.write_text(json.dumps(document))
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = snapshot(pool)
        assert not pool.recover()
        assert snapshot(pool) == before


def test_litter_is_removed_only_if_nobody_holds_it(pool: TaskPool) -> None:
    pool.publish("young")
    pool.publish("old")
    names = ("young.lock", "old.lock", "gone.lock", ".fastclaim-1.tmp", "held.lock", "foreign.txt")
    for name in names:
        (pool.available_dir / name).touch()
    os.utime(pool.available_dir / "old.lock", (0, 0))
    with open(pool.available_dir / "held.lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        removed = {Path(path).name for path in pool.recover().removed}
    assert removed == {"old.lock", "gone.lock", ".fastclaim-1.tmp"}


@pytest.mark.parametrize("claimed_at", [0, 10**400])
def test_claims_of_originals_go_back_only_by_age(pool: TaskPool, claimed_at: int) -> None:
    claim = {"task_id": "t", "status": "claimed", "claimed_by": "a", "claimed_at": claimed_at}
    (pool.claimed_dir / "t_a.json").write_text(json.dumps(claim))
    assert not pool.recover()
    assert bool(pool.recover(older_than=60)) == (claimed_at == 0)


def test_an_originals_copy_of_a_completion_does_not_come_back_with_its_owners_end(
    pool: TaskPool,
) -> None:
    pool.publish("t")
    with agent(lambda: pool.claim("t", "ours").complete()):
        pass
    # It opened the task before that claim, read it after the completion, and then was refused.
    task = json.loads((pool.completed_dir / "t_complete.json").read_text())
    copy = task | {"status": "claimed", "claimed_by": "original", "claimed_at": 0}
    (pool.claimed_dir / "t_original.json").write_text(json.dumps(copy, indent=2))
    assert not pool.recover()
    assert pool.claim_task("t", "b") == {}
    assert pool.recover(older_than=60).returned == ["t"]


def test_half_a_claim_that_stands_in_the_way_of_its_agents_claim_is_kept(pool: TaskPool) -> None:
    pool.publish("t", n=2)
    (pool.available_dir / "t.json").rename(pool.claimed_dir / "t_a.json")
    pool.publish("t", n=1, if_exists="replace")
    claim = pool.claim("t", "a")
    assert claim.task["n"] == 1
    claim.complete()
    assert pool.recover().returned == ["t"]
    assert pool.claim("t", "a").task["n"] == 2


def test_a_lease_ends_by_the_clock_and_not_with_its_process(pool: TaskPool) -> None:
    for task_id in ("past", "going on"):
        pool.publish(task_id)
    with agent(
        lambda: [pool.claim("past", "a", lease_s=-1), pool.claim("going on", "a", lease_s=99)]
    ):
        pass
    assert pool.recover(older_than=0).returned == ["past"]


def test_what_waits_and_is_claimed_by_an_original_is_reported_and_stays(pool: TaskPool) -> None:
    pool.publish("t")
    (pool.claimed_dir / "t_a.json").write_text('{"task_id": "t", "claimed_by": "a"}')
    before = snapshot(pool)
    assert pool.recover(older_than=None).problems == ["task 't' both waits and is claimed"]
    assert snapshot(pool) == before


def test_a_waiting_task_that_says_it_is_claimed_waits_again(pool: TaskPool) -> None:
    path = pool.available_dir / "t.json"
    path.write_text('{"task_id": "t", "status": "claimed", "claimed_by": "a", "mine": 1}')
    assert pool.recover().returned == ["t"]
    assert pool.claim("t", "b").task["mine"] == 1


def test_what_cannot_be_read_is_reported_and_never_deleted(pool: TaskPool) -> None:
    path = pool.claimed_dir / "t_a.json"
    path.write_text("{")
    assert str(path) in pool.recover(older_than=0).problems[0]
    assert path.read_text() == "{"


def test_a_claim_of_the_dead_that_we_may_not_read_is_left_to_those_who_may(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> dict[str, object]:
        raise PermissionError(13, "Permission denied", path)

    pool.publish("t")
    with agent(lambda: pool.claim("t", "a")):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(recovery.listing, "read_task", refuse)
        assert pool.claim_next("b") is None
    assert run(lambda: pool.claim_next("c")) == "<Claim of 't' by 'c'>"


def test_a_waiting_task_that_we_may_not_read_keeps_no_owner_file_of_the_dead(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_task = recovery.listing.read_task

    def refuse(path: str) -> dict[str, object]:
        if os.path.basename(path) == "theirs.json":
            raise PermissionError(13, "Permission denied", path)
        return read_task(path)

    pool.publish("theirs")
    pool.publish("t")
    with agent(lambda: pool.claim("t", "a")):
        pass
    monkeypatch.setattr(recovery.listing, "read_task", refuse)
    pool.recover()
    assert list((pool.tasks_dir / "owners").glob("*.owner")) == []


@pytest.mark.parametrize("lock_files", [True, False])
def test_a_claim_of_the_dead_goes_back_also_if_the_directory_for_it_has_gone(
    make_pool: Callable[..., TaskPool], lock_files: bool
) -> None:
    pool = make_pool(lock_files=lock_files)
    pool.publish("t")
    with agent(lambda: pool.claim("t", "a")):
        pass
    pool.available_dir.rmdir()
    assert pool.recover().returned == ["t"]


def test_a_claim_of_the_dead_waits_for_a_newer_publication_to_go(pool: TaskPool) -> None:
    pool.publish("t", n=1)
    with agent(lambda: pool.claim("t", "a")) as holder:
        pool.publish("t", n=2, if_exists="replace")
        holder.kill()
    assert not pool.recover()
    assert pool.claim_task("t", "b")["n"] == 2
    assert pool.recover().returned == ["t"]
    assert pool.claim_task("t", "c")["n"] == 1


def test_half_a_claim_is_not_lost_to_the_same_agents_claim_of_a_newer_publication(
    pool: TaskPool,
) -> None:
    pool.publish("t", n=1)
    (pool.available_dir / "t.json").rename(pool.claimed_dir / "t_a.json")
    pool.publish("t", n=2, if_exists="replace")
    assert pool.claim_task("t", "a")["n"] == 2
    assert pool.recover().returned == ["t"]
    assert pool.claim_task("t", "b")["n"] == 1


def test_half_a_claim_that_cannot_be_moved_aside_is_not_lost(pool: TaskPool) -> None:
    long = "x" * 240
    pool.publish(long, n=1)
    (pool.available_dir / f"{long}.json").rename(pool.claimed_dir / f"{long}_a.json")
    pool.publish(long, n=2, if_exists="replace")
    with pytest.raises(NameCollision):
        pool.claim(long, "a")
    assert pool.claim_task(long, "b")["n"] == 2
    assert pool.recover().returned == [long]


@pytest.mark.parametrize(
    ("text", "told"),
    [('{"claimed_by": "b_c"}', "a"), ('{"claimed_by": "c"}', "a_b"), ('{"claimed_by": "x"}', "a_b"),
     ("{", "a_b"), ("{}", "a_b")],
)  # fmt: skip
def test_what_an_agent_was_about_to_write_tells_whose_half_claim_it_is(
    pool: TaskPool, text: str, told: str
) -> None:
    (pool.claimed_dir / "a_b_c.json").write_text('{"n": 1}')
    (pool.claimed_dir / ".fastclaim-1.tmp").write_text(text)
    assert pool.recover(dry_run=True).returned == [told]
    report = pool.recover()
    assert report.returned == [told]
    assert report.removed == [str(pool.claimed_dir / ".fastclaim-1.tmp")]
    assert (pool.available_dir / f"{told}.json").read_text() == '{"n": 1}'


def test_an_id_that_is_too_long_for_failed_is_reported_and_stops_nobody(pool: TaskPool) -> None:
    long = "x" * 245
    for task_id in (long, "t"):
        pool.publish_task(task_id, "", constraints={})
    claim = {"status": "claimed", "claimed_by": "a", "lease_expires_at": 1, "max_attempts": 1}
    for task_id in (long, "t"):
        (pool.available_dir / f"{task_id}.json").unlink()
        (pool.claimed_dir / f"{task_id}_a.json").write_text(json.dumps(claim))
    report = pool.recover()
    assert report.failed == ["t"]
    assert len(report.problems) == 1


def test_who_dies_during_a_recovery_is_not_forgotten_before_the_next(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("t")
    with agent(lambda: pool.claim("t", "a").token) as holder:
        rest = recovery._Recovery.waiting_tasks

        def die_after_the_claims_were_looked_at(passing: recovery._Recovery) -> None:
            holder.kill()
            rest(passing)

        monkeypatch.setattr(
            recovery._Recovery, "waiting_tasks", die_after_the_claims_were_looked_at
        )
        assert not pool.recover()
    assert pool.claim("t", "b").task["attempts"] == 1


def test_an_owner_that_was_asked_after_before_it_had_its_lock_is_not_forgotten(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_and_flock(*arguments: int) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        fcntl.flock(*arguments)

    pool.publish("t")
    child = os.fork()
    if child == 0:
        try:
            constants = {name: getattr(fcntl, name) for name in ("LOCK_EX", "LOCK_NB", "LOCK_UN")}
            owners.fcntl = SimpleNamespace(flock=stop_and_flock, **constants)
            pool.claim("t", "a")
        finally:
            os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    claims = recovery._Recovery.claims

    def claims_before_its_own(self: recovery._Recovery) -> None:
        claims(self)
        os.kill(child, signal.SIGCONT)
        os.waitpid(child, 0)

    monkeypatch.setattr(recovery._Recovery, "claims", claims_before_its_own)
    assert not recovery.give_back_of_dead_owners(pool._directories, None)[0]
    monkeypatch.undo()
    assert recovery.give_back_of_dead_owners(pool._directories, None)[0]
    assert pool.claim("t", "b").task["attempts"] == 1


def test_an_owner_is_not_forgotten_while_half_its_claim_is_held(pool: TaskPool) -> None:
    """By a dying process that the kernel has not let go of yet, or by another recovery."""
    run(lambda: (pool.publish("other"), pool.claim("other", "a").complete()))
    path = pool.claimed_dir / "t_a.json"
    path.write_text('{"task_id": "t"}')
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not recovery.give_back_of_dead_owners(pool._directories, None)[0]
    assert recovery.give_back_of_dead_owners(pool._directories, None)[0]
    assert pool.claim("t", "b").task["claimed_by"] == "b"


def test_the_first_miss_asks_only_the_owner_of_the_task_that_it_came_for(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many that race for one task, each but one misses for the first time."""
    asked: list[bytes] = []
    ask = owners._ask
    monkeypatch.setattr(owners, "_ask", lambda path: asked.append(path) or ask(path))
    with ExitStack() as stack:
        for task_id in "tuv":
            pool.publish(task_id)
            stack.enter_context(agent(lambda task_id=task_id: pool.claim(task_id, "a").token))
        assert pool.claim_task("t", "b") == {}
        assert len(asked) == 1
        assert pool.claim_task("t", "b") == {}
        assert len(asked) > 2


@pytest.mark.parametrize("few", [512, 0], ids=["few claims", "many claims"])
def test_the_first_miss_takes_the_task_from_a_process_that_has_died(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(recovery, "_FEW_CLAIMS", few)
    pool.publish("t")
    with agent(lambda: pool.claim("t", "a").token) as holder:
        holder.kill()
    assert pool.claim("t", "b").task["attempts"] == 1


def test_the_first_miss_takes_the_task_from_a_lease_that_is_over(pool: TaskPool) -> None:
    pool.publish("t")
    pool.claim("t", "a", lease_s=1e-9)
    assert pool.claim("t", "b").task["attempts"] == 1
