"""The demo's audit finds every way in which tasks can be lost, doubled, left or changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastclaim import TaskPool
from fastclaim.cli.audit import audit
from fastclaim.cli.journal import Journal, Tail, journal_file, read_journal
from fastclaim.directories import Directories

TASKS = [
    {
        "task_id": "t-1",
        "description": "Ein Paket für Zoë\u2028",
        "requirements": ["python"],
        "odd": float("nan"),
    },
    {"task_id": "t-2", "status": "claimed", "constraint_enforcement": {"enabled": True}},
    {"task_id": 3, "priority": 1, "nested": {"b": [1, 1.0, True, None], "a": {}}},
]
AGENTS = ("agent-1", "agent-2")


class Scene:
    """A pool in which every task was claimed and completed once, and the journals that say so."""

    def __init__(self, pool: TaskPool) -> None:
        self.tasks_dir = Path(pool.tasks_dir)
        self.base_dir = Path(pool.base_dir)
        (self.base_dir / "demo").mkdir()
        pool.publish_many(TASKS)
        for agent_id, tasks in zip(AGENTS, (TASKS[:1], TASKS[1:]), strict=True):
            with Journal(self.journal(agent_id)) as own:
                for task in tasks:
                    claim = pool.claim(task["task_id"], agent_id)
                    evidence = {"task_id": task["task_id"], "claim_token": claim.token}
                    own.write("claimed", **evidence, claim_ns=1000)
                    claim.complete({"by": agent_id})
                    own.write("completed", **evidence)

    def journal(self, agent_id: str) -> str:
        return journal_file(self.base_dir, agent_id)

    def completed(self, task_id: str) -> Path:
        return self.tasks_dir / "completed" / f"{task_id}_complete.json"

    def rewrite(self, task_id: str, /, **changes: object) -> None:
        task = json.loads(self.completed(task_id).read_text())
        self.completed(task_id).write_text(json.dumps(task | changes))

    def problems(self) -> list[str]:
        journals = {agent_id: read_journal(self.journal(agent_id)) for agent_id in AGENTS}
        return audit(Directories(self.base_dir, "data", True), TASKS, journals)


@pytest.fixture
def scene(pool: TaskPool) -> Scene:
    return Scene(pool)


def test_nothing_is_wrong_where_each_task_was_claimed_and_completed_once(scene):
    assert scene.problems() == []


def test_a_lost_task_is_found(scene):
    scene.completed("t-1").unlink()
    assert scene.problems() == ["task 't-1' is lost: it is in none of the directories"]


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (
            "available/t-1.json",
            "task 't-1' was left in available/: it waits for an agent to claim it",
        ),
        ("claimed/t-1_agent-2.json", "task 't-1' was left in claimed/ by agent-2"),
    ],
)
def test_a_task_that_was_left_is_found(scene, place, problem):
    scene.completed("t-1").rename(scene.tasks_dir / place)
    assert scene.problems() == [problem]


def test_of_a_task_that_was_left_waiting_it_is_said_why(scene, pool):
    scene.completed("t-1").unlink()
    pool.publish("t-1", blocked_by=["other\nthing"], if_exists="replace")
    said = "task 't-1' was left in available/: it waits for other\\nthing (not there)"
    assert scene.problems() == [said]


def test_a_task_that_is_completed_and_still_waits_is_found(scene):
    shutil.copy(scene.completed("t-1"), scene.tasks_dir / "available" / "t-1.json")
    assert scene.problems() == [
        "task 't-1' was left in available/, though it is completed too",
    ]


@pytest.mark.parametrize(
    "place", ["available/t-1.lock", "available/.fastclaim-1.tmp", "claimed/.fastclaim-2.tmp"]
)
def test_a_lock_or_temporary_file_that_was_left_is_found(scene, place):
    (scene.tasks_dir / place).touch()
    state, name = place.split("/")
    assert scene.problems() == [f"a file was left in {state}/: {name!r}"]


def test_a_file_in_completed_that_nobody_published_is_found(scene):
    (scene.tasks_dir / "completed" / ".fastclaim-3.tmp").touch()
    problem = "task '.fastclaim-3.tmp' was never published, but claimed or completed"
    assert scene.problems() == [problem]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"description": "another"}, "task 't-1' has another 'description' than was published"),
        ({"odd": None}, "task 't-1' has another 'odd' than was published"),
        ({"extra": 1}, "task 't-1' has got a field 'extra'"),
        ({"task_id": "t-2"}, "task 't-1' has another 'task_id' than was published"),
        ({"status": "claimed"}, "task 't-1' is in completed/ with status 'claimed'"),
        (
            {"claim_token": "0"},
            "task 't-1' is completed under another claim than that of agent-1",
        ),
        (
            {"claimed_by": "agent-2"},
            "task 't-1' is completed under another claim than that of agent-1",
        ),
    ],
)
def test_a_changed_task_is_found(scene, changes, problem):
    scene.rewrite("t-1", **changes)
    assert scene.problems() == [problem]


def test_a_lost_field_is_found(scene):
    task = json.loads(scene.completed("3").read_text())
    del task["nested"]
    scene.completed("3").write_text(json.dumps(task))
    assert scene.problems() == ["task '3' has lost its 'nested'"]


def test_a_changed_constraint_enforcement_is_found(scene):
    scene.rewrite("t-2", constraint_enforcement={"enabled": False})
    assert scene.problems() == [
        "task 't-2' has another 'constraint_enforcement' than was published"
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"task_id": "t-1", "desc'])
def test_a_completed_task_that_cannot_be_read_is_found(scene, content):
    scene.completed("t-1").write_text(content)
    (problem,) = scene.problems()
    assert problem.startswith("task 't-1' cannot be read any more: ")


def journalled(task_id: object, event: str, token: str = "0") -> Callable[[Any], None]:
    def plant(scene: Scene) -> None:
        with open(scene.journal("agent-2"), "a") as file:
            line = {"event": event, "task_id": task_id, "claim_token": token}
            file.write(json.dumps(line) + "\n")

    return plant


@pytest.mark.parametrize("event", ["claimed", "completed"])
def test_a_task_that_two_agents_claimed_or_completed_is_found(scene, event):
    journalled("t-1", event)(scene)
    assert scene.problems() == [
        f"task 't-1' was {event} 2 times: by agent-1, agent-2",
        "task 't-1' is completed under another claim than that of agent-2",
    ]


def test_a_journal_line_that_comes_twice_is_found(scene):
    lines = Path(scene.journal("agent-1")).read_text().splitlines(keepends=True)
    Path(scene.journal("agent-1")).write_text(lines[0] + "".join(lines))
    assert scene.problems() == ["task 't-1' was claimed 2 times: by agent-1, agent-1"]


def test_a_lost_task_that_two_agents_claimed_says_both(scene):
    scene.completed("t-1").unlink()
    journalled("t-1", "claimed")(scene)
    assert scene.problems() == [
        "task 't-1' is lost: it is in none of the directories",
        "task 't-1' was claimed 2 times: by agent-1, agent-2",
    ]


def test_a_completion_without_a_witness_is_found(scene):
    os.unlink(scene.journal("agent-1"))
    assert scene.problems() == [
        "task 't-1' is completed, but no agent's journal says that it claimed it",
        "task 't-1' is completed, but no agent's journal says that it completed it",
    ]


def test_a_claim_of_what_nobody_published_is_found(scene):
    journalled("t-9", "claimed")(scene)
    assert scene.problems() == ["task 't-9' was never published, but claimed or completed"]


def test_a_torn_journal_line_is_found(scene):
    with open(scene.journal("agent-1"), "a") as file:
        file.write('{"event": "cl')
    assert scene.problems() == ["""agent-1's journal has a broken line: '{"event": "cl'"""]


def test_a_tail_counts_completions_once_and_only_whole_lines(tmp_path):
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    tail = Tail(paths)
    assert tail.follow() == 0
    with Journal(paths[0]) as own:
        own.write("claimed", task_id="x")
        own.write("completed", task_id="x")
    assert tail.follow() == 1
    with open(paths[0], "a") as file:
        file.write('{"event": "completed", "task_id": ')
    assert tail.follow() == 1
    with open(paths[0], "a") as file:
        file.write('"y"}\n')
    assert tail.follow() == 2
    assert tail.follow() == 2


def test_a_task_that_was_claimed_before_what_blocks_it_was_done_is_noticed(
    pool: TaskPool,
) -> None:
    tasks = [{"task_id": "a"}, {"task_id": "b", "blocked_by": ["a"]}]
    pool.publish_many(tasks)
    journals: dict[str, list[dict[str, Any]]] = {"agent-1": []}
    for task_id in ("b", "a"):
        claim = pool.claim(task_id, "agent-1")
        claim.complete()
        evidence = {"task_id": task_id, "claim_token": claim.token}
        journals["agent-1"] += [{"event": event, **evidence} for event in ("claimed", "completed")]
    assert audit(pool._directories, tasks, journals) == [
        "task 'b' was claimed before 'a', which blocks it, was done"
    ]
    (pool.completed_dir / "a_complete.json").unlink()
    assert "task 'b' was done, though 'a', which blocks it, was not" in audit(
        pool._directories, tasks, journals
    )
