"""`fastclaim events`: every change of state is told, once, with the task and the agent."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastclaim import TaskPool
from fastclaim.cli.follower import Follower
from fastclaim.inotify import Event
from fastclaim.inotify_masks import IN_Q_OVERFLOW

from .commands import COMMAND, DEADLINE_S, answers, environment, refusal

Told = tuple[str | None, ...]


@pytest.fixture
def told(pool: TaskPool) -> Iterator[Callable[[], list[Told]]]:
    """What was told since the last call: event, task, agent, state."""
    with Follower(pool.tasks_dir) as follower:
        yield lambda: [
            (change.event, change.task_id, change.agent_id, change.state)
            for change in follower.read()
        ]


def test_publication_claim_and_completion_are_told(pool, told):
    pool.publish("a_b")
    claim = pool.claim("a_b", "x_y")
    claim.complete()
    assert told() == [
        ("published", "a_b", None, "available"),
        ("claimed", "a_b", "x_y", "claimed"),
        ("completed", "a_b", "x_y", "completed"),
    ]
    assert told() == []


def test_a_release_is_told_from_a_failure(pool, told):
    pool.publish("a", max_attempts=2)
    pool.claim("a", "x").release()
    assert told()[-1] == ("released", "a", "x", "available")
    pool.claim("a", "x").fail("no disk")
    assert told()[-1] == ("failed", "a", "x", "available")
    claim = pool.claim("a", "x")
    assert told()[-1] == ("claimed", "a", "x", "claimed")
    claim.release()
    assert told() == [("released", "a", "x", "available")]
    pool.claim("a", "x").fail("no disk")
    assert told()[-1] == ("failed", "a", "x", "failed")
    pool.retry_failed("a")
    assert told() == [("retried", "a", None, "available")]


def test_a_recovery_is_told(pool, told):
    pool.publish("a")
    pool.claim("a", "x", lease_s=0.0)
    told()
    pool.recover()
    assert told() == [("recovered", "a", "x", "available")]


def test_a_task_that_is_published_again_is_told(pool, told):
    pool.publish("a")
    pool.publish("a", if_exists="replace")
    assert told() == [("published", "a", None, "available")] * 2


def test_a_claim_of_a_task_of_other_hands_is_told_once(pool, told):
    (pool.available_dir / "a.json").write_text('{"task_id": "a"}')
    pool.claim("a", "x").complete({"text": "x" * 1000})
    assert told() == [
        ("published", "a", None, "available"),
        ("claimed", "a", "x", "claimed"),
        ("completed", "a", "x", "completed"),
    ]


def test_what_originals_do_is_told(pool, told, monkeypatch):
    monkeypatch.setenv("A2A_BASE_DIR", os.fspath(pool.base_dir))
    from orchestration import a2a_integration

    monkeypatch.setattr(a2a_integration, "A2A_BASE_DIR", os.fspath(pool.base_dir))
    original = a2a_integration.TaskPool()
    original.publish_task("a", "Do it")
    assert told() == [("published", "a", None, "available")]
    original.claim_task("a", "x")
    assert told() == [("claimed", "a", "x", "claimed")]
    original.complete_task("a", "x", {})
    assert told() == [("completed", "a", "x", "completed")]


def test_a_file_that_is_removed_is_told(pool, told):
    pool.publish("a")
    pool.publish("b")
    pool.claim("b", "x").complete()
    told()
    (pool.available_dir / "a.json").unlink()
    (pool.completed_dir / "b_complete.json").unlink()
    assert told() == [("removed", "a", None, None), ("removed", "b", None, None)]


def test_locks_temporary_files_and_stamps_are_not_told(pool, told):
    pool.publish("a")
    told()
    (pool.available_dir / "a.lock").touch()
    (pool.available_dir / ".fastclaim-1.tmp").touch()
    os.utime(pool.available_dir / "a.json")
    assert told() == []


def test_how_long_a_task_waited_and_was_held_is_told(pool):
    pool.publish("a", created_at=1.0)
    with Follower(pool.tasks_dir) as follower:
        claim = pool.claim("a", "x")
        (claimed,) = follower.read()
        claim.complete()
        (completed,) = follower.read()
    assert claimed.waited_s == pytest.approx(claimed.at_s - 1.0)
    assert completed.held_s == pytest.approx(completed.at_s - claimed.at_s)


def test_claims_that_stood_before_are_known(pool):
    pool.publish("a")
    claim = pool.claim("a", "x")
    claimed_s = claim.task["claimed_at"]
    with Follower(pool.tasks_dir) as follower:
        claim.release()
        (change,) = follower.read()
    assert change.held_s == pytest.approx(change.at_s - claimed_s)


def test_that_changes_were_lost_is_told(pool, monkeypatch):
    with Follower(pool.tasks_dir) as follower:
        events = iter([[Event(-1, IN_Q_OVERFLOW, b"")], []])
        monkeypatch.setattr(follower._inotify, "read", lambda: next(events))
        assert [change.event for change in follower.read()] == ["lost"]


def test_a_pool_that_is_removed_ends_the_following(pool):
    with Follower(pool.tasks_dir) as follower:
        pool.completed_dir.rmdir()
        with pytest.raises(FileNotFoundError, match="the directory was removed"):
            list(follower.read())


MOVES = {
    "the pool": lambda pool: pool.base_dir.rename(pool.base_dir.with_name("moved")),
    "what the pool is in": lambda pool: pool.base_dir.parent.rename(
        pool.base_dir.parent.with_name("moved")
    ),
    "tasks/": lambda pool: pool.tasks_dir.rename(pool.base_dir / "moved"),
    "a state's directory": lambda pool: pool.failed_dir.rename(pool.tasks_dir / "moved"),
}


@pytest.fixture
def inner(make_pool: Callable[..., TaskPool], tmp_path: Path) -> TaskPool:
    """A pool that can be moved, and what it is in."""
    return make_pool(tmp_path / "some" / "pool")


@pytest.mark.parametrize("what", MOVES)
def test_a_pool_that_is_moved_ends_the_following(inner, what):
    with Follower(inner.tasks_dir) as follower:
        MOVES[what](inner)
        with pytest.raises(FileNotFoundError, match="the directory was moved or removed"):
            follower.wait(0)


def test_a_pool_that_was_replaced_ends_the_following(inner, make_pool):
    with Follower(inner.tasks_dir) as follower:
        MOVES["the pool"](inner)
        make_pool(inner.base_dir)
        with pytest.raises(FileNotFoundError, match="the directory was moved or removed"):
            follower.wait(0)


def test_what_happened_before_a_pool_was_moved_is_told(inner):
    with Follower(inner.tasks_dir) as follower:
        inner.publish("a")
        assert [change.event for change in follower.wait(0)] == ["published"]
        inner.claim("a", "x")
        waits = follower._inotify.wait

        def move_and_wait(timeout_s: float) -> bool:
            MOVES["the pool"](inner)
            return waits(timeout_s)

        follower._inotify.wait = move_and_wait
        assert [change.event for change in follower.wait(0)] == ["claimed"]


# The command --------------------------------------------------------------------------------------


def brief(event: dict[str, Any]) -> tuple[str, str]:
    return event["event"], event["task_id"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a pool in which a was completed and b waits."""
    pool = TaskPool(tmp_path / "pool")
    pool.publish("a")
    pool.claim("a", "x").complete()
    pool.publish("b")
    return Path(pool.base_dir)


def test_the_files_tell_what_has_happened(base):
    events = answers("events", "--pool", base)
    assert [brief(event) for event in events] == [
        ("published", "a"),
        ("claimed", "a"),
        ("completed", "a"),
        ("published", "b"),
    ]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert events[1]["agent"] == events[2]["agent"] == "x"
    assert answers("events", "--since", "0", "--pool", base) == []


def test_an_old_failure_is_told(base):
    pool = TaskPool(base)
    pool.claim("b", "y").fail("no disk")
    (failed,) = [e for e in answers("events", "--pool", base) if e["event"] == "failed"]
    assert (failed["task_id"], failed["agent"], failed["error"]) == ("b", "y", "no disk")


def its_events(base: Path, task_id: str) -> list[dict[str, Any]]:
    return [event for event in answers("events", "--pool", base) if event["task_id"] == task_id]


def test_a_renewal_changes_nothing_of_what_came_before_it(base):
    claim = TaskPool(base).claim("b", "y", lease_s=60, bind=False)
    claim.renew(600)
    published, claimed = its_events(base, "b")
    assert (published["event"], claimed["event"]) == ("published", "claimed")
    assert published["at"] <= claimed["at"] == pytest.approx(claim.task["claimed_at"], abs=1e-5)
    assert claimed["waited_s"] == pytest.approx(claimed["at"] - published["at"], abs=1e-5)


def test_when_a_task_was_made_is_taken_from_the_task(base):
    pool = TaskPool(base)
    pool.publish("c", created_at=1000.0)
    claim = pool.claim("c", "y", lease_s=60, bind=False)
    claim.renew(600)
    published, claimed = its_events(base, "c")
    assert published["at"] == 1000.0
    assert claimed["waited_s"] == pytest.approx(claim.task["claimed_at"] - 1000.0, abs=1e-3)


def test_a_failure_is_told_after_the_publication_and_before_the_next_claim(base):
    pool = TaskPool(base)
    pool.claim("b", "y").fail("no disk")
    pool.claim("b", "z", bind=False).renew(60)
    assert [event["event"] for event in its_events(base, "b")] == ["published", "failed", "claimed"]


def test_steps_are_told_in_their_order_also_where_a_clock_was_set_back(base):
    TaskPool(base).publish("c", created_at=time.time() + 1000)
    claim = TaskPool(base).claim("c", "y", bind=False)
    failures = [{"error": "e", "agent": "x", "at": claim.task["claimed_at"] + 500}]
    (path,) = (base / "tasks" / "claimed").glob("c_*")
    path.write_text(json.dumps(claim.task | {"failures": failures}))
    assert [event["event"] for event in its_events(base, "c")] == ["published", "failed", "claimed"]


def test_following_tells_changes_as_they_happen(base):
    with subprocess.Popen(
        [*COMMAND, "events", "--follow", "--since", "inf", "--pool", str(base)],
        env=environment(),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        # The past has been told when its last line comes: from then on it follows.
        past = [json.loads(process.stdout.readline()) for _ in range(4)]
        TaskPool(base).claim("b", "y")
        claimed = json.loads(process.stdout.readline())
        process.terminate()
    assert brief(past[-1]) == ("published", "b")
    assert (*brief(claimed), claimed["agent"]) == ("claimed", "b", "y")


def test_following_ends_with_a_word_when_the_pool_is_moved(base):
    with subprocess.Popen(
        [*COMMAND, "events", "--follow", "--since", "inf", "--pool", str(base)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(4):
            process.stdout.readline()
        base.rename(base.with_name("moved"))
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    where = base / "tasks" / "available"
    assert (process.returncode, stdout) == (7, "")
    assert stderr == f"fastclaim events: {where}: the directory was moved or removed\n"


def test_a_database_has_no_files_to_follow():
    assert refusal("events", "--pool", "postgresql://nowhere/x")[0] == 2


def test_a_follower_keeps_nothing_of_what_has_ended(pool):
    with Follower(pool.tasks_dir) as follower:
        pool.publish("x")
        pool.claim("x", "a").complete("r" * 1000)
        follower.wait(0)
        assert not follower._growing
        assert not follower._leaving
        assert not follower._held


def test_a_time_of_publication_in_iso_8601_counts(pool):
    with Follower(pool.tasks_dir) as follower:
        pool.publish("x", created_at="1999-01-01T00:00:00+00:00")
        pool.claim("x", "a")
        changes = follower.wait(0)
    assert changes[-1].waited_s > 20 * 365 * 86_400
