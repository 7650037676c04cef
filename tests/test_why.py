"""`why` says in one sentence what a task waits for; `prune` removes what is old."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator

import pytest

from fastclaim import InvalidName, TaskPool, pruning, recovery

from .other_hands import publish_unchecked

HOUR_S = 3600.0


def test_each_state_has_its_sentence(pool: TaskPool) -> None:
    assert pool.why("x") == "task 'x' is not there"
    pool.publish("x")
    assert pool.why("x") == "task 'x' waits for an agent to claim it"
    claim = pool.claim("x", "a3")
    since = time.strftime("%H:%M", time.localtime(claim.task["claimed_at"]))
    assert pool.why("x") == f"task 'x' is claimed by a3 since {since}"
    claim.complete()
    assert pool.why("x").startswith(f"task 'x' is completed by a3 since {since[:2]}")


@pytest.mark.parametrize("agent_id", ["", " "])
def test_an_agent_whose_id_nobody_would_see_is_quoted(pool: TaskPool, agent_id: str) -> None:
    pool.publish("x")
    claim = pool.claim("x", agent_id)
    assert f"claimed by {agent_id!r} since" in pool.why("x")
    claim.complete()
    assert f"completed by {agent_id!r} since" in pool.why("x")


def test_a_failed_task_tells_its_last_error(pool: TaskPool) -> None:
    failed = pool.tasks_dir / "failed"
    failed.mkdir(exist_ok=True)
    failures = [{"error": "first"}, {"error": "ValueError: no such branch"}]
    (failed / "x_failed.json").write_text(json.dumps({"task_id": "x", "failures": failures}))
    assert "failed for good" in pool.why("x")
    assert "ValueError: no such branch" in pool.why("x")
    pool.publish("y", blocked_by=["x"])
    assert pool.why("y") == "task 'y' waits for x (failed for good; see retry_failed())"
    assert pool.claim_next("a") is None


@pytest.mark.parametrize("dependency", ["not there", "waiting itself", "claimed by a3 since"])
def test_a_blocked_task_tells_where_its_dependency_is(pool: TaskPool, dependency: str) -> None:
    pool.publish("y", blocked_by=["x"])
    if dependency != "not there":
        pool.publish("x")
    if dependency.startswith("claimed"):
        pool.claim("x", "a3")
    assert pool.why("y").startswith(f"task 'y' waits for x ({dependency}")


def test_what_a_waiting_task_needs_is_said(pool: TaskPool) -> None:
    pool.publish("gpu", requirements=["gpu", "tpu"])
    assert pool.why("gpu", ["python"]) == "task 'gpu' needs capability \"gpu or tpu\""
    assert (
        pool.why("gpu", ["tpu"]) == pool.why("gpu") == "task 'gpu' waits for an agent to claim it"
    )
    pool.publish("both", constraints={"required_capabilities": ["a", "b"]})
    assert pool.why("both", ["a"]) == "task 'both' needs capability \"b\""
    pool.publish("late", not_before=4_102_444_800)
    assert pool.why("late").startswith("task 'late' may not be claimed before 2")
    pool.publish("over", constraints={"deadline": 1})
    assert pool.why("over").startswith("task 'over' had to be claimed before 19")
    pool.publish("holder", exclusive=["src/app.py"])
    pool.publish("held", exclusive=["src/app.py"])
    pool.claim("holder", "a1")
    assert pool.why("held").startswith(
        "task 'held' is held by key \"src/app.py\" (holder claimed by a1 since "
    )


def test_what_nobody_can_claim_is_said(pool: TaskPool) -> None:
    (pool.available_dir / "broken.json").write_text("{")
    assert "not JSON" in pool.why("broken")
    (pool.available_dir / "taken.json").write_text('{"task_id": "taken", "status": "claimed"}')
    assert "recover()" in pool.why("taken")
    publish_unchecked(pool, "odd", blocked_by=1.5)
    assert "blocked_by is not a list but float" in pool.why("odd")
    pool.publish("never", blocked_by=["a/b"])
    assert "can never be there" in pool.why("never")
    (pool.available_dir / "when.json").write_text('{"not_before": "soon"}')
    assert "'soon' is no time" in pool.why("when")
    with pytest.raises(InvalidName):
        pool.why("a/b")


@pytest.mark.parametrize(
    "fields",
    [
        {"requirements": ["gpu"]},
        {"constraints": {"required_capabilities": ["gpu"]}},
        {"constraints": {"deadline": 1}},
        {"constraints": 7},
        {"not_before": 4e9},
        {"not_before": "soon"},
        {"blocked_by": ["x"]},
        {"exclusive": ["k"]},
        {"status": "claimed"},
        {},
    ],
)
def test_why_and_claim_next_agree(pool: TaskPool, fields: dict[str, object]) -> None:
    pool.publish("holder", exclusive=["k"])
    pool.claim("holder", "b")
    (pool.available_dir / "task.json").write_text(json.dumps({"task_id": "task", **fields}))
    is_claimable = pool.why("task", ["python"]) == "task 'task' waits for an agent to claim it"
    assert (pool.claim_next("a", ["python"]) is not None) is is_claimable is (fields == {})


# Pruning ------------------------------------------------------------------------------------------


@pytest.fixture
def old(pool: TaskPool) -> TaskPool:
    """A pool with an old and a new task in each state that can be pruned."""
    now_s = time.time()
    failed = pool.tasks_dir / "failed"
    failed.mkdir(exist_ok=True)
    for name, at_s in (("old", now_s - 2 * HOUR_S), ("new", now_s)):
        pool.publish(f"{name}-w", created_at=at_s)
        task = json.dumps({"task_id": name, "completed_at": at_s, "failed_at": at_s})
        (pool.completed_dir / f"{name}-c_complete.json").write_text(task)
        (failed / f"{name}-f_failed.json").write_text(task)
    return pool


@pytest.mark.parametrize(
    ("state", "task_id"), [("available", "old-w"), ("completed", "old-c"), ("failed", "old-f")]
)
def test_only_what_is_old_is_pruned_and_only_when_asked(
    old: TaskPool, state: str, task_id: str
) -> None:
    def names() -> set[str]:
        return {path.name for path in old.tasks_dir.rglob("*.json")}

    before = names()
    assert old.prune(state, HOUR_S) == [task_id]
    assert names() == before
    assert old.prune(state, HOUR_S, dry_run=False) == [task_id]
    assert {name.partition(".")[0].partition("_")[0] for name in before - names()} == {task_id}
    assert len(before - names()) == 1
    assert [name for name in os.listdir(old.tasks_dir / state) if name.endswith(".tmp")] == []


def test_what_others_are_blocked_by_stays(old: TaskPool) -> None:
    old.publish("y", blocked_by=["old-c"])
    assert old.prune("completed", HOUR_S, dry_run=False) == []
    assert "y" in {claim.task_id for claim in old.claim_many("a", 9)}


@pytest.mark.parametrize("comes_from", ["claimed", "failed"])
def test_what_a_task_is_blocked_by_stays_though_it_comes_back_while_we_look(
    old: TaskPool, monkeypatch: pytest.MonkeyPatch, comes_from: str
) -> None:
    old.publish("y", blocked_by=["old-c"], max_attempts=1)
    claim = old.claim("y", "a")
    if comes_from == "failed":
        claim.fail("no")
    task_files = pruning.task_files

    def come_back(directory: bytes) -> Iterator[str]:
        if os.path.basename(directory) == comes_from.encode():
            _ = claim.release() if comes_from == "claimed" else old.retry_failed("y")
        return task_files(directory)

    monkeypatch.setattr(pruning, "task_files", come_back)
    assert old.prune("completed", HOUR_S, dry_run=False) == []


@pytest.mark.parametrize(
    ("state", "older_than", "named"),
    [("claimed", 1, "'claimed'"), ("x", 1, "'x'"), ("completed", -1, "-1")],
)
def test_bad_arguments_of_prune_are_named(
    old: TaskPool, state: str, older_than: float, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        old.prune(state, older_than)


def publish_once_held(old: TaskPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another publication comes when a task has been judged, and before it is taken away."""
    mkdir = os.mkdir

    def publish_first(path: bytes) -> None:
        monkeypatch.setattr(pruning.os, "mkdir", mkdir)
        old.publish("old-w", "anew", if_exists="replace")
        mkdir(path)

    monkeypatch.setattr(pruning.os, "mkdir", publish_first)


def is_whole_and_alone(old: TaskPool, description: str) -> bool:
    assert [name for name in os.listdir(old.available_dir) if name.endswith(".tmp")] == []
    return old.claim("old-w", "a", timeout=0).task["description"] == description


@pytest.mark.parametrize("again", [False, True])
def test_what_is_put_there_anew_meanwhile_is_not_pruned(
    old: TaskPool, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    def republish_first(taken: bytes, path: bytes) -> None:
        if again:
            old.publish("old-w", "and again")
        recovery.put_back(taken, path)

    publish_once_held(old, monkeypatch)
    monkeypatch.setattr(pruning, "put_back", republish_first)
    assert old.prune("available", HOUR_S, dry_run=False) == []
    assert is_whole_and_alone(old, "and again" if again else "anew")


def test_a_recovery_in_the_middle_does_not_lose_what_was_put_there_anew(
    old: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recover_first(taken: bytes, path: bytes) -> None:
        old.recover()
        recovery.put_back(taken, path)

    publish_once_held(old, monkeypatch)
    monkeypatch.setattr(pruning, "put_back", recover_first)
    assert old.prune("available", HOUR_S, dry_run=False) == []
    assert is_whole_and_alone(old, "anew")


@pytest.mark.parametrize("again", [False, True])
def test_what_a_dead_prune_had_taken_aside_stands_again(old: TaskPool, again: bool) -> None:
    aside = old.available_dir / ".fastclaim-dead.tmp"
    aside.mkdir()
    (old.available_dir / "old-w.json").rename(aside / "old-w.json")
    if again:
        old.publish("old-w", "anew")
    assert str(aside) in old.recover().removed
    assert old.claim("old-w", "a").task.get("description") == ("anew" if again else None)


def test_a_task_that_somebody_holds_is_not_pruned(old: TaskPool) -> None:
    with open(old.available_dir / "old-w.json") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert old.prune("available", HOUR_S, dry_run=False) == []
    assert old.prune("available", HOUR_S, dry_run=False) == ["old-w"]


def test_a_recovery_leaves_alone_what_a_living_prune_is_about_to_remove(
    old: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def recover_first(path: bytes) -> None:
        monkeypatch.setattr(pruning.os, "unlink", unlink)
        old.recover()
        unlink(path)

    monkeypatch.setattr(pruning.os, "unlink", recover_first)
    assert old.prune("available", HOUR_S, dry_run=False) == ["old-w"]
    assert not (old.available_dir / "old-w.json").exists()
