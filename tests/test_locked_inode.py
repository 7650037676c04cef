"""The inode that is linked to lock files: it keeps originals out, and none of them waiting."""

from __future__ import annotations

import fcntl
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastclaim import TaskPool, locked_inode, outcome
from fastclaim.locked_inode import LockedInode
from fastclaim.tasks_directory import TasksDirectory


@pytest.fixture
def linking(pool: TaskPool) -> TaskPool:
    """A pool whose process has claimed often enough to keep an inode ready, and a task `x`."""
    for name in ("first", "second"):
        pool.publish(name)
        pool.claim(name, "a").complete()
    assert ready(pool) is not None
    pool.publish("x")
    return pool


def ready(pool: TaskPool) -> LockedInode | None:
    return pool._directories.opened().locked_inode


def kept(pool: TaskPool) -> list[Path]:
    return list((pool.tasks_dir / "owners").glob("*.lock"))


def lock_of(pool: TaskPool) -> Path:
    return pool.available_dir / "x.lock"


@contextmanager
def in_the_middle(pool: TaskPool) -> Iterator[Any]:
    """We hold `x` and its lock file."""
    directories = pool._directories
    path = directories.available_file("x")
    came_to, held = directories.core.hold(directories.opened(), path, directories.lock_file(path))
    assert came_to == outcome.DONE
    with held:
        yield held


def as_the_original_opens(lock: Path) -> int:
    return os.open(lock, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)


def test_the_lock_file_is_a_link_that_lasts_as_long_as_the_hold(linking: TaskPool) -> None:
    with in_the_middle(linking):
        assert lock_of(linking).samefile(*kept(linking))
    assert not lock_of(linking).exists()
    assert len(kept(linking)) == 1


def test_who_claims_once_makes_none(pool: TaskPool) -> None:
    pool.publish("x")
    pool.claim("x", "a")
    assert ready(pool) is None
    assert not kept(pool)


@pytest.mark.parametrize("is_removed", [True, False])
def test_one_that_is_taken_for_a_dead_ones_before_it_is_locked_is_made_anew(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, is_removed: bool
) -> None:
    for name in ("first", "second"):
        pool.publish(name)
    pool.claim("first", "a")
    try_flock = locked_inode.try_flock
    with ExitStack() as asking:

        def too_late(descriptor: int) -> bool:
            monkeypatch.setattr(locked_inode, "try_flock", try_flock)
            (path,) = kept(pool)
            if is_removed:
                path.unlink()
            else:
                fcntl.flock(asking.enter_context(path.open("rb")), fcntl.LOCK_SH)
            return try_flock(descriptor)

        monkeypatch.setattr(locked_inode, "try_flock", too_late)
        pool.claim("second", "a")
        assert [path.name for path in kept(pool)] == [Path(os.fsdecode(ready(pool).name)).name]


def test_an_original_that_opened_the_lock_is_kept_out_and_let_in_at_the_end(
    linking: TaskPool,
) -> None:
    with in_the_middle(linking):
        opened = as_the_original_opens(lock_of(linking))
        with pytest.raises(BlockingIOError):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(opened)
    linking.claim("x", "b")  # with another inode
    assert len(kept(linking)) == 1


def test_an_original_gets_the_task_as_soon_as_we_let_go(
    linking: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    integration = pytest.importorskip("orchestration.a2a_integration")
    monkeypatch.setattr(integration, "A2A_BASE_DIR", str(linking.base_dir))
    with in_the_middle(linking) as held:
        sleeps = []

        def pause(_: float) -> None:
            sleeps.append(1)
            held.close()

        monkeypatch.setattr(integration, "time", type("", (), {"time": time.time, "sleep": pause}))
        assert integration.TaskPool().claim_task("x", "original")["claimed_by"] == "original"
    assert len(sleeps) == 1


def test_the_lock_of_a_process_that_was_killed_with_it_is_taken_over(linking: TaskPool) -> None:
    child = os.fork()
    if child == 0:
        pool = TaskPool(linking.base_dir, _core=linking._directories.core)
        tasks = pool._directories.opened()
        tasks.locked_inode = LockedInode(tasks.path)
        with in_the_middle(pool):
            os._exit(int(not lock_of(pool).exists()))
    assert os.waitpid(child, 0)[1] == 0
    assert lock_of(linking).exists()
    linking.claim("x", "b")
    assert not lock_of(linking).exists()
    assert len(kept(linking)) == 2
    linking.recover()
    assert len(kept(linking)) == 1


def test_a_forked_child_has_no_part_in_it(linking: TaskPool) -> None:
    locked = ready(linking)
    assert locked is not None
    descriptor = locked.descriptor
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert locked.descriptor == -1
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(descriptor)
            linking.claim("x", "child").complete()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(kept(linking)) == 1
    assert ready(linking) is locked


def test_a_child_that_is_forked_while_it_is_made_does_not_keep_it(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fstat = os.fstat
    children: list[int] = []

    def fork_first(descriptor: int) -> os.stat_result:
        if not children:
            children.append(0)
            children[0] = os.fork()
            if children[0] == 0:
                try:
                    fstat(descriptor)
                except OSError:
                    os._exit(0)
                os._exit(1)
        return fstat(descriptor)

    tasks = pool._directories.opened()
    gc.collect()  # what other tests have left is not to be looked at as the first
    monkeypatch.setattr(os, "fstat", fork_first)
    made = LockedInode(tasks.path)
    assert os.waitpid(children[0], 0)[1] == 0
    assert made.number == fstat(made.descriptor).st_ino


@pytest.mark.parametrize("harm", ["its name has gone", "it is closed"])
def test_one_that_cannot_be_linked_is_done_without(linking: TaskPool, harm: str) -> None:
    locked = ready(linking)
    assert locked is not None
    if harm == "it is closed":
        os.close(locked.descriptor)
    else:
        kept(linking)[0].unlink()
    linking.claim("x", "b").release()
    linking.claim("x", "c").complete()
    assert not lock_of(linking).exists()


def test_an_interrupt_while_it_is_given_up_leaves_nothing_held(
    linking: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    lock_of(linking).with_name("x.json").write_text('{"task_id": "x"}')  # as originals write
    kept(linking)[0].unlink()
    with monkeypatch.context() as patch:
        patch.setattr(TasksDirectory, "replace_locked_inode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            linking.claim("x", "b")
    assert linking.claim("x", "b", timeout=0).task_id == "x"


def test_its_name_goes_with_the_pool_object(
    make_pool: Callable[..., TaskPool], tmp_path: Path
) -> None:
    pool = make_pool()
    tasks = pool._directories.opened()
    tasks.locked_inode = LockedInode(tasks.path)
    names = kept(pool)
    assert len(names) == 1
    del pool, tasks
    gc.collect()
    assert not names[0].exists()


def test_its_name_goes_with_the_process(pool: TaskPool) -> None:
    for name in "xyz":
        pool.publish(name)
    script = (
        "import sys; from fastclaim import TaskPool; pool = TaskPool(sys.argv[1])\n"
        "for name in 'xyz': pool.claim(name, 'a').complete()\n"
        "assert pool._directories.opened().locked_inode is not None"
    )
    subprocess.run([sys.executable, "-c", script, pool.base_dir], check=True)
    assert pool.counts()["completed"] == 3
    assert not kept(pool)
