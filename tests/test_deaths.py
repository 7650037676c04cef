"""Whether a process may have died: what may be answered at once, and what may not."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fastclaim import TaskPool, layout, leases, outcome, stamps
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
    deaths.looked(deaths.may_have_come(status), settled=True)
    assert not deaths.may_have_come(status)
    return deaths


def die(pool: TaskPool) -> None:
    with agent(lambda: pool.claim("t", "a").token) as holder:
        holder.kill()


def test_a_death_after_a_quiet_time_is_told(
    pool: TaskPool, quiet: Deaths, status: os.stat_result
) -> None:
    die(pool)
    assert quiet.may_have_come(status)


def test_a_claim_in_vain_says_that_no_owner_has_died_only_if_none_has(
    pool: TaskPool, core: ModuleType, quiet: Deaths
) -> None:
    directories, stamp = pool._directories, stamps.claim_stamp("b", stamps.UNTIL_ENDED)

    def claim(capabilities: bytes | None = None) -> int:
        fixed = *stamp, "token", True, -1, False, capabilities
        came_to: int = core.claim(directories, directories.opened(), "gone", "b", *fixed)[0]
        return came_to

    assert claim() == outcome.QUIET
    assert claim(b"") == outcome.ABSENT, "who chooses does not ask"
    die(pool)
    assert claim() == outcome.ABSENT
    assert quiet.may_have_come(directories.opened().status)


def test_a_death_that_somebody_has_seen_to_is_told_once(
    pool: TaskPool, make_pool: Callable[..., TaskPool], quiet: Deaths, status: os.stat_result
) -> None:
    die(pool)
    assert make_pool(pool.base_dir).recover().returned == ["t"]
    assert [bool(quiet.may_have_come(status)) for _ in range(2)] == [True, False]


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


@pytest.mark.parametrize("taker", [socket.socket, tempfile.TemporaryFile])
def test_a_death_is_told_though_the_descriptor_that_listens_is_closed_and_its_number_anothers(
    pool: TaskPool, quiet: Deaths, status: os.stat_result, taker: Callable[[], Any]
) -> None:
    assert quiet.inotify is not None
    number = quiet.inotify.fileno()
    with agent(lambda: pool.claim("t", "a").token) as holder:
        with taker() as other:
            os.dup2(other.fileno(), number)
            holder.kill()
            assert quiet.may_have_come(status)
            assert pool.claim("t", "b").task["attempts"] == 1
        os.close(number)  # it is the other's still


def test_a_death_is_told_though_another_instance_has_the_number_of_the_one_that_listened(
    pool: TaskPool, quiet: Deaths, status: os.stat_result
) -> None:
    assert quiet.inotify is not None
    with agent(lambda: pool.claim("t", "a").token) as holder:
        os.close(quiet.inotify.fileno())
        others = [Inotify() for _ in range(3)]  # the kernel gives the lowest number that is free
        assert quiet.inotify.fileno() == -1
        holder.kill()
        assert quiet.may_have_come(status)
    for other in others:
        other.close()


def test_a_child_that_a_signals_handler_forks_does_not_rely_on_what_its_parent_hears(
    quiet: Deaths, status: os.stat_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_closed = Deaths._has_closed

    def forks(deaths: Deaths, now_s: float) -> bool:
        monkeypatch.setattr(os, "getpid", lambda: 0)
        return has_closed(deaths, now_s)

    monkeypatch.setattr(Deaths, "_has_closed", forks)
    quiet.quiet_in = None
    assert quiet.may_have_come(status)
    assert not quiet.is_quiet(status)


def test_two_pool_objects_of_one_directory_are_quiet_together(
    pool: TaskPool, quiet: Deaths
) -> None:
    others = TaskPool(pool.base_dir)._directories.current().status
    assert not quiet.may_have_come(others)
    assert pool._directories.is_quiet()
    assert quiet.is_quiet(others)


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
    quiet.looked(1, settled=False)
    assert not quiet.may_have_come(status)
    clock.now_s += 2
    assert quiet.may_have_come(status)


def test_a_look_does_not_hide_what_a_later_one_has_left(
    pool: TaskPool, quiet: Deaths, status: os.stat_result, clock: SimpleNamespace
) -> None:
    die(pool)
    looks = [quiet.may_have_come(status) for _ in range(2)]  # two threads are to look
    assert all(looks)
    quiet.looked(looks[1], settled=False)
    quiet.looked(looks[0], settled=True)
    clock.now_s += 2
    assert quiet.may_have_come(status)


def test_a_death_is_seen_to_though_an_interrupt_came_before_the_look(
    pool: TaskPool, quiet: Deaths, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Deaths.may_have_come

    def interrupted(deaths: Deaths, tasks: os.stat_result | None = None) -> int:
        assert ask(deaths, tasks)
        raise KeyboardInterrupt

    die(pool)
    with monkeypatch.context() as patched:
        patched.setattr(Deaths, "may_have_come", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.claim_next("b")
    clock.now_s += 2
    claim = pool.claim_next("b")
    assert claim is not None
    assert claim.task_id == "t"


def test_a_forked_child_does_not_rely_on_what_its_parent_has_heard(
    quiet: Deaths, status: os.stat_result
) -> None:
    assert run(lambda: quiet.may_have_come(status) > 0) == "True"


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
