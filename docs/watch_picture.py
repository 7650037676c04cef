"""Makes docs/watch.svg, a picture of `fastclaim watch`, by its own screenshot facility.

python docs/watch_picture.py        # needs fastclaim[cli]
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

from fastclaim import TaskPool
from fastclaim.cli.demo import SAMPLE
from fastclaim.cli.task_file import read_task_file
from fastclaim.cli.watch_app import WatchApp

PICTURE = Path(__file__).with_name("watch.svg")
HELD_S = {"planner": 754, "coder-1": 412, "coder-2": 188, "tester": 97, "reviewer": 31}
COMPLETED = 17
WAITING_S = 5160


def scene(base_dir: str) -> TaskPool:
    """A team at work on the sample's tasks."""
    pool = TaskPool(base_dir)
    tasks = read_task_file(SAMPLE).tasks
    pool.publish_many(tasks)
    ids = iter([task["task_id"] for task in tasks])
    for _ in range(COMPLETED):
        pool.claim(next(ids), "planner").complete({"summary": "done"})
    for agent_id, held_s in HELD_S.items():
        task_id = next(ids)
        pool.claim(task_id, agent_id)
        path = pool.claimed_dir / f"{task_id}_{agent_id}.json"
        claim = json.loads(path.read_text())
        path.write_text(json.dumps(claim | {"claimed_at": time.time() - held_s}))
    pool.claim(task_id := next(ids), "coder-1")
    pool.fail(task_id, "coder-1", "exit status 1: 3 tests failed")
    oldest_s = time.time() - WAITING_S
    os.utime(pool.available_dir / f"{next(ids)}.json", (oldest_s, oldest_s))
    return pool


async def take_picture(pool: TaskPool) -> str:
    """What the terminal shows, as SVG."""
    app = WatchApp(pool, "/tmp/agents", interval_s=60)
    async with app.run_test(size=(110, 18)) as pilot:
        await app.workers.wait_for_complete()
        await pilot.pause()
        return app.export_screenshot()


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as base_dir:
        PICTURE.write_text(asyncio.run(take_picture(scene(base_dir))))


if __name__ == "__main__":
    main()
