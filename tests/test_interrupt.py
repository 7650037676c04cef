"""Ctrl-C at every line of every verb, and while waiting."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import linecache
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import pytest

import fastclaim
from fastclaim import TaskPool, _transition_py, finishing
from fastclaim.flocked_file import FlockedFile
from fastclaim.locked_inode import LockedInode

from .faults import driver

PACKAGE = str(Path(fastclaim.__file__).parent) + os.sep
SHOWN = 20  # broken points in a failure's message


class Interrupted(NamedTuple):
    """What became of a verb that was interrupted before its n-th line."""

    line: str  # "" if it got through untouched
    raised: bool
    value: object


def interrupt(verb: Callable[[], object], nth: int) -> Interrupted:
    """Run `verb`, and raise KeyboardInterrupt before the n-th line of the package that it runs."""
    seen = 0
    line = ""
    value: object = None
    raised = False

    entered: set[tuple[int, int]] = set()

    def leaves_a_block(frame: FrameType) -> bool:
        """A trace function comes between a `with`, its body and its exit; no signal does."""
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if text.strip() == "try:":  # it may be the first line of the body
            return True
        if not text.lstrip().startswith("with "):
            return False
        block = id(frame), frame.f_lineno
        again = block in entered
        entered.add(block)
        return again

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen, line
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and not leaves_a_block(frame):
            seen += 1
            if seen > nth and not line:
                line = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                line += f" in {frame.f_code.co_name}"
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        value = verb()
    except KeyboardInterrupt:
        raised = True
    finally:
        sys.settrace(before)
    return Interrupted(line, raised, value)


class Fresh:
    """A pool for one point after the other, with nothing in it but somebody else's tasks."""

    def __init__(self, base: Path, core: ModuleType) -> None:
        self._base, self._core = base, core

    def __call__(self, verb: driver.Verb) -> TaskPool:
        pool = TaskPool(self._base, durability="none", _core=self._core, **verb.settings)
        # What a process does once, under a lock. An interrupt before the line that releases it,
        # which a trace function can bring about and a signal cannot, would lock out all threads.
        tasks = pool._directories.opened()
        tasks.owner.ensure(tasks.path)
        if verb.links:
            tasks.locked_inode = LockedInode(tasks.path)
        for state in driver.STATES:
            for name in os.listdir(pool.tasks_dir / state):
                os.unlink(pool.tasks_dir / state / name)
        return pool


def descriptors() -> set[int]:
    """Without those that a pool keeps: of tasks/, of files in owners/, and what tells of deaths."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that the listing itself had open
        if "/tasks/owners/" not in path and not path.endswith(("/tasks", "inotify")):
            found.add(int(name))
    return found


def check_whole(pool: TaskPool, state: dict[str, Any]) -> None:
    litter = [name for name in state if driver.is_litter(name)]
    assert not litter, f"left {litter}"
    for task, places in driver.places_of(state).items():
        assert len(places) == 1, f"{task!r} in {places}"


def check_claim(verb: driver.Verb, pool: TaskPool, context: Any, before: dict[str, Any]) -> None:
    """Nobody was told about the claim: the task waits, for anybody."""
    state = driver.state_of(pool)
    check_whole(pool, state)
    assert "available/x.json" in state, f"not available: {sorted(state)}"
    found = set(state)
    if "over an old claim" in verb.name:  # which ended when its task was published again
        found.add("claimed/x_a.json")
    assert found == before.keys(), f"{sorted(state)} instead of {sorted(before)}"
    driver.is_released(pool, context, None)
    verb.again(pool, context)


def check_other(verb: driver.Verb, pool: TaskPool, context: Any, before: dict[str, Any]) -> None:
    """All, or nothing."""
    state = driver.state_of(pool)
    check_whole(pool, state)
    if state == before:
        verb.again(pool, context)
    else:
        verb.done(pool, context, None)
        verb.onward(pool, context, None)


VERBS = {
    verb.name: verb
    for verb in driver.all_verbs()
    if verb.name
    in (
        "publish, if_exists=error",
        "publish over a waiting task, if_exists=replace",
        "publish_task",
        "claim",
        "claim, claim_task",
        "claim, linked lock file",
        "release, linked lock file",
        "claim of a foreign task",
        "claim with a long agent id",
        "claim over an old claim",
        "complete",
        "complete with 2 kB",
        "complete_task",
        "complete of a foreign claim",
        "release",
        "release of a foreign claim",
    )
}


@pytest.mark.parametrize("name", VERBS)
def test_an_interrupt_before_any_line_leaves_all_or_nothing(
    name: str,
    core: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb = VERBS[name]
    check = check_claim if name.startswith("claim") else check_other
    fresh = Fresh(tmp_path, core)
    monkeypatch.setattr(finishing, "HOLD_TIMEOUT_S", 0)
    # pytest would keep the records, and with an error its traceback and what that holds.
    monkeypatch.setattr(logging.getLogger("fastclaim"), "propagate", False)
    # What comes in a __del__ Python only reports.
    reported: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: reported.append(seen.exc_value))
    broken = []
    nth = 0
    while True:
        pool = fresh(verb)
        context = verb.prepare(pool)
        before = driver.state_of(pool)
        opened = descriptors()
        reported.clear()
        came_to = interrupt(lambda: verb.act(pool, context), nth)  # noqa: B023
        if not came_to.line:
            break
        for descriptor in descriptors() - opened:
            os.close(descriptor)
            broken.append(f"{nth}: {came_to.line}: a descriptor was left open")
        try:
            if came_to.raised:
                check(verb, pool, context, before)
            else:
                assert reported, f"did not propagate: {came_to.value!r}"
                verb.done(pool, context, came_to.value)
        except Exception as problem:
            broken.append(f"{nth}: {came_to.line}: {type(problem).__name__}: {problem}")
        nth += 1
    print(f"{nth} lines, {len(broken)} broken")
    assert nth > 20
    assert not broken, "\n".join([f"{len(broken)} of {nth} lines:", *broken[:SHOWN]])


def test_an_interrupt_before_anything_is_held_is_no_second_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: reported.append(seen.exc_value))
    for nth in itertools.count():
        if not interrupt(lambda: _transition_py.Held(None, b"x", None), nth).line:
            break
    assert nth > 5
    assert reported == []


# Waits for what we hold, and says so on its standard output when it has begun to wait.
WAITER = """
import sys
from fastclaim import TaskPool, _transition_py, waiting

sleep = waiting.time.sleep

class Time:
    monotonic = waiting.time.monotonic

    def sleep(self, pause_s):
        if not told:
            told.append(True)
            print("waiting", flush=True)
        sleep(pause_s)

told = []
waiting.time = Time()
base, core, verb = sys.argv[1:]
pool = TaskPool(base, _core=_transition_py if core == "python" else None)
try:
    if verb == "claim":
        pool.claim("x", "late", timeout=None)
    elif verb == "claim_task":
        pool.claim_task("x", "late", timeout=float("inf"))
    else:
        pool.complete("x", "a")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("verb", "held"),
    [
        ("claim", "available/x.lock"),
        ("claim", "available/x.json"),
        ("claim_task", "available/x.lock"),
        ("complete", "claimed/x_a.json"),
    ],
)
def test_ctrl_c_ends_the_wait_for_what_another_process_holds(
    verb: str, held: str, core: ModuleType, tmp_path: Path
) -> None:
    pool = TaskPool(tmp_path, _core=core)
    pool.publish("x")
    if verb == "complete":
        pool.claim("x", "a")
    before = driver.state_of(pool)
    holder = os.open(pool.tasks_dir / held, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, "-c", WAITER, tmp_path, core.NAME, verb],
            stdout=subprocess.PIPE,
            text=True,
        ) as waiter:
            assert waiter.stdout is not None
            assert waiter.stdout.readline() == "waiting\n"
            waiter.send_signal(signal.SIGINT)
            # What is raised in a `__del__` Python discards: then somebody presses it again.
            while not select.select([waiter.stdout], [], [], 1.0)[0]:
                waiter.send_signal(signal.SIGINT)
            assert waiter.stdout.read() == "interrupted\n"
        assert waiter.returncode == 0
        after = driver.state_of(pool)
        # The holder's lock file is not the waiter's to unlink.
        assert after.pop(held) == before.pop(held, (b"", after_mtime(pool, held)))
        assert after == before
    finally:
        os.close(holder)
    if verb == "complete":
        pool.complete("x", "a")
    else:
        pool.claim("x", "another", timeout=0)


def test_an_interrupt_that_comes_while_a_file_with_a_lock_is_opened_leaves_it_closed(
    tmp_path: Path,
) -> None:
    watched = os.open(tmp_path, os.O_RDONLY)
    handler = signal.signal(signal.SIGIO, signal.default_int_handler)
    before = descriptors()
    try:
        try:
            fcntl.fcntl(watched, fcntl.F_NOTIFY, fcntl.DN_CREATE)  # a SIGIO when a file is made
        except OSError:
            pytest.skip("this kernel has no dnotify")
        with contextlib.suppress(KeyboardInterrupt):
            FlockedFile(os.fspath(tmp_path / "x"), os.O_RDWR | os.O_CREAT)
            pytest.fail("no interrupt came")
    finally:
        signal.signal(signal.SIGIO, handler)
        os.close(watched)
    assert (tmp_path / "x").exists()
    assert descriptors() == before - {watched}


def after_mtime(pool: TaskPool, name: str) -> int:
    return os.stat(pool.tasks_dir / name).st_mtime_ns


CHOICES = {
    "claim_next": lambda pool: pool.claim_next("a"),
    "claim_next, any": lambda pool: pool.claim_next("a", order="any"),
    "claim_next, max_claims": lambda pool: pool.claim_next("a", max_claims=1),
    "claim_many": lambda pool: pool.claim_many("a", 2),
}


@pytest.mark.parametrize("name", CHOICES)
def test_an_interrupt_before_any_line_of_a_choice_leaves_no_claim_and_loses_no_task(
    name: str, core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    pool = TaskPool(tmp_path, durability="none", _core=core)
    pool.claim_next("a", order="any" if "any" in name else "priority")
    broken = []
    for nth in itertools.count():
        pool.publish_many([{"task_id": "x"}, {"task_id": "y"}])
        came_to = interrupt(lambda: CHOICES[name](pool), nth)
        if not came_to.line:
            break
        if came_to.raised and pool.counts()["claimed"]:
            broken.append(f"{nth}: {came_to.line}: claimed")
        elif came_to.raised and len(pool.claim_many("b", 9)) != 2:
            broken.append(f"{nth}: {came_to.line}: not found again")
        for directory in (pool.available_dir, pool.claimed_dir):
            for path in directory.iterdir():
                path.unlink()
    assert nth > 100
    assert not broken, "\n".join([f"{len(broken)} of {nth} lines:", *broken[:SHOWN]])
