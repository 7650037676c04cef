"""`claim_next(wait=...)`: blocks until there is a task, and returns owning it."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from fastclaim import TaskPool, changes, selection
from fastclaim.changes import Changes
from fastclaim.inotify import Inotify
from fastclaim.layout import OWNERS

LONG_S = 60.0  # a wait that is never waited out
LONGER_S = 2 * LONG_S  # at its end a wait looks once more: not before the test has given up


@pytest.fixture(autouse=True)
def no_slow_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a look now and then finds what nobody was woken for."""
    monkeypatch.setattr(selection, "_SLOW_LOOK_S", 1e6)


@contextmanager
def asleep(pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Yields what is set as soon as a thread begins to block on the kernel."""
    blocking = threading.Event()
    wait = Changes.wait

    def tell_and_wait(heard: Changes, *how: Any) -> None:
        blocking.set()
        wait(heard, *how)

    with monkeypatch.context() as patched:
        patched.setattr(Changes, "wait", tell_and_wait)
        yield blocking


@pytest.fixture
def claim_when(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], object]], object]:
    """Claims in a thread, does something once that waits, and returns the claimed task's id."""

    def claim_when(happens: Callable[[], object], **how: object) -> object:
        with asleep(pool, monkeypatch) as blocking, ThreadPoolExecutor(1) as thread:
            future = thread.submit(pool.claim_next, "a", wait=LONGER_S, **how)
            assert blocking.wait(LONG_S)
            happens()
            return future.result(LONG_S).task_id

    return claim_when


ClaimWhen = Callable[..., object]


@pytest.mark.parametrize("order", ["priority", "oldest", "any"])
def test_a_publication_ends_a_wait(pool: TaskPool, claim_when: ClaimWhen, order: str) -> None:
    assert claim_when(lambda: pool.publish("x"), order=order) == "x"
    assert (pool.claimed_dir / "x_a.json").exists()


def test_a_release_ends_a_wait(pool: TaskPool, claim_when: ClaimWhen) -> None:
    pool.publish("x")
    claim = pool.claim("x", "b")
    assert claim_when(claim.release) == "x"


def test_a_lease_that_ends_ends_a_wait(pool: TaskPool, claim_when: ClaimWhen) -> None:
    pool.publish("x")
    claim = pool.claim("x", "b")
    assert claim_when(lambda: claim.renew(-1)) == "x"


def test_a_completed_dependency_ends_a_wait(pool: TaskPool, claim_when: ClaimWhen) -> None:
    pool.publish("x")
    pool.publish("y", blocked_by=["x"])
    assert claim_when(pool.claim("x", "b").complete) == "y"


def test_a_dependency_completed_by_an_original_ends_a_wait(
    pool: TaskPool, claim_when: ClaimWhen
) -> None:
    pool.publish("y", blocked_by=["x"])
    completed = pool.completed_dir / "x_complete.json"
    assert claim_when(lambda: completed.write_text("{}")) == "y"


def test_a_key_that_becomes_free_ends_a_wait(pool: TaskPool, claim_when: ClaimWhen) -> None:
    pool.publish("x", exclusive=["main"])
    pool.publish("y", exclusive=["main"])
    assert claim_when(pool.claim("x", "b").complete) == "y"


def test_an_end_of_a_claim_ends_a_wait_at_the_limit(pool: TaskPool, claim_when: ClaimWhen) -> None:
    pool.publish("x")
    pool.publish("y")
    assert claim_when(pool.claim("x", "a").complete, max_claims=1) == "y"


@pytest.mark.parametrize("until", [None, 4e9])
def test_the_end_of_a_pause_ends_a_wait(
    pool: TaskPool, claim_when: ClaimWhen, until: float | None
) -> None:
    pool.publish("x")
    pool.pause(until)
    assert pool.claim_next("a") is None
    assert pool.claim_many("a", 3) == []
    assert claim_when(pool.resume) == "x"


def test_a_pause_that_is_over_ends_a_wait(pool: TaskPool) -> None:
    pool.publish("x")
    until_s = time.time() + 0.3
    pool.pause(until_s)
    assert pool.claim_next("a", wait=LONG_S).task["claimed_at"] >= until_s


def test_waiting_through_a_pause_uses_no_processor(pool: TaskPool) -> None:
    pool.publish("x")
    pool.pause()
    before = resource.getrusage(resource.RUSAGE_THREAD)
    assert pool.claim_next("a", wait=1.0) is None
    after = resource.getrusage(resource.RUSAGE_THREAD)
    assert after.ru_nvcsw - before.ru_nvcsw < 20


DIES_HOLDING = """
import sys
from fastclaim import TaskPool
claim = TaskPool(sys.argv[1]).claim("x", "dead")
print("claimed", flush=True)
sys.stdin.read()
"""


def test_the_death_of_another_process_gives_its_task_to_who_waits(
    pool: TaskPool, claim_when: ClaimWhen
) -> None:
    pool.publish("x")
    command = [sys.executable, "-c", DIES_HOLDING, os.fspath(pool.base_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"claimed\n"
        assert claim_when(process.kill) == "x"


def test_a_time_that_comes_ends_a_wait(pool: TaskPool) -> None:
    from_s = time.time() + 0.2
    pool.publish("x", not_before=from_s)
    claim = pool.claim_next("a", wait=LONG_S)
    assert claim.task_id == "x"
    assert claim.task["claimed_at"] >= from_s


def test_the_death_of_an_owner_ends_a_wait(
    pool: TaskPool, claim_when: ClaimWhen, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = pool.tasks_dir / OWNERS
    owners.mkdir(exist_ok=True)
    alive = open(owners / "1.owner", "w")  # noqa: SIM115
    looks = []

    def look_after(_: TaskPool) -> bool:
        looks.append(alive.closed)
        if alive.closed and len(looks) > 2:  # its flock goes a moment after the file is closed
            pool.publish("x", if_exists="ignore")
        return alive.closed and len(looks) > 2

    monkeypatch.setattr(TaskPool, "_look_after_dead_owners", look_after)
    assert claim_when(alive.close) == "x"


def test_who_looks_whether_an_owner_lives_wakes_nobody(pool: TaskPool) -> None:
    owners = pool.tasks_dir / OWNERS
    owners.mkdir(exist_ok=True)
    (owners / "1.owner").touch()
    heard = Changes(pool._directories)
    heard.follow(OWNERS)
    with open(owners / "1.owner"):
        pass
    assert heard.read() == {}


def test_claims_that_fail_wake_nobody(pool: TaskPool) -> None:
    pool.publish("a_b")
    pool.claim("a_b", "c")
    pool.publish("a")
    heard = Changes(pool._directories)
    heard.follow("available")
    assert pool.claim_next("b_c") is None  # the name of its claim is taken
    assert pool.claim_task("a", "b_c") == {}
    assert pool.claim("a", "d") is not None
    assert heard.read() == {}


@pytest.mark.parametrize("durability", ["data", "full"])
@pytest.mark.parametrize("if_exists", ["error", "replace"])
def test_a_publication_tells_those_who_wait_once(
    make_pool: Callable[..., TaskPool], if_exists: str, durability: str
) -> None:
    pool = make_pool(durability=durability)
    with Inotify() as inotify:
        inotify.add(pool.available_dir, changes._MASKS["available"])
        pool.publish("x", if_exists=if_exists)
        pool.publish_many([{"task_id": "y"}, {"task_id": "z"}], if_exists=if_exists)
        assert [event.name for event in inotify.read()] == [b"x.json", b"y.json", b"z.json"]


def test_a_wait_that_is_over_returns_none(pool: TaskPool) -> None:
    assert pool.claim_next("a", wait=0.05) is None
    assert pool.claim_next("a", wait=-1) is None


def test_what_came_between_the_look_and_the_wait_ends_it(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    enlist = selection.Selection.enlist

    def publish_and_enlist(self: selection.Selection, waiter: selection.Waiter) -> float:
        pool.publish("x", if_exists="ignore")
        return enlist(self, waiter)

    monkeypatch.setattr(selection.Selection, "enlist", publish_and_enlist)
    with ThreadPoolExecutor(1) as thread:
        claiming = thread.submit(pool.claim_next, "a", wait=LONGER_S)
        assert claiming.result(LONG_S).task_id == "x"


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Interrupts the main thread, which calls it, as Ctrl-C does."""
    # Not SIGINT itself, which may be ignored here.
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupt_ends_a_wait_for_the_kernel_and_leaves_no_claim(
    pool: TaskPool, interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish_and_interrupt(*_: object) -> None:
        pool.publish("x")
        interrupt()

    with monkeypatch.context() as patched:
        patched.setattr(Changes, "wait", publish_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.claim_next("a", wait=None)
    assert os.listdir(pool.claimed_dir) == []
    assert pool.claim_next("b").task_id == "x"


def test_an_interrupt_ends_a_wait_for_another_thread_and_leaves_no_claim(
    pool: TaskPool, interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gate:
        """A lock that who waits for it is interrupted at."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self.release = self._lock.release

        def acquire(self, timeout: float = -1) -> bool:
            if timeout >= 0:
                interrupt()
            return self._lock.acquire(timeout=timeout)

    with ThreadPoolExecutor(1) as thread:
        with asleep(pool, monkeypatch) as blocking:
            other = thread.submit(pool.claim_next, "b", wait=LONGER_S)
            assert blocking.wait(LONG_S)
        with monkeypatch.context() as patched:
            patched.setattr(selection, "allocate_lock", Gate)
            with pytest.raises(KeyboardInterrupt):
                pool.claim_next("a", wait=None)
        pool.publish("x")
        assert other.result(LONG_S).task_id == "x"
    assert os.listdir(pool.claimed_dir) == ["x_b.json"]


def test_waiting_uses_no_processor(pool: TaskPool) -> None:
    pool.claim_next("a", wait=0.01)
    before = resource.getrusage(resource.RUSAGE_THREAD)
    pool.claim_next("a", wait=1.0)
    after = resource.getrusage(resource.RUSAGE_THREAD)
    # A handful of naps; a poll every millisecond would be a thousand.
    assert after.ru_nvcsw - before.ru_nvcsw < 20


def test_of_many_waiting_threads_a_task_wakes_few(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = 12
    naps = itertools.count()
    nap = selection.Selection._nap

    def counted(self: selection.Selection, *args: object) -> None:
        next(naps)
        nap(self, *args)

    monkeypatch.setattr(selection.Selection, "_nap", counted)
    with ThreadPoolExecutor(waiting) as threads:
        futures = [threads.submit(pool.claim_next, f"a{n}", wait=LONG_S) for n in range(waiting)]
        while len(pool._selected()._waiters.all) < waiting:
            time.sleep(0.01)
        for number in range(waiting):
            pool.publish(f"x{number}")
            while sum(future.done() for future in futures) <= number:
                time.sleep(0.001)
    # If all were woken each time, it would be half of their square.
    assert next(naps) <= 4 * waiting


def test_each_waiting_thread_is_woken_for_what_it_can_do(pool: TaskPool) -> None:
    skills = ["python", "rust", "gpu", "docs"]
    with ThreadPoolExecutor(len(skills)) as threads:
        futures = {
            skill: threads.submit(pool.claim_next, f"a-{skill}", [skill], wait=LONGER_S)
            for skill in skills
        }
        while len(pool._selected()._waiters.all) < len(skills):
            time.sleep(0.01)
        for skill in reversed(skills):
            pool.publish(skill, requirements=[skill])
            assert futures[skill].result(LONG_S).task_id == skill


def test_without_inotify_a_wait_looks_now_and_then(
    pool: TaskPool, claim_when: ClaimWhen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError("no inotify here")

    monkeypatch.setattr("fastclaim.inotify.Inotify.__init__", refuse)
    monkeypatch.setattr("fastclaim.inotify.Inotify.__del__", lambda _: None)
    assert claim_when(lambda: pool.publish("x")) == "x"


@pytest.mark.parametrize("spare", [0, 1, 2])
@pytest.mark.parametrize("before", ["", "pool.claim_next('a', wait=1e-9)"])
def test_who_has_no_descriptor_left_waits_all_the_same(tmp_path, spare, before):
    """In a new process: to import what waiting takes needs a descriptor, too."""
    code = f"""
import os, resource, sys
from fastclaim import TaskPool
pool = TaskPool({str(tmp_path / "pool")!r})
pool.claim_next("a")
{before}
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    for descriptor in taken[:{spare}]:
        os.close(descriptor)
print(pool.claim_next("a", wait=0.05))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("None\n", "")
