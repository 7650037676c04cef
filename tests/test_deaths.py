"""Whether a process may have died: what may be answered at once, and what may not."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fastclaim import TaskPool, layout, leases
from fastclaim.deaths import Deaths
from fastclaim.inotify import Inotify
from fastclaim.locked_inode import LockedInode

from .agents import agent, run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clocks of `deaths`; they stand still."""
    clock = SimpleNamespace(now_s=time.time())
    clock.monotonic = clock.time = lambda: clock.now_s
    monkeypatch.setattr("fastclaim.deaths.time", clock)
    return clock


@pytest.fixture
def status(pool: TaskPool) -> os.stat_result:
    pool.publish("t")
    return pool._directories.current().status


@pytest.fixture
def quiet(pool: TaskPool, status: os.stat_result, clock: SimpleNamespace) -> Deaths:
    """It listens, and has said that nothing came."""
    deaths = pool._directories.deaths()
    assert [deaths.may_have_come(status) for _ in range(3)] == [True, False, False]
    return deaths


def die(pool: TaskPool) -> None:
    with agent(lambda: pool.claim("t", "a").token) as holder:
        holder.kill()


def test_a_death_after_a_quiet_time_is_told(
    pool: TaskPool, quiet: Deaths, status: os.stat_result
) -> None:
    die(pool)
    assert quiet.may_have_come(status)


def test_a_death_that_somebody_has_seen_to_is_told_once(
    pool: TaskPool, make_pool: Callable[..., TaskPool], quiet: Deaths, status: os.stat_result
) -> None:
    die(pool)
    assert make_pool(pool.base_dir).recover().returned == ["t"]
    assert [quiet.may_have_come(status) for _ in range(2)] == [True, False]


def test_the_death_of_one_whose_owner_file_somebody_had_removed_is_told(
    pool: TaskPool, quiet: Deaths, status: os.stat_result
) -> None:
    with agent(lambda: pool.claim("t", "a").token) as holder:
        for path in (pool.tasks_dir / layout.OWNERS).iterdir():
            path.unlink()
        holder.kill()
    assert quiet.may_have_come(status)
    assert pool.claim("t", "b").task["attempts"] == 1


def test_a_death_is_looked_for_until_the_kernel_has_dropped_the_lock(
    pool: TaskPool, quiet: Deaths, status: os.stat_result
) -> None:
    die(pool)
    assert all(quiet.may_have_come(status) for _ in range(3))


def test_whoever_lets_go_of_a_lock_files_inode_has_not_died(
    pool: TaskPool, quiet: Deaths, status: os.stat_result
) -> None:
    LockedInode(pool._directories.tasks).give_up()
    assert not quiet.may_have_come(status)


def test_a_death_that_a_waiter_has_heard_of_is_told_to_others(
    pool: TaskPool, quiet: Deaths, status: os.stat_result
) -> None:
    die(pool)
    quiet.next_look_in_s()  # reads what the kernel has to tell
    assert quiet.may_have_come(status)


def test_a_death_is_told_though_an_interrupt_came_when_it_was_heard_of(
    pool: TaskPool, quiet: Deaths, status: os.stat_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Inotify.read

    def interrupted(inotify: Inotify) -> None:
        read(inotify)
        raise KeyboardInterrupt

    die(pool)
    with monkeypatch.context() as patched:
        patched.setattr(Inotify, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quiet.may_have_come(status)
    assert quiet.may_have_come(status)


def test_a_lease_that_ends_after_a_quiet_time_is_told(
    pool: TaskPool, quiet: Deaths, status: os.stat_result, clock: SimpleNamespace
) -> None:
    leases.note(pool._directories.tasks, clock.now_s + 60)
    assert not quiet.may_have_come(status)
    clock.now_s += 62
    assert quiet.may_have_come(status)


def test_a_look_that_has_left_something_is_repeated(
    quiet: Deaths, status: os.stat_result, clock: SimpleNamespace
) -> None:
    quiet.looked(settled=False)
    assert not quiet.may_have_come(status)
    clock.now_s += 2
    assert quiet.may_have_come(status)


def test_a_forked_child_does_not_rely_on_what_its_parent_has_heard(
    quiet: Deaths, status: os.stat_result
) -> None:
    assert run(lambda: quiet.may_have_come(status)) == "True"


def test_an_owners_directory_that_is_made_anew_is_seen_though_tasks_was_replaced_when_it_was_found(
    pool: TaskPool, status: os.stat_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Inotify.add

    def replace(inotify: Inotify, path: bytes, mask: int) -> int:
        wd = add(inotify, path, mask)
        monkeypatch.setattr(Inotify, "add", add)
        pool.tasks_dir.rename(pool.base_dir / "old")
        pool._directories.make()
        return wd

    monkeypatch.setattr(Inotify, "add", replace)
    deaths = pool._directories.deaths()
    assert deaths.may_have_come(status)
    new = pool._directories.current().status
    assert not any(deaths.may_have_come(new) for _ in range(2))
    owners = pool.tasks_dir / layout.OWNERS
    with open(owners / "open", "w"):  # so that it does not tell of its end itself
        shutil.rmtree(owners)
        owners.mkdir()
        assert deaths.may_have_come(new)
