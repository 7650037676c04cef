"""Originals and ours, each in processes of its own, on one pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import TaskPool

TASKS = 200
AGENT = """
import importlib, json, logging, os, sys
kind, agent, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
logging.disable()
if kind == "original":
    from orchestration.a2a_integration import TaskPool
    pool = TaskPool()
else:
    from fastclaim import TaskPool
    core = importlib.import_module("fastclaim._transition_" + {"c": "c", "python": "py"}[kind])
    pool = TaskPool(_core=core, durability="none")
print("ready", flush=True)
sys.stdin.readline()
won = []
for number in range(tasks):
    task = pool.claim_task(f"x{number}", agent)
    if task:
        won.append(task["task_id"])
        assert task["claimed_by"] == agent
        if not pool.complete_task(task["task_id"], agent, {"by": agent}):
            won.append("not completed: " + task["task_id"])
print(json.dumps(won))
"""


def run_fleet(base: Path, kinds: list[str]) -> dict[str, list[str]]:
    """What each agent was told that it has, by agent; all start when all are ready."""
    agents = {
        f"{kind}{number}": subprocess.Popen(
            [sys.executable, "-c", AGENT, kind, f"{kind}{number}", str(TASKS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"A2A_BASE_DIR": str(base)},
        )
        for number, kind in enumerate(kinds)
    }
    for agent in agents.values():
        assert agent.stdout is not None
        assert agent.stdout.readline() == "ready\n"
    won = {}
    for agent in agents.values():
        assert agent.stdin is not None
        agent.stdin.write("go\n")
        agent.stdin.flush()
    for name, agent in agents.items():
        output, _ = agent.communicate()
        assert agent.returncode == 0
        won[name] = json.loads(output)
    return won


@pytest.mark.parametrize("publisher", ["original", "ours"])
def test_a_mixed_fleet_loses_and_doubles_nothing_on_our_side(
    make_pool: Callable[..., TaskPool],
    monkeypatch: pytest.MonkeyPatch,
    publisher: str,
    core: ModuleType,
) -> None:
    integration = pytest.importorskip("orchestration.a2a_integration")
    pool = make_pool()
    monkeypatch.setattr(integration, "A2A_BASE_DIR", str(pool.base_dir))
    publishing = integration.TaskPool() if publisher == "original" else pool
    for number in range(TASKS):
        assert publishing.publish_task(f"x{number}", "d", ["python"], {"deadline": 1e12})

    won = run_fleet(Path(pool.base_dir), ["original", core.NAME, "original", core.NAME])

    everything = {f"x{number}" for number in range(TASKS)}
    times = Counter(task for tasks in won.values() for task in tasks)
    assert set(times) == everything
    for agent, tasks in won.items():
        if not agent.startswith("original"):
            assert all(times[task] == 1 for task in tasks), agent
    completed = {path.name: json.loads(path.read_bytes()) for path in pool.completed_dir.iterdir()}
    assert set(completed) == {f"{task}_complete.json" for task in everything}
    for agent, tasks in won.items():
        if not agent.startswith("original"):
            for task in tasks:
                assert completed[f"{task}_complete.json"]["result"] == {"by": agent}
    assert pool.counts()["available"] == 0
    # An original that is told {} may keep a claim file; one of ours never does.
    assert not [path for path in pool.claimed_dir.iterdir() if "original" not in path.name]


def test_a_fleet_of_ours_claims_each_task_once(
    make_pool: Callable[..., TaskPool], core: ModuleType
) -> None:
    pool = make_pool()
    pool.publish_many({"task_id": f"x{number}"} for number in range(TASKS))
    won = run_fleet(Path(pool.base_dir), [core.NAME] * 6)
    assert Counter(task for tasks in won.values() for task in tasks) == {
        f"x{number}": 1 for number in range(TASKS)
    }
    assert pool.counts() == {"available": 0, "claimed": 0, "completed": TASKS, "failed": 0}
    assert list(pool.available_dir.iterdir()) == list(pool.claimed_dir.iterdir()) == []
