"""A fleet that is killed at random, for a while: nothing is lost, and nothing is done twice.

Tasks are "ours", for our agents alone; for "any" agent, also originals; and published "again" and
again while they are claimed.

FASTCLAIM_SOAK_S=600 lets it run for ten minutes; CI=true for one; by default it is a few seconds.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fastclaim import TaskPool

from .conftest import CORES

SOAK_S = float(os.environ.get("FASTCLAIM_SOAK_S") or (60 if os.environ.get("CI") == "true" else 5))
SEED = 20
OURS, ORIGINALS = 12, 2  # and a publisher and a recoverer: sixteen processes

# Each line of its log is one that it has been told: a token, or a completion that has returned.
AGENT = """
import importlib, json, os, random, sys, time
kind, agent, log = sys.argv[1:]
log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
def say(*words):
    os.write(log, (json.dumps(words) + "\\n").encode())
def original():
    import logging
    from orchestration import a2a_integration as a2a
    logging.disable()
    pool = a2a.TaskPool()
    while True:
        for task in pool.get_available_tasks():
            if task["task_id"].startswith("any") and pool.claim_task(task["task_id"], agent):
                pool.complete_task(task["task_id"], agent, {"by": agent})
        time.sleep(0.01)
def ours():
    from fastclaim import TaskExists, TaskPool
    core = importlib.import_module("fastclaim._transition_" + kind)
    pool = TaskPool(_core=core, durability="none", max_attempts=1000)
    while True:
        claim = pool.claim_next(agent, order="any", wait=0.2)
        if claim is None:
            continue
        say("claimed", claim.task_id, claim.token)
        luck = random.random()
        try:
            if luck < 0.1:
                claim.fail("bad luck")
                continue
            if luck < 0.2:
                claim.release()
                continue
        except TaskExists:
            assert claim.task_id.startswith("again")
        say("completing", claim.task_id, claim.task.get("version"))
        claim.complete({"token": claim.token, "text": "r" * random.choice((1, 2000))})
        say("completed", claim.task_id, claim.token)
def publisher():
    from fastclaim import TaskPool
    pool = TaskPool(durability="none")
    number = 0
    while True:
        if pool.counts()["available"] < 40:
            for kind in ("ours", "any"):
                say("publishing", f"{kind}{agent}-{number}", "")
                pool.publish(f"{kind}{agent}-{number}")
                say("published", f"{kind}{agent}-{number}", "")
            # Each replaces the one before it while agents are at it.
            for version in range(4):
                pool.publish(f"again{agent}-{number}", if_exists="replace", version=version)
                say("republished", f"again{agent}-{number}", version)
            number += 1
        time.sleep(0.002)
def recoverer():
    from fastclaim import TaskPool
    pool = TaskPool(durability="none", max_attempts=1000)
    while True:
        pool.recover()
        time.sleep(0.01)
{"original": original, "publisher": publisher, "recoverer": recoverer}.get(kind, ours)()
"""


class Fleet:
    """Sixteen processes, each of which is started anew, under another name, when it was killed."""

    def __init__(self, base: Path, logs: Path, core: str) -> None:
        self.logs = logs
        logs.mkdir()
        self.environment = os.environ | {"A2A_BASE_DIR": str(base)}
        kinds = [core] * OURS + ["original"] * ORIGINALS + ["publisher", "recoverer"]
        self.started = 0
        self.processes = [(kind, self._start(kind)) for kind in kinds]

    def _start(self, kind: str) -> subprocess.Popen[bytes]:
        self.started += 1
        name = f"{kind}{self.started}"
        command = [sys.executable, "-c", AGENT, kind, name, str(self.logs / name)]
        return subprocess.Popen(command, env=self.environment)

    def check(self) -> None:
        """None may end by itself, as an agent does whose claim was taken away."""
        ended = [kind for kind, process in self.processes if process.poll() is not None]
        assert not ended, f"{ended} have ended by themselves"

    def kill_one(self, chance: random.Random) -> None:
        """One of ours, the publisher or the recoverer; an original's death may lose its task."""
        place = chance.choice(
            [i for i, (kind, _) in enumerate(self.processes) if kind != "original"]
        )
        kind, process = self.processes[place]
        process.kill()
        process.wait()
        self.processes[place] = kind, self._start(kind)

    def stop(self) -> None:
        for _, process in self.processes:
            process.kill()
        for _, process in self.processes:
            process.wait()

    def said(self, what: str) -> list[tuple[str, Any]]:
        """Task, and token or version, of each such line in the logs."""
        lines = [
            json.loads(line) for log in self.logs.iterdir() for line in log.read_text().splitlines()
        ]
        return [(task, token) for word, task, token in lines if word == what]


@pytest.mark.parametrize(
    "core", [pytest.param("c", marks=CORES[0].marks), pytest.param("py", id="python")]
)
def test_a_fleet_that_is_killed_at_random_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, core: str
) -> None:
    pytest.importorskip("orchestration.a2a_integration")
    pool = TaskPool(tmp_path / "pool")
    fleet = Fleet(tmp_path / "pool", tmp_path / "logs", core)
    chance = random.Random(SEED)
    kills = 0
    try:
        while not any(pool.completed_dir.iterdir()):  # all are at work, however slow the machine is
            fleet.check()
            time.sleep(0.05)
        end_s = time.monotonic() + SOAK_S / 2  # two cores
        while time.monotonic() < end_s:
            time.sleep(chance.uniform(0.02, 0.2))
            fleet.check()
            fleet.kill_one(chance)
            kills += 1
        fleet.check()
    finally:
        fleet.stop()
    pool.recover()
    assert not pool.recover()

    tasks = [
        task
        for state in ("available", "claimed", "completed", "failed")
        for task in pool.tasks(state)
        # An original that died in the middle leaves a claim of what has been returned since.
        if state != "claimed" or "claim_token" in task or not task["task_id"].startswith("any")
    ]
    places = Counter(task["task_id"] for task in tasks)
    published = {task for task, _ in fleet.said("published")}
    begun = {task for task, _ in fleet.said("publishing")}
    completed = {task["task_id"]: task["result"] for task in pool.tasks("completed")}
    acknowledged = fleet.said("completed")
    print(
        f"{core}: {kills} kills, {len(published)} tasks published, {len(completed)} completed,"
        f" {pool.counts()['available']} waiting, {pool.counts()['failed']} failed"
    )
    assert completed
    assert len(acknowledged) == len(set(acknowledged))
    once = [(task, token) for task, token in acknowledged if not task.startswith("again")]
    assert len(once) == len({task for task, _ in once})
    for task, token in once:
        assert completed[task].get("token") == token or task.startswith("any"), task
    ours = {task for task in published if task.startswith("ours")}
    assert not ours - set(places)
    assert not {task for task in places if not task.startswith("again")} - begun
    assert all(places[task] == 1 for task in ours)
    # What is in completed/ may be an earlier version, whose completion came last.
    newest: dict[str, int] = {}
    documents = ((task["task_id"], task["version"]) for task in tasks if "version" in task)
    for task, version in (*fleet.said("completing"), *documents):
        if version is not None:
            newest[task] = max(version, newest.get(task, 0))
    for task, version in fleet.said("republished"):
        assert newest.get(task, -1) >= version, (task, version)
