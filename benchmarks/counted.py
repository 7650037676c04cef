"""What `instructions.py` runs under callgrind: some operations, with a marker before each kind.

The marker is a call of getppid(): nobody else makes it, and callgrind dumps its counts there.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable

from contestants import AGENT, DESCRIPTION, REQUIREMENTS, RESULT, task_ids

from fastclaim import TaskPool

WARM_UP = 20  # caches, lazily made objects, Python's specialised instructions
KINDS = (
    "nothing",  # the loop and the marker alone
    "claim (lock files)",
    "claim (no lock files)",
    "claim_task (lock files)",
    "complete",
    "miss",
)


def main(base_dir: str, count: int) -> None:
    """Do each of `KINDS` so many times."""
    pool = TaskPool(base_dir)
    bare = TaskPool(base_dir, lock_files=False)
    tasks = iter(task_ids(4 * (count + WARM_UP)))
    for task_id in task_ids(4 * (count + WARM_UP)):
        bare.publish_task(task_id, DESCRIPTION, REQUIREMENTS)
    claims = [bare.claim(next(tasks), AGENT) for _ in range(count + WARM_UP)]
    others = iter(task_ids(count + WARM_UP, seed=2))
    verbs: tuple[Callable[[], object], ...] = (
        lambda: None,
        lambda: pool.claim(next(tasks), AGENT),
        lambda: bare.claim(next(tasks), AGENT),
        lambda: pool.claim_task(next(tasks), AGENT),
        lambda: claims.pop().complete(RESULT),
        lambda: pool.claim_task(next(others), AGENT),
    )
    gc.collect()
    gc.disable()
    for verb in verbs:
        for _ in itertools.repeat(None, WARM_UP):
            verb()
        os.getppid()
        for _ in itertools.repeat(None, count):
            verb()
        os.getppid()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
