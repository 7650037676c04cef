"""What the README shows of the command is what the command does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

from fastclaim import TaskPool

from .commands import DEADLINE_S, answer, environment, fastclaim
from .session import README, comparable, replayed, samples, written


def test_the_readmes_session_is_what_happens():
    assert comparable(written()) == comparable(replayed()), "python -m tests.session"


# What the samples name without making it.
NEEDED = """
import sys
sys.path[:] = PATH
"""
# The last sample's agent works for ever: until it is cancelled, having done all that waits.
AGENT = """
async def do(task):
    done.append(task["task_id"])

async def main():
    working = asyncio.create_task(agent(do))
    while "z-1" not in done:
        await asyncio.sleep(0.01)
    working.cancel()

done = []
asyncio.run(asyncio.wait_for(main(), 60))
"""


def test_the_readmes_samples_run_one_after_the_other(tmp_path):
    texts = [text for text in samples() if "postgresql://" not in text]
    texts = [text + AGENT if "async def agent" in text else text for text in texts]
    code = "".join(texts).replace("/tmp/agents", f"{tmp_path}/agents")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"PATH = {sys.path!r}{NEEDED}{code}"],
        env=environment(A2A_BASE_DIR=f"{tmp_path}/pool"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_how_many_tasks_there_are_is_as_the_readme_says(tmp_path):
    text = next(text for text in samples() if "pool.counts()" in text)
    said = re.search(r"pool\.counts\(\)  # (\{.*\})", text)
    pool = TaskPool(tmp_path)
    exec(text.replace("TaskPool()", "pool"), {"pool": pool})
    assert pool.counts() == json.loads(said.group(1))


def test_help_changes_nothing():
    before = README.stat().st_mtime_ns
    result = subprocess.run(
        [sys.executable, "-m", "tests.session", "--help"],
        cwd=README.parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert result.stdout.startswith("usage: python -m tests.session")
    assert README.stat().st_mtime_ns == before


def test_what_a_claim_by_its_id_looks_at_is_as_the_readme_says(tmp_path):
    pool = TaskPool(tmp_path)
    free = {"requirements": ["c"], "blocked_by": ["nothing"], "constraints": {"deadline": 1}}
    pool.publish("free", **free)
    pool.publish("late", not_before=time.time() + 1000)
    pool.publish_many([{"task_id": "k1", "exclusive": ["k"]}, {"task_id": "k2", "exclusive": "k"}])
    for task_id, status in {"free": 0, "late": 1, "k1": 0, "k2": 1}.items():
        claim = fastclaim("claim", task_id, "--agent", "x", "--wait", "0", "--pool", tmp_path)
        assert (task_id, claim.returncode) == (task_id, status)
    pool.publish("any", requirements=["c"])
    assert answer("claim", "--agent", "x", "--pool", tmp_path)["task_id"] == "any"
