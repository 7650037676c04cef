"""One agent of a demo, in a process of its own: claims and completes until nothing is left.

All agents walk one list in one order and begin a step apart, so that each task is wanted by all of
them at nearly the same time.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Final, NamedTuple

import fastclaim
from fastclaim import AlreadyClaimed, LockTimeout, TaskNotAvailable, TaskPool

from . import journal
from .exits import SYSTEM, WRONG

READY: Final = b"ready\n"
GO: Final = b"go\n"

# A listed task that nobody can claim would otherwise keep the agents running for ever.
_MAX_PASSES_IN_VAIN: Final = 3


class Orders(NamedTuple):
    """What an agent is told when it is started."""

    base_dir: str
    durability: str
    lock_files: bool
    agent_id: str
    first: int  # where in the list it begins
    debug: bool


def main() -> None:
    """Run the agent that ``sys.argv[1]`` describes.

    It says when it is ready, starts when it is told to, and ends without a word if whoever started
    it is gone by then.
    """
    orders = Orders(*json.loads(sys.argv[1]))
    try:
        _run(orders)
    except Exception as error:
        if orders.debug:
            traceback.print_exc()
        # The demo reads this, and reports it as this agent's end.
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(SYSTEM if isinstance(error, OSError) else WRONG)


def _run(orders: Orders) -> None:
    pool = TaskPool(orders.base_dir, durability=orders.durability, lock_files=orders.lock_files)
    ids = _available_ids(pool)
    first = orders.first % max(1, len(ids))
    path = journal.journal_file(orders.base_dir, orders.agent_id)
    with journal.Journal(path) as own:
        own.write(journal.READY, pid=os.getpid(), core=fastclaim.core)
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        if sys.stdin.buffer.readline() == GO:
            own.write(journal.START, at_ns=time.monotonic_ns())
            work = _Work(pool, orders.agent_id, own)
            work.until_nothing_is_left(ids[first:] + ids[:first])
            own.write(journal.END, at_ns=time.monotonic_ns(), **work.missed)


class _Work:
    def __init__(self, pool: TaskPool, agent_id: str, own: journal.Journal) -> None:
        self._pool = pool
        self._agent_id = agent_id
        self._journal = own
        self.missed = {"gone": 0, "held": 0, "timed_out": 0}

    def until_nothing_is_left(self, ids: Sequence[object]) -> None:
        in_vain = 0
        while ids and in_vain < _MAX_PASSES_IN_VAIN:
            won = sum(self._claim_and_complete(task_id) for task_id in ids)
            left = _available_ids(self._pool)
            in_vain = 0 if won or len(left) < len(ids) else in_vain + 1
            ids = left

    def _claim_and_complete(self, task_id: object) -> bool:
        started_ns = time.perf_counter_ns()
        try:
            claim = self._pool.claim(task_id, self._agent_id)
        except AlreadyClaimed:
            self.missed["held"] += 1
            return False
        except TaskNotAvailable:
            self.missed["gone"] += 1
            return False
        except LockTimeout:
            self.missed["timed_out"] += 1
            return False
        claim_ns = time.perf_counter_ns() - started_ns
        evidence = {"task_id": task_id, "claim_token": claim.token}
        self._journal.write(journal.CLAIMED, **evidence, claim_ns=claim_ns)
        claim.complete({"summary": f"done by {self._agent_id}"})
        self._journal.write(journal.COMPLETED, **evidence)
        return True


def _available_ids(pool: TaskPool) -> list[object]:
    return [task["task_id"] for task in pool.tasks()]
