"""One agent of a demo, in a process of its own: claims and completes until nothing is left.

All agents can do all that any task asks for and follow one order, so that each task is wanted by
all of them at nearly the same time.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import fastclaim
from fastclaim import Claim, TaskPool

from . import journal
from .exits import SYSTEM, WRONG

if TYPE_CHECKING:
    from ..literals import Durability

READY: Final = b"ready\n"
GO: Final = b"go\n"

_WAIT_S: Final = 0.05
# A task that nobody can claim would otherwise keep the agents running for ever.
_MAX_WAITS_IN_VAIN: Final = 60


class Orders(NamedTuple):
    """What an agent is told when it is started."""

    base_dir: str
    durability: Durability
    lock_files: bool
    agent_id: str
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
    capabilities = _all_capabilities(pool)
    path = journal.journal_file(orders.base_dir, orders.agent_id)
    with journal.Journal(path) as own:
        own.write(journal.READY, pid=os.getpid(), core=fastclaim.core)
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        if sys.stdin.buffer.readline() == GO:
            own.write(journal.START, at_ns=time.monotonic_ns())
            work = _Work(pool, orders.agent_id, capabilities, own)
            work.until_nothing_is_left()
            own.write(journal.END, at_ns=time.monotonic_ns(), waits=work.waits)


class _Work:
    def __init__(
        self, pool: TaskPool, agent_id: str, capabilities: list[Any], own: journal.Journal
    ) -> None:
        self._pool = pool
        self._agent_id = agent_id
        self._capabilities = capabilities
        self._journal = own
        self.waits = 0

    def until_nothing_is_left(self) -> None:
        in_vain = 0
        while in_vain < _MAX_WAITS_IN_VAIN:
            started_ns = time.perf_counter_ns()
            claim = self._pool.claim_next(self._agent_id, self._capabilities)
            claim_ns: int | None = time.perf_counter_ns() - started_ns
            if claim is None:
                before = self._pool.counts()
                if before["available"] == 0:
                    return
                # What is left is blocked by what others are doing.
                self.waits += 1
                claim = self._pool.claim_next(self._agent_id, self._capabilities, wait=_WAIT_S)
                claim_ns = None
                in_vain = in_vain + 1 if before == self._pool.counts() else 0
            if claim is not None:
                self._complete(claim, claim_ns)

    def _complete(self, claim: Claim, claim_ns: int | None) -> None:
        evidence = {"task_id": claim.task_id, "claim_token": claim.token}
        self._journal.write(journal.CLAIMED, **evidence, claim_ns=claim_ns)
        claim.complete({"summary": f"done by {self._agent_id}"})
        self._journal.write(journal.COMPLETED, **evidence)


def _all_capabilities(pool: TaskPool) -> list[Any]:
    """What the waiting tasks ask for."""
    wanted: list[Any] = []
    for task in pool.tasks():
        constraints = task.get("constraints")
        required = constraints.get("required_capabilities") if constraints else None
        for capability in [*(task.get("requirements") or ()), *(required or ())]:
            if capability not in wanted:
                wanted.append(capability)
    return wanted
