"""Every order in which the system calls of a few processes can follow each other, deaths included.

The Python core and all above it run as they are, on files in memory. A scenario is explored until
there is no order left that leads anywhere new; `stepping` says what that means. Those of LONG take
minutes together: ``FASTCLAIM_INTERLEAVINGS=all pytest -o faulthandler_timeout=0``.

Not explored are, beyond what `stepping.kernel` leaves out:

 - a reader that sees half of a write: a read and a write of a few hundred bytes are one step each;
 - a directory that changes while it is listed, which takes more names than one call gives;
 - the reuse of an inode's number, but for that by the process that had it first;
 - more than `calls.TRIES` tries of whoever waits for a lock, within one call of the core (in LONG,
   where three claim or recover, one) and after it, and a clock that goes on;
 - two claimers and a recoverer with a dead process's claim, or with a foreign task and a death:
   that came to no end yet;
 - a publication while an original claims, which no rule of ours can mend (docs/design.md).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from orchestration import a2a_integration as integration

from fastclaim import (
    AlreadyClaimed,
    Claim,
    ClaimLost,
    LockTimeout,
    TaskExists,
    TaskNotAvailable,
    TaskPool,
    _core,
    _transition_py,
    layout,
    owners,
    recovery,
)
from fastclaim.locked_inode import LockedInode

from .stepping.calls import BASE, TASKS, File, Tempfile, in_memory
from .stepping.explorer import Explorer, State
from .stepping.kernel import Kernel
from .stepping.process import NOW_NS, Process, at

FIRST, SECOND = "what to do", "what to do instead"
TASK = {"task_id": "x", "description": FIRST}
AN_HOUR_NS = 3600 * 10**9
WAITING, COMPLETED = "available/x.json", "completed/x_complete.json"
SAME_AGENT = "agent"
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
    linked : bool
        Whether they are links to inodes that the processes keep flocked.
    same_agent : bool
        Whether all claim for one agent.
    lists_backwards : bool
        Whether directories give their names from z to a.
    has_missed : bool
        Whether the processes have come too late before: they ask all owners then.
    """

    start: str
    does: tuple[str, ...]
    deaths: int
    lock_files: bool = False
    linked: bool = False
    same_agent: bool = False
    lists_backwards: bool = False
    has_missed: bool = False

    def __str__(self) -> str:
        more = [name for name in self._fields[3:] if getattr(self, name)]
        return " ".join([f"{self.start}:", *self.does, f"{self.deaths} deaths", *more])


SHORT = [
    Scenario("waiting", ("completes", "releases"), 2),
    Scenario("waiting", ("completes", "completes"), 2, lock_files=True),
    Scenario("waiting", ("completes", "releases"), 2, lock_files=True, linked=True),
    Scenario("waiting", ("completes", "releases"), 2, same_agent=True),
    Scenario("waiting", ("completes", "fails"), 2),
    Scenario("waiting", ("begins", "begins"), 2),
    Scenario("foreign", ("completes", "releases"), 2),
    Scenario("foreign", ("completes", "releases"), 2, lock_files=True),
    Scenario("of_the_dead", ("completes", "completes"), 2),
    Scenario("waiting", ("completes", "recovers"), 2),
    Scenario("waiting", ("completes", "recovers"), 2, lock_files=True),
    Scenario("waiting", ("completes", "recovers"), 2, lock_files=True, linked=True),
    Scenario("locked_long_ago", ("completes", "recovers"), 2, lock_files=True),
    Scenario("foreign", ("completes", "recovers"), 2),
    Scenario("of_the_dead", ("completes", "recovers"), 2),
    Scenario("of_the_dead", ("completes", "recovers"), 2, lists_backwards=True),
    Scenario("half_claimed", ("completes", "recovers"), 2),
    Scenario("half_completed", ("completes", "recovers"), 2),
    Scenario("of_the_dead", ("recovers", "recovers"), 2),
    Scenario("expired", ("completes_late", "recovers"), 2),
    Scenario("waiting", ("completes", "original"), 2, lock_files=True),
    Scenario("waiting", ("completes", "original"), 2, lock_files=True, linked=True),
    Scenario("foreign", ("completes", "original"), 2, lock_files=True),
    Scenario("waiting", ("completes", "republishes"), 2),
    Scenario("waiting", ("releases", "republishes"), 2),
    Scenario("waiting", ("completes", "completes", "completes"), 0, has_missed=True),
]
LONG = [
    Scenario("of_the_dead", ("completes", "completes"), 2, has_missed=True),
    Scenario("of_the_dead", ("completes", "recovers"), 2, has_missed=True),
    Scenario("waiting", ("completes", "completes", "completes"), 2),
    Scenario("waiting", ("completes", "completes", "completes"), 1, lock_files=True),
    Scenario("waiting", ("completes", "completes", "releases"), 1),
    Scenario("foreign", ("completes", "completes", "completes"), 1),
    Scenario("waiting", ("completes", "completes", "recovers"), 1),
    Scenario("waiting", ("completes", "releases", "recovers"), 1),
    Scenario("waiting", ("completes", "completes", "recovers"), 1, lock_files=True),
    Scenario("foreign", ("completes", "completes", "recovers"), 0),
    Scenario("half_claimed", ("completes", "completes", "recovers"), 1),
    Scenario("half_completed", ("completes", "completes", "recovers"), 1),
    Scenario("expired", ("completes_late", "completes", "recovers"), 1, same_agent=True),
    Scenario("waiting", ("completes", "completes", "republishes"), 1),
    Scenario("waiting", ("completes", "recovers", "republishes"), 1),
    Scenario("waiting", ("completes", "completes", "original"), 1, lock_files=True),
    Scenario("waiting", ("completes", "releases", "original"), 0, lock_files=True),
    Scenario("waiting", ("completes", "original", "original"), 1, lock_files=True),
    Scenario("waiting", ("completes", "recovers", "original"), 1, lock_files=True),
]


class Pool:
    """One scenario's processes, and what must hold."""

    def __init__(self, scenario: Scenario, call_by_call: bool = False) -> None:
        self.scenario = scenario
        self.kernel = Kernel(1 + len(scenario.does), scenario.lists_backwards)
        self.has_originals = "original" in scenario.does
        self.publications = 1 + scenario.does.count("republishes")
        self.ends: set[object] = set()
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
            # A sweeper may unlink the name of a temporary file after what it swept was exchanged.
            links_change=self.has_originals
            or self.publications > 1
            or (scenario.start == "foreign" and "recovers" in scenario.does),
            call_by_call=call_by_call,
        )

    def pool(self) -> TaskPool:
        lock_files = self.scenario.lock_files
        pool = TaskPool(BASE, durability="none", lock_files=lock_files, _core=_transition_py)
        pool._has_missed = self.scenario.has_missed
        return pool

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
        self.late = self.pool().claim("x", SAME_AGENT, lease_s=-1.0).token

    # What processes do --------------------------------------------------------------------------

    def _started(self, process: Process) -> TaskPool:
        """A process that has claimed before: its owner file is there."""
        pool = self.pool()
        tasks = pool._directories.current()
        tasks.owner.ensure(tasks.path)
        if self.scenario.linked:
            tasks.locked_inode = LockedInode(tasks.path)
        process.at("started")
        return pool

    def _claim(self, process: Process, pool: TaskPool) -> Claim | None:
        agent = SAME_AGENT if self.scenario.same_agent else process.name
        try:
            claim = pool.claim("x", agent, timeout=0)
        except (AlreadyClaimed, TaskNotAvailable, LockTimeout):
            return None
        process.say(holds=claim.token)
        process.at("claimed")
        process.pause()
        return claim

    def completes(self, process: Process) -> None:
        self._completes(process, self._started(process))

    def begins(self, process: Process) -> None:
        pool = self.pool()
        process.at("started")
        self._completes(process, pool)

    def _completes(self, process: Process, pool: TaskPool) -> None:
        claim = self._claim(process, pool)
        if claim is None:
            return
        try:
            claim.complete(1)
        except LockTimeout:
            return  # it goes on holding
        except ClaimLost as lost:
            raise AssertionError("a live process has lost its claim") from lost
        process.say(holds=None, acknowledged="completed")

    def releases(self, process: Process) -> None:
        claim = self._claim(process, self._started(process))
        if claim is not None:
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
        except TaskExists:
            assert self.publications > 1
            process.say(holds=claim.token)

    def keeps(self, process: Process) -> None:
        self._claim(process, self._started(process))

    def completes_late(self, process: Process) -> None:
        pool = self.pool()
        process.at("started")
        with contextlib.suppress(ClaimLost, LockTimeout):
            pool.complete("x", SAME_AGENT, 1, token=self.late)
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
                assert (task["status"], task.get("result")) == ("completed", 1)
        self._check_lost_and_doubled(state, [task["description"] for task in tasks.values()])
        holders = state.said("holds")
        held = [
            task["description"]
            for name, task in tasks.items()
            if task.get("claim_token") in holders
            and not name.startswith("available/")
            # An original copies whatever it reads, the token of a completion included.
            and not f"{task['claimed_by']}".startswith("original")
        ]
        # The completion of one publication takes the place of the other's.
        overwritten = self.publications > 1 and COMPLETED in names
        missing = len(holders) - holders.count(BY_COPY) - len(held)
        assert missing in (0, int(overwritten)), f"{holders} hold {held}"
        assert len(set(held)) == len(held)
        assert len(holders) <= self.publications, holders
        assert state.acknowledged.count("completed") <= self.publications
        if "completed" in state.acknowledged:
            assert COMPLETED in names
            assert self.publications > 1 or not holders, f"{holders} hold what was completed"

    def _check_lost_and_doubled(self, state: State, found: list[str]) -> None:
        if self.has_originals:  # they claim by a copy, and then unlink what they have copied
            assert found
        elif self.publications == 1:
            assert found == [FIRST]
        else:
            assert len(set(found)) == len(found)
            assert found
            # Its completion may have been replaced by the other's.
            is_replaced = COMPLETED in state.kernel.names
            assert is_replaced or "published" not in state.acknowledged or SECOND in found

    def check_end(self, state: State) -> None:
        """Everybody dies, and recovery runs: nothing may be stuck."""
        kernel = state.kernel.copy()
        files = (frozenset(kernel.names.items()), frozenset(kernel.inodes.items()))
        self.ends.add((files, state.acknowledged, tuple(state.said("holds"))))
        for index in range(len(kernel.processes)):
            kernel.end(index)
        is_completed = (
            "completed" in state.acknowledged
            and self.publications == 1
            and WAITING not in kernel.names
        )
        end = (
            is_completed,
            frozenset(kernel.names.items()),
            frozenset(kernel.inodes.items()),
        )
        if end in self.ended_well:
            return
        self._run(kernel, self._recovers)
        assert not is_completed or WAITING not in kernel.names, "what was completed comes back"
        for program in (self._goes_on, self._goes_on, self._recovers):
            self._run(kernel, program)
        left = {name for name in kernel.names if not name.startswith("claimed/tmp")}
        assert left == {COMPLETED}, left
        self.ended_well.add(end)

    def _run(self, kernel: Kernel, program: Callable[[Process], None]) -> None:
        Process("end", program, 0, NOW_NS + AN_HOUR_NS).run(kernel)
        kernel.end(0)

    def _recovers(self, _: Process) -> None:
        pool = self.pool()
        for _ in range(2):
            pool.recover()

    def _goes_on(self, process: Process) -> None:
        self._recovers(process)
        pool = self.pool()
        if self.has_originals:
            recovery.recover(
                pool._directories, -1.0, False, None
            )  # their claims are bound to no process
        if os.path.exists(f"{TASKS}/{WAITING}"):
            pool.claim("x", "end", timeout=0).complete(1)


@functools.cache
def _read(content: bytes) -> dict[str, Any]:
    return json.loads(content)


class Mutation(NamedTuple):
    """Some lines of a function, and what stands there instead."""

    of: Any
    function: str
    lines: str
    instead: str

    def make(self, patch: pytest.MonkeyPatch) -> None:
        function = getattr(self.of, self.function)
        source = textwrap.dedent(inspect.getsource(function))
        assert self.lines in source
        made: dict[str, Any] = {}
        exec(source.replace(self.lines, self.instead), function.__globals__, made)
        patch.setattr(self.of, self.function, made[self.function])


class Milestone(NamedTuple):
    """A function, and all that a process knows when it comes to it, as far as that matters.

    Beyond what `stepping` adds, and what the process knows from the beginning.
    """

    of: type
    function: str
    known: Callable[..., tuple[Any, ...]]


MILESTONES = [
    Milestone(TaskPool, "_bring_back", lambda pool, _: (pool._has_missed,)),
    Milestone(TaskPool, "_look_after_dead_owners", lambda pool, *_: ()),
    Milestone(TaskPool, "_claim_of_before", lambda *_: ()),
    Milestone(
        recovery._Recovery,
        "forget_what_has_ended",
        lambda a_pass: (*a_pass.dead, a_pass.unsettled, bool(a_pass.report)),
    ),
    *(
        Milestone(
            recovery._Recovery,
            function,
            lambda a_pass: (
                *a_pass.dead,
                a_pass.unsettled,
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
        at(milestone.function, *milestone.known(self, *arguments))
        return function(self, *arguments)

    return tell


def explored(scenario: Scenario, *mutations: Mutation, call_by_call: bool = False) -> Pool:
    """Explore a scenario, the code under test being as it is but for some mutations."""
    with in_memory() as patch:
        for name, value in (("A2A_BASE_DIR", BASE), ("tempfile", Tempfile()), ("open", File)):
            patch.setattr(integration, name, value, raising=False)
        for milestone in () if call_by_call else MILESTONES:
            patch.setattr(milestone.of, milestone.function, _telling(milestone))
        if scenario in LONG and len(scenario.does) > 2:
            patch.setattr(_core.claim, "_TURNS", 1)  # two processes show what more of them come to
        for mutation in mutations:
            mutation.make(patch)
        pool = Pool(scenario, call_by_call)
        pool.explorer.explore()
        return pool


def _parameters() -> Iterator[Any]:
    is_long = os.environ.get("FASTCLAIM_INTERLEAVINGS") == "all"
    long = pytest.mark.skipif(not is_long, reason="takes minutes: FASTCLAIM_INTERLEAVINGS=all")
    for scenario in SHORT:
        yield pytest.param(scenario, id=f"{scenario}")
    for scenario in LONG:
        yield pytest.param(scenario, id=f"{scenario}", marks=long)


@pytest.mark.parametrize("scenario", list(_parameters()))
def test_in_every_order_and_death_the_task_has_one_owner_and_is_never_lost_or_stuck(
    scenario: Scenario, capsys: pytest.CaptureFixture[str]
) -> None:
    explorer = explored(scenario).explorer
    assert explorer.ends > 0
    with capsys.disabled():
        sys.stdout.write(
            f"\n{scenario}: {explorer.states} states, {explorer.steps} steps,"
            f" {explorer.ends} ends, {explorer.runs} runs"
        )


@pytest.mark.parametrize(
    ("does", "lock_files"),
    [
        (("completes", "releases"), False),
        (("completes", "recovers"), False),
        (("completes", "original"), True),
    ],
)
def test_no_end_is_missed_because_calls_are_made_at_once(
    does: tuple[str, ...], lock_files: bool
) -> None:
    scenario = Scenario("waiting", does, 1, lock_files)
    assert explored(scenario).ends == explored(scenario, call_by_call=True).ends


BROKEN = {
    "the task is not flocked": (
        Scenario("waiting", ("completes", "recovers"), 0),
        Mutation(
            _core.hold,
            "hold_once",
            'if not try_flock(step.open["task"]):',
            "if False:",
        ),
    ),
    "what was moved is not compared": (
        Scenario("waiting", ("completes", "republishes"), 0),
        Mutation(
            _core.claim,
            "move",
            "if outcome != DONE:",
            "if True:",
        ),
    ),
    "a claim stamps, then moves": (
        Scenario("waiting", ("completes", "completes"), 1),
        Mutation(
            _core.claim,
            "claim_proven",
            "outcome = move(step, to.path, to.replace)",
            "put_stamp(step, stamp, mtime_ns, 0); outcome = move(step, to.path, to.replace)",
        ),
    ),
    "a completion moves, then stamps": (
        Scenario("waiting", ("completes", "completes"), 1),
        Mutation(
            _core.finish,
            "finish_in_place",
            "        put_stamp(step, stamp, mtime_ns, to.sync)\n",
            "        finish_move(step, to); put_stamp(step, stamp, mtime_ns, 0)\n",
        ),
    ),
    "recovery does not ask who lives": (
        Scenario("waiting", ("completes", "recovers"), 0),
        Mutation(recovery._Recovery, "_is_alive", "return self._alive[owner]", "return False"),
    ),
    "recovery takes the owner's lock for free": (
        Scenario("waiting", ("keeps", "recovers"), 0),
        Mutation(
            owners,
            "_ask",
            "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
            "pass",
        ),
    ),
    "a late completion goes without its token": (
        Scenario("expired", ("completes_late", "completes", "recovers"), 0, same_agent=True),
        Mutation(_core.finish, "finished_state", "or ending.expected not in claim_fields ", ""),
    ),
    "an original's copy of a completion has the completion's owner": (
        Scenario("waiting", ("completes", "releases", "original"), 0, lock_files=True),
        Mutation(
            recovery._Recovery, "_judge", '{} if "completed_at" in fields else fields', "fields"
        ),
    ),
}


@pytest.mark.parametrize(("scenario", "mutation"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_protocol_is_found_out(scenario: Scenario, mutation: Mutation) -> None:
    with pytest.raises(AssertionError):
        explored(scenario, mutation)
