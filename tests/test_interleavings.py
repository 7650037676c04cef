"""Every order in which the system calls of a few processes can follow each other, deaths included.

Each scenario is explored until there is no order left that leads anywhere new (`stepping` says what
that means). ``FASTCLAIM_INTERLEAVINGS=all`` explores those that take minutes, too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from fastclaim import (
    AlreadyClaimed,
    Claim,
    ClaimLost,
    LockTimeout,
    TaskNotAvailable,
    TaskPool,
    _transition_py,
    layout,
    recovery,
)

from .memory_kernel import Kernel
from .stepping import BASE, NOW_NS, Explorer, Process, State, Tempfile, in_memory

TASK = {"task_id": "x", "description": "once"}
LONG = os.environ.get("FASTCLAIM_INTERLEAVINGS") == "all"
AN_HOUR_NS = 3600 * 10**9


class Scenario(NamedTuple):
    """Who is there at first, and what they do.

    Attributes
    ----------
    start : str
        What the task is: a method of `Pool`.
    does : tuple of str
        What each process does: methods of `Pool`.
    deaths : int
        How many of them may die.
    lock_files : bool
        Whether the original's lock files are taken.
    same_agent : bool
        Whether all claim for one agent.
    """

    start: str
    does: tuple[str, ...]
    deaths: int
    lock_files: bool = False
    same_agent: bool = False


SHORT = {
    "two claimers, no deaths": Scenario("waiting", ("completes", "releases"), 0),
    "two claimers": Scenario("waiting", ("completes", "releases"), 2),
    "two claimers with lock files": Scenario("waiting", ("completes", "completes"), 2, True),
    "three claimers, no deaths": Scenario("waiting", ("completes",) * 3, 0),
}
LONG_ONLY: dict[str, Scenario] = {}


class Pool:
    """One scenario's processes, and what must hold."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.kernel = Kernel(1 + len(scenario.does))
        self.ended_well: set[object] = set()
        Process("setup", getattr(self, scenario.start), 0).run(self.kernel)
        self.kernel.end(0)
        processes = [
            Process(f"{what}{number}", getattr(self, what), number)
            for number, what in enumerate(scenario.does, 1)
        ]
        self.explorer = Explorer(
            self.kernel,
            processes,
            scenario.deaths,
            self.check,
            self.check_end,
            "original" in scenario.does,
        )

    def pool(self) -> TaskPool:
        return TaskPool(
            BASE, durability="none", lock_files=self.scenario.lock_files, _core=_transition_py
        )

    # What the task is at first ------------------------------------------------------------------

    def waiting(self, _: Process) -> None:
        self.pool().publish(TASK)

    def of_the_dead(self, _: Process) -> None:
        pool = self.pool()
        pool.publish(TASK)
        pool.claim("x", "dead")

    # What processes do --------------------------------------------------------------------------

    def _started(self, process: Process) -> TaskPool:
        """A process that has claimed before: its owner file is there."""
        pool = self.pool()
        tasks = pool._directories.current()
        tasks.owner.ensure(tasks.path)
        process.at("started")
        return pool

    def _claim(self, process: Process, pool: TaskPool) -> Claim | None:
        agent = "same" if self.scenario.same_agent else process.name
        try:
            claim = pool.claim("x", agent, timeout=0)
        except (AlreadyClaimed, TaskNotAvailable, LockTimeout):
            return None
        process.say(holds=claim.token)
        process.at("claimed")
        process.pause()
        return claim

    def completes(self, process: Process) -> None:
        claim = self._claim(process, self._started(process))
        if claim is not None:
            with contextlib.suppress(LockTimeout):  # it goes on holding
                claim.complete(1)
                process.say(holds=None, acknowledged=True)

    def releases(self, process: Process) -> None:
        claim = self._claim(process, self._started(process))
        if claim is not None:
            process.say(holds=None)
            with contextlib.suppress(LockTimeout):
                claim.release()

    def keeps(self, process: Process) -> None:
        self._claim(process, self._started(process))

    # ----------------------------------------------------------------------------------------------

    def check(self, state: State) -> None:
        """What must hold at every moment."""
        places = [name for name in state.kernel.names if _is_task(name)]
        holders = state.said("holds")
        assert len(holders) <= 1, f"two hold it: {holders}"
        assert len(places) == 1, places
        task = _read(state.kernel.inodes[state.kernel.names[places[0]]].content)
        assert task["description"] == "once"
        for token in holders:
            assert task.get("claim_token") == token
            assert places[0].startswith(("claimed/", "completed/"))
        assert state.acknowledged <= 1
        if state.acknowledged:
            assert places[0].startswith("completed/")

    def check_end(self, state: State) -> None:
        """Everybody dies, and recovery runs: nothing may be stuck."""
        kernel = state.kernel.copy()
        for index in range(len(kernel.processes)):
            kernel.end(index)
        end = (frozenset(kernel.names.items()), frozenset(kernel.inodes.items()))
        if end in self.ended_well:
            return
        is_completed = any(name.startswith("completed/") for name in kernel.names)
        for program in (functools.partial(self._recovers, is_completed), self._cleans_up):
            Process("end", program, 0, NOW_NS + AN_HOUR_NS).run(kernel)
            kernel.end(0)
        left = [name for name in kernel.names if not name.endswith(".json")]
        assert left == []
        assert [n for n in kernel.names if _is_task(n)] == ["completed/x_complete.json"]
        self.ended_well.add(end)

    def _recovers(self, is_completed: bool, _: Process) -> None:
        pool = self.pool()
        for _ in range(2):
            pool.recover(older_than=-1.0)
        if pool.counts()["completed"] == 0:
            assert not is_completed
            pool.claim("x", "end", timeout=0).complete(1)

    def _cleans_up(self, _: Process) -> None:
        self.pool().recover()


def _is_task(name: str) -> bool:
    return name.endswith(".json")


@functools.cache
def _read(content: bytes) -> dict[str, Any]:
    return json.loads(content)


def _parameters() -> Iterator[Any]:
    long = pytest.mark.skipif(not LONG, reason="takes minutes: FASTCLAIM_INTERLEAVINGS=all")
    for name, scenario in SHORT.items():
        yield pytest.param(scenario, id=name)
    for name, scenario in LONG_ONLY.items():
        yield pytest.param(scenario, id=name, marks=long)


@pytest.mark.parametrize("scenario", list(_parameters()))
def test_in_every_order_and_death_the_task_has_one_owner_and_is_never_lost_or_stuck(
    scenario: Scenario, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.perf_counter()
    with in_memory():
        explorer = Pool(scenario).explorer
        explorer.explore()
    with capsys.disabled():
        sys.stdout.write(
            f"\n{request.node.callspec.id}: {explorer.states} states, {explorer.steps} steps,"
            f" {explorer.ends} ends, {explorer.runs} runs {time.perf_counter() - started:.1f} s"
        )
