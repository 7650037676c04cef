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
    TaskExists,
    TaskNotAvailable,
    TaskPool,
    _transition_py,
    layout,
    recovery,
)
from orchestration import a2a_integration as integration

from .memory_kernel import Kernel
from .stepping import (
    BASE,
    NOW_NS,
    TASKS,
    Explorer,
    Process,
    State,
    _File,
    Tempfile,
    in_memory,
    _running,
)

FIRST, SECOND = "what to do", "what to do instead"
TASK = {"task_id": "x", "description": FIRST}
LONG = os.environ.get("FASTCLAIM_INTERLEAVINGS") == "all"
AN_HOUR_NS = 3600 * 10**9
WAITING, COMPLETED = "available/x.json", "completed/x_complete.json"
BY_COPY = "an original's copy"


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
    "two claimers whose owner files are not there yet": Scenario(
        "waiting", ("begins", "begins"), 2
    ),
    "two claimers of a foreign task": Scenario("foreign", ("completes", "releases"), 1),
    "two claimers of a foreign task with lock files": Scenario(
        "foreign", ("completes", "releases"), 1, True
    ),
    "two claimers of one agent's": Scenario("waiting", ("completes", "releases"), 2, False, True),
    "two claimers of a dead owner's": Scenario("of_the_dead", ("completes", "completes"), 2),
    "a claimer that fails and one that completes": Scenario("waiting", ("fails", "completes"), 2),
    "a claimer and a recoverer": Scenario("waiting", ("completes", "recovers"), 2),
    "the same with lock files": Scenario("waiting", ("completes", "recovers"), 2, True),
    "the same, a dead owner's": Scenario("of_the_dead", ("completes", "recovers"), 2),
    "the same, half a claim": Scenario("half_claimed", ("completes", "recovers"), 2),
    "the same, half a completion": Scenario("half_completed", ("completes", "recovers"), 2),
    "the same, an old lock file": Scenario("locked_long_ago", ("completes", "recovers"), 2, True),
    "the same, foreign": Scenario("foreign", ("completes", "recovers"), 2),
    "two recoverers of a dead owner's": Scenario("of_the_dead", ("recovers",) * 2, 2),
    "a late completion and a recoverer": Scenario("expired", ("completes_late", "recovers"), 2),
    "a claimer and an original": Scenario("waiting", ("completes", "original"), 2, True),
    "a claimer and an original, foreign": Scenario("foreign", ("completes", "original"), 2, True),
    "a claimer and a publication": Scenario("waiting", ("completes", "republishes"), 2),
    "a claimer that releases, and a publication": Scenario(
        "waiting", ("releases_or_finds_another", "republishes"), 2
    ),
    "three claimers, no deaths": Scenario("waiting", ("completes",) * 3, 0),
}
LONG_ONLY = {
    "three claimers": Scenario("waiting", ("completes",) * 3, 2),
    "three claimers with lock files, no deaths": Scenario("waiting", ("completes",) * 3, 0, True),
    "three claimers, one releases": Scenario("waiting", ("completes", "completes", "releases"), 1),
    "three claimers of a foreign task": Scenario("foreign", ("completes",) * 3, 1),
    "two claimers and a recoverer": Scenario("waiting", ("completes", "completes", "recovers"), 1),
    "the same, one releases": Scenario("waiting", ("completes", "releases", "recovers"), 1),
    "the same with lock files": Scenario(
        "waiting", ("completes", "completes", "recovers"), 1, True
    ),
    "the same, foreign": Scenario("foreign", ("completes", "completes", "recovers"), 1),
    "the same, a dead owner's": Scenario("of_the_dead", ("completes", "completes", "recovers"), 1),
    "the same, half a claim": Scenario("half_claimed", ("completes", "completes", "recovers"), 1),
    "the same, half a completion": Scenario(
        "half_completed", ("completes", "completes", "recovers"), 1
    ),
    "two claimers and an original": Scenario(
        "waiting", ("completes", "completes", "original"), 1, True
    ),
    "a claimer and two originals": Scenario(
        "waiting", ("completes", "original", "original"), 1, True
    ),
    "a claimer, a recoverer and an original": Scenario(
        "waiting", ("completes", "recovers", "original"), 1, True
    ),
}


class Pool:
    """One scenario's processes, and what must hold."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.kernel = Kernel(1 + len(scenario.does))
        self.has_originals = "original" in scenario.does
        self.publications = 1 + scenario.does.count("republishes")
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
            links_change=self.has_originals or self.publications > 1,
        )

    def pool(self) -> TaskPool:
        return TaskPool(
            BASE, durability="none", lock_files=self.scenario.lock_files, _core=_transition_py
        )

    # What the task is at first ------------------------------------------------------------------

    def waiting(self, _: Process) -> None:
        self.pool().publish(TASK)

    def foreign(self, _: Process) -> None:
        descriptor = os.open(f"{TASKS}/available/x.json", os.O_RDWR | os.O_CREAT)
        os.pwrite(descriptor, json.dumps(TASK | {"status": "available"}, indent=2).encode(), 0)
        os.utime(descriptor, ns=(NOW_NS - 1, NOW_NS - 1))

    def locked_long_ago(self, process: Process) -> None:
        self.waiting(process)
        descriptor = os.open(f"{TASKS}/available/x.lock", os.O_RDWR | os.O_CREAT)
        os.utime(descriptor, ns=(NOW_NS - AN_HOUR_NS, NOW_NS - AN_HOUR_NS))

    def of_the_dead(self, process: Process) -> None:
        self.waiting(process)
        self.pool().claim("x", "dead")

    def half_claimed(self, process: Process) -> None:
        self.waiting(process)
        os.rename(f"{TASKS}/available/x.json", f"{TASKS}/claimed/x_dead.json")

    def half_completed(self, process: Process) -> None:
        self.of_the_dead(process)
        self.pool().complete("x", "dead", 1)
        os.rename(f"{TASKS}/completed/x_complete.json", f"{TASKS}/claimed/x_dead.json")

    def expired(self, process: Process) -> None:
        self.waiting(process)
        self.late = self.pool().claim("x", "late", lease_s=-1.0).token

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
                process.say(holds=None, acknowledged="completed")

    def releases(self, process: Process) -> None:
        claim = self._claim(process, self._started(process))
        if claim is not None:
            self._gives_up(process, claim, claim.release)

    def begins(self, process: Process) -> None:
        pool = self.pool()
        process.at("started")
        self._claim(process, pool)

    def releases_or_finds_another(self, process: Process) -> None:
        claim = self._claim(process, self._started(process))
        if claim is not None:
            with contextlib.suppress(TaskExists):
                self._gives_up(process, claim, claim.release)

    def fails(self, process: Process) -> None:
        claim = self._claim(process, self._started(process))
        if claim is not None:
            self._gives_up(process, claim, lambda: claim.fail("it did not work"))

    def _gives_up(self, process: Process, claim: Claim, end: Callable[[], Any]) -> None:
        process.say(holds=None)  # by the time that it has returned, others may
        try:
            end()
        except LockTimeout:
            process.say(holds=claim.token)

    def keeps(self, process: Process) -> None:
        self._claim(process, self._started(process))

    def completes_late(self, process: Process) -> None:
        pool = self.pool()
        process.at("started")
        with contextlib.suppress(ClaimLost, LockTimeout):
            pool.complete("x", "late", 1, token=self.late)
            process.say(acknowledged="completed")

    def recovers(self, process: Process) -> None:
        pool = self.pool()
        process.at("started")
        pool.recover()

    def republishes(self, process: Process) -> None:
        pool = self.pool()
        process.at("started")
        pool.publish(TASK | {"description": SECOND}, if_exists="replace")
        process.say(acknowledged="published")

    def original(self, process: Process) -> None:
        pool = integration.TaskPool()
        process.at("started")
        if pool.claim_task("x", process.name, timeout=0):
            process.say(holds=BY_COPY)

    # ----------------------------------------------------------------------------------------------

    def check(self, state: State) -> None:
        """What must hold at every moment."""
        names = {name for name in state.kernel.names if name.endswith(layout.TASK_SUFFIX)}
        tasks = {name: _read(state.kernel.content(name)) for name in names}
        for name, task in tasks.items():
            if name.startswith("available/"):
                assert self.has_originals or "claimed_by" not in task
            elif name == COMPLETED:
                assert (task["status"], task["result"]) == ("completed", 1)
        self._check_lost_and_doubled(state, [task["description"] for task in tasks.values()])
        holders = state.said("holds")
        held = [
            task["description"]
            for name, task in tasks.items()
            if task.get("claim_token") in holders and not name.startswith("available/")
        ]
        assert len(held) == len(holders) - holders.count(BY_COPY), f"{holders} hold {held}"
        assert len(set(held)) == len(held) and len(holders) <= self.publications, holders
        assert state.acknowledged.count("completed") <= self.publications
        assert "completed" not in state.acknowledged or COMPLETED in names

    def _check_lost_and_doubled(self, state: State, found: list[str]) -> None:
        if self.has_originals:  # they claim by a copy, and then unlink what they have copied
            assert found
        elif self.publications == 1:
            assert found == [FIRST]
        else:
            assert len(set(found)) == len(found)
            assert found if "published" not in state.acknowledged else SECOND in found

    def check_end(self, state: State) -> None:
        """Everybody dies, and recovery runs: nothing may be stuck."""
        kernel = state.kernel.copy()
        for index in range(len(kernel.processes)):
            kernel.end(index)
        end = (frozenset(kernel.names.items()), frozenset(kernel.inodes.items()))
        if end in self.ended_well:
            return
        for program in (self._recovers, self._recovers, self._cleans_up):
            Process("end", program, 0, NOW_NS + AN_HOUR_NS).run(kernel)
            kernel.end(0)
        left = {name for name in kernel.names if not name.startswith("claimed/tmp")}
        assert left == {COMPLETED}, left
        self.ended_well.add(end)

    def _recovers(self, _: Process) -> None:
        pool = self.pool()
        for _ in range(2):
            pool.recover(older_than=-1.0)
        if os.path.exists(f"{TASKS}/{WAITING}"):
            pool.claim("x", "end", timeout=0).complete(1)

    def _cleans_up(self, _: Process) -> None:
        self.pool().recover()


@functools.cache
def _read(content: bytes) -> dict[str, Any]:
    return json.loads(content)


class Milestone(NamedTuple):
    """A function, and all that a process knows when it comes to it, as far as that matters.

    Beyond what `stepping` adds, and what the process knows from the beginning.
    """

    of: type
    function: str
    known: Callable[..., tuple[Any, ...]]


MILESTONES = [
    Milestone(TaskPool, "_look_after_dead_owners", lambda pool: ()),
    Milestone(TaskPool, "_claim_of_before", lambda *_: ()),
    Milestone(
        recovery._Recovery,
        "forget",
        lambda a_pass, paths: (paths, a_pass._unsettled, bool(a_pass.report)),
    ),
    *(
        Milestone(
            recovery._Recovery,
            function,
            lambda a_pass: (
                a_pass._unsettled,
                frozenset(a_pass._alive.items()),
                frozenset(a_pass._claimed_by_originals),
            ),
        )
        for function in ("waiting_tasks", "given_up_tasks", "litter")
    ),
]


def _telling(milestone: Milestone) -> Callable[..., Any]:
    function = getattr(milestone.of, milestone.function)

    def tell(self: Any, *arguments: Any) -> Any:
        arguments = tuple(map(tuple, arguments)) if milestone.function == "forget" else arguments
        _running().at((milestone.function, *milestone.known(self, *arguments)))
        return function(self, *arguments)

    return tell


def explored(
    scenario: Scenario, mutate: Callable[[pytest.MonkeyPatch], None] = lambda _: None
) -> Explorer:
    """Explore a scenario, with the code under test as it is or changed by `mutate`."""
    with in_memory() as patch:
        for name, value in (("A2A_BASE_DIR", BASE), ("tempfile", Tempfile()), ("open", _File)):
            patch.setattr(integration, name, value, raising=False)
        for milestone in MILESTONES:
            patch.setattr(milestone.of, milestone.function, _telling(milestone))
        mutate(patch)
        explorer = Pool(scenario).explorer
        explorer.explore()
        return explorer


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
    explorer = explored(scenario)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{request.node.callspec.id}: {explorer.states} states, {explorer.steps} steps,"
            f" {explorer.ends} ends, {explorer.runs} runs {time.perf_counter() - started:.1f} s"
        )
