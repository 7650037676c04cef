"""`fastclaim status`: its figures are what is in the pool."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from fastclaim import TaskPool
from fastclaim.cli.survey import LATELY_S, Survey

from .agents import agent
from .commands import answer, on_a_terminal


@pytest.fixture
def pool(tmp_path: Path) -> TaskPool:
    return TaskPool(tmp_path / "pool")


def test_status_says_who_holds_what_and_since_when(pool):
    pool.publish_many([{"task_id": f"t{n}"} for n in range(4)])
    pool.claim("t0", "x")
    pool.claim("t1", "x", lease_s=600)
    pool.claim("t2", "y").complete()
    status = answer("status", "--pool", pool.base_dir)
    assert status["pool"] == str(pool.base_dir)
    assert status["tasks"] == {"available": 1, "claimed": 2, "completed": 1, "failed": 0}
    (agent,) = status["agents"]
    assert agent["agent"] == "x"
    claims = {claim["task_id"]: claim for claim in agent["claims"]}
    assert set(claims) == {"t0", "t1"}
    assert claims["t0"]["lease_left_s"] is None
    assert 0 < claims["t1"]["lease_left_s"] <= 600
    assert status["oldest_waiting"]["task_id"] == "t3"
    assert status["completed_last_minute"] == 1


def test_claims_of_the_dead_are_told_from_those_that_stand(pool):
    pool.publish_many([{"task_id": "a"}, {"task_id": "b"}])
    pool.claim("a", "alive", bind=False)
    with agent(lambda: pool.claim("b", "dead")) as holder:
        holder.kill()
    found = answer("status", "--pool", pool.base_dir)["agents"]
    ends = {each["agent"]: [claim["ended"] for claim in each["claims"]] for each in found}
    assert ends == {"alive": [None], "dead": ["its process ended"]}
    _, shown = on_a_terminal("status", "--pool", pool.base_dir)
    assert re.search(r"at work +1 agent\b", shown)
    assert re.search(r"ended +1 claim +of which the next claimer takes the tasks", shown)
    assert re.search(r"dead +b .*its process ended", shown)
    _, shown = on_a_terminal("list", "--state", "claimed", "--pool", pool.base_dir)
    assert re.search(r"^ ?b .*dead \(its process ended\)", shown, re.M)
    assert re.search(r"^ ?a .*alive +\d", shown, re.M)


def test_status_names_the_latest_failures(pool):
    for n in range(7):
        pool.publish(f"t{n}", max_attempts=1)
        pool.claim(f"t{n}", "x").fail(f"error {n}")
    failures = answer("status", "--pool", pool.base_dir)["failures"]
    assert len(failures) == 5
    assert all(each["error"] == f"error {each['task_id'][1:]}" for each in failures)
    status, shown = on_a_terminal("status", "--pool", pool.base_dir)
    assert status == 0
    assert "7 failed" in shown
    assert f"{failures[0]['task_id']}: {failures[0]['error']}" in shown


def test_the_oldest_task_is_the_one_that_was_published_first(pool):
    pool.publish_many([{"task_id": f"t{n}"} for n in range(3)])
    pool.claim("t1", "x").release()
    os.utime(pool.available_dir / "t2.json", (1.0, 1.0))
    oldest = Survey(pool).snapshot().oldest
    assert oldest is not None
    assert oldest.task_id == "t2"
    assert oldest.waited_s == pytest.approx(time.time() - 1.0, abs=60)


def test_what_was_completed_long_ago_was_not_completed_lately(pool, monkeypatch):
    pool.publish("a")
    pool.claim("a", "x").complete()
    survey = Survey(pool)
    assert survey.snapshot().completed_lately == 1
    later_s = time.time() + LATELY_S + 1
    monkeypatch.setattr(time, "time", lambda: later_s)
    assert survey.snapshot().completed_lately == 0


def test_a_change_in_the_same_tick_of_the_clock_is_seen(pool):
    tick_s = time.time() + 1

    def stand_still():
        os.utime(pool.available_dir, (tick_s, tick_s))

    survey = Survey(pool)
    pool.publish("a")
    stand_still()
    assert len(survey.tasks("available", 10)) == 1
    pool.publish("b")
    stand_still()
    assert len(survey.tasks("available", 10)) == 2


def test_a_state_that_has_not_changed_is_not_read_again(pool, monkeypatch):
    pool.publish("a")
    os.utime(pool.available_dir, (1.0, 1.0))
    survey = Survey(pool)
    survey.tasks("available", 10)
    monkeypatch.setattr(os, "scandir", None)
    assert len(survey.tasks("available", 10)) == 1


def test_tasks_are_shown_the_longest_waiting_first(pool):
    pool.publish_many([{"task_id": f"t{n}"} for n in range(3)])
    os.utime(pool.available_dir / "t1.json", (1.0, 1.0))
    assert [task["task_id"] for task in Survey(pool).tasks("available", 1)] == ["t1"]
