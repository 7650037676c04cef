"""Who is alive is the kernel's word: claims end with their process, and not before."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastclaim import AlreadyClaimed, TaskPool, owners, tokens

from .agents import agent, run

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def claim(pool: TaskPool, task_id: str = "t", agent_id: str = "a") -> Callable[[], object]:
    return lambda: pool.claim(task_id, agent_id).token


def assert_held(pool: TaskPool, task_id: str = "t") -> None:
    """By somebody who lives, whoever looks and whoever recovers."""
    assert not pool.recover()
    with pytest.raises(AlreadyClaimed):
        pool.claim(task_id, "thief")
    assert not pool.recover()
    assert pool.claim_task(task_id, "thief") == {}


@contextlib.contextmanager
def running(command: list[str], **how: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, **how) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


# Death --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("looked_before", [False, True])
@pytest.mark.parametrize("verb", ["claim", "claim_task", "claim_next"])
def test_the_very_next_claim_gets_what_a_killed_process_held(
    pool: TaskPool, verb: str, looked_before: bool
) -> None:
    pool.publish("t")
    with agent(claim(pool)) as holder:
        if looked_before:
            assert_held(pool)
        holder.kill()
        if verb == "claim":
            task = pool.claim("t", "b").task
        elif verb == "claim_task":
            task = pool.claim_task("t", "b")
        else:
            task = pool.claim_next("b").task
    assert (task["claimed_by"], task["attempts"]) == ("b", 1)
    assert [failure["agent"] for failure in task["failures"]] == ["a"]


def test_a_look_before_the_kernel_has_dropped_the_lock_does_not_miss_a_death(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("t")
    with agent(claim(pool)) as holder:
        assert_held(pool)
        holder.kill()
        monkeypatch.setattr(owners, "_ask", lambda path: (True, None))
        with pytest.raises(AlreadyClaimed):
            pool.claim("t", "b")
        monkeypatch.undo()
        pool.claim("t", "b")


def moved_and_copied(tasks: Path, aside: Path) -> None:
    os.rename(tasks, aside)
    shutil.copytree(aside, tasks)


@pytest.mark.parametrize(
    ("what", "replace"),
    [
        ("tasks", os.rename),
        ("tasks", moved_and_copied),
        ("tasks/owners", os.rename),
        ("tasks/owners", lambda owners, _: shutil.rmtree(owners)),
    ],
)
def test_a_death_is_noticed_in_directories_that_have_taken_the_place_of_others(
    pool: TaskPool,
    make_pool: Callable[..., TaskPool],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    replace: Callable[[Path, Path], None],
) -> None:
    now_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: now_s, time=time.time)
    monkeypatch.setattr("fastclaim.deaths.time", clock)
    pool.publish("mine")
    pool.claim("mine", "b")  # so that its owner file is open
    (pool.available_dir / "t.json").write_text('{"task_id": "t"}')  # as originals write
    for _ in range(3):
        assert pool.claim_task("gone", "b") == {}  # from the second time on it listens
    replace(pool.base_dir / what, pool.base_dir / "aside")
    make_pool(pool.base_dir).publish("t", if_exists="replace")
    with agent(claim(make_pool(pool.base_dir))) as holder:
        now_s = 60.0  # what it has heard until now is no reason to look any more
        holder.kill()
        assert pool.claim_task("t", "b")["attempts"] == 1


def test_without_inotify_a_death_is_noticed_all_the_same(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(24, "no instance is left")

    monkeypatch.setattr("fastclaim.deaths.Inotify", refuse)
    pool.publish("t")
    with agent(claim(pool)) as holder:
        assert_held(pool)
        holder.kill()
        pool.claim("t", "b")


def test_a_death_is_noticed_in_a_pool_that_was_moved_to_where_another_stood(
    make_pool: Callable[..., TaskPool], tmp_path: Path
) -> None:
    pool = make_pool()
    pool.publish("t")
    with agent(claim(pool)):
        assert_held(pool)  # watches what is about to be moved away
        os.rename(tmp_path / "pool", tmp_path / "old")
        pool.publish("t")
        with agent(claim(make_pool())) as holder:
            assert_held(pool)
            holder.kill()
            pool.claim("t", "b")


def test_threads_that_ask_at_once_whether_anybody_died_do_not_disturb_each_other(
    pool: TaskPool,
) -> None:
    pool.publish("t")
    problems: list[BaseException] = []

    def ask() -> None:
        for _ in range(50):
            try:
                shutil.rmtree(pool.tasks_dir / "owners", ignore_errors=True)
                pool.claim_task("none", "b")
                with contextlib.suppress(LookupError):
                    pool.claim("none", "b")
            except BaseException as problem:
                problems.append(problem)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


# Life ---------------------------------------------------------------------------------------------


def test_a_stopped_process_keeps_its_claims(pool: TaskPool) -> None:
    pool.publish("t")
    with agent(claim(pool)) as holder:
        holder.signal(signal.SIGSTOP)
        os.waitpid(holder.process_id, os.WUNTRACED)
        assert_held(pool)
        assert not pool.recover(older_than=0)


def test_claims_outlive_the_pool_object_that_made_them(
    make_pool: Callable[..., TaskPool],
) -> None:
    def claim_and_forget() -> None:
        pool = make_pool()
        pool.claim("t", "a")
        del pool
        gc.collect()

    pool = make_pool()
    pool.publish("t")
    with agent(claim_and_forget):
        assert_held(pool)


def test_of_pools_that_have_gone_a_process_keeps_nothing(
    make_pool: Callable[..., TaskPool], tmp_path: Path
) -> None:
    known = len(owners._known)
    for number in range(5):
        gone = make_pool(tmp_path / f"{number}")
        gone.publish("t")
        gone.claim("t", "a")
        shutil.rmtree(tmp_path / f"{number}")
        del gone
    stays = make_pool()
    stays.publish("t")
    stays.claim("t", "a")
    gc.collect()
    assert len(owners._known) <= known + 1


def test_claims_outlive_the_thread_that_made_them(pool: TaskPool) -> None:
    def claim_in_thread() -> None:
        thread = threading.Thread(target=claim(pool))
        thread.start()
        thread.join()

    pool.publish("t")
    with agent(claim_in_thread):
        assert_held(pool)


def test_two_pools_and_a_symlinked_path_share_one_life(
    make_pool: Callable[..., TaskPool], tmp_path: Path
) -> None:
    pool = make_pool()
    os.symlink(tmp_path / "pool", tmp_path / "link")
    for task_id in ("t", "u", "v"):
        pool.publish(task_id)

    def claim_by_all() -> int:
        make_pool().claim("t", "a")
        make_pool().claim("u", "a")
        make_pool(tmp_path / "link").claim("v", "a")
        gc.collect()
        return len(os.listdir(pool.tasks_dir / "owners"))

    with agent(claim_by_all) as holder:
        assert holder.said == "1"
        for task_id in ("t", "u", "v"):
            assert_held(pool, task_id)
        holder.kill()
        assert sorted(pool.recover().returned) == ["t", "u", "v"]


@pytest.mark.parametrize("gone", ["owner file", "owners", "tasks"])
def test_a_mark_of_life_that_was_removed_is_made_anew_by_the_next_claim(
    pool: TaskPool, gone: str
) -> None:
    pool.publish("first")
    pool.claim("first", "a")
    if gone == "owner file":
        os.unlink(pool.tasks_dir / "owners" / f"{tokens.own_id}.owner")
    else:
        shutil.rmtree(pool.tasks_dir / "owners" if gone == "owners" else pool.tasks_dir)
    pool.publish("t")
    assert pool.claim("t", "a").task["owner"] == tokens.own_id
    assert run(lambda: assert_held(pool)) == "None"
    if gone != "tasks":
        assert run(lambda: assert_held(pool, "first")) == "None"


@pytest.mark.parametrize("closed", [range(3, 4096), range(0, 4096)])
def test_a_daemon_that_closes_every_descriptor_is_alive_from_its_next_claim_on(
    pool: TaskPool, closed: range
) -> None:
    pool.publish("t")
    pool.publish("u")
    not_the_agents = _pipes()

    def become_daemon() -> None:
        with agent(lambda: None):
            pass  # no descriptor of ours is special
        pool.claim("t", "a")
        (pipe,) = _pipes() - not_the_agents  # that it speaks through
        stays = os.fstat(pipe)
        for descriptor in closed:
            with contextlib.suppress(OSError):
                if not os.path.samestat(os.fstat(descriptor), stays):
                    os.close(descriptor)
        pool.claim("u", "a")

    with agent(become_daemon) as holder:
        assert holder.said == "None"
        assert_held(pool, "t")
        assert_held(pool, "u")


def test_a_daemon_that_closes_every_descriptor_hears_of_deaths_and_tasks_again(
    pool: TaskPool,
) -> None:
    pool.claim_next("a")
    pool.claim_task("none", "a")
    pool.claim_task("none", "a")
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            if "inotify" in os.readlink(f"/proc/self/fd/{name}"):
                os.close(int(name))
    pool.publish("t")
    with pool.claim_next("a", wait=60):
        pass
    pool.publish("u")
    with agent(claim(pool, "u")) as dead:
        assert pool.claim_task("u", "b") == {}
        dead.kill()
        assert pool.claim_next("b", wait=60)


def test_a_childs_log_file_outlives_the_inotify_instance_whose_number_it_has(
    pool: TaskPool, tmp_path: Path
) -> None:
    pool.claim_next("a")
    pool.claim_task("none", "a")
    pool.claim_task("none", "a")

    def become_daemon() -> object:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
        for number in numbers:
            with contextlib.suppress(OSError):
                if "inotify" in os.readlink(f"/proc/self/fd/{number}"):
                    os.close(number)
        logs = [(tmp_path / f"log{n}").open("w") for n in numbers]
        pool.publish("t")
        pool.claim_next("a", wait=60)
        pool.claim_task("none", "a")
        pool.claim_task("none", "a")
        return [os.fstat(log.fileno()).st_ino for log in logs] == [
            os.stat(log.name).st_ino for log in logs
        ]

    assert run(become_daemon) == "True"


def test_a_process_whose_pool_moves_into_another_directory_goes_on(
    pool: TaskPool, tmp_path: Path
) -> None:
    pool.publish("t")
    pool.publish("u")
    pool.claim("t", "a")
    (tmp_path / "new").mkdir()
    for directory in pool.tasks_dir.iterdir():
        directory.rename(tmp_path / "new" / directory.name)
    pool.tasks_dir.rmdir()
    (tmp_path / "new").rename(pool.tasks_dir)
    pool.claim("u", "a")
    assert run(lambda: assert_held(pool)) == "None"
    assert run(lambda: assert_held(pool, "u")) == "None"


def _pipes() -> set[int]:
    """The descriptors of this process that are pipes."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            if os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
                found.add(int(name))
    return found


@pytest.mark.parametrize("seam", ["ErrorsOf", "make_flocked"])
def test_an_interrupt_while_the_owner_file_is_made_leaves_no_lock_behind(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    class Interrupted(owners.ErrorsOf):
        __exit__ = interrupted

    def make_and_let_fstat_be_interrupted(path: bytes) -> int:
        descriptor = make(path)
        patched.setattr(os, "fstat", interrupted)
        return descriptor

    make = owners.make_flocked
    instead = {"ErrorsOf": Interrupted, "make_flocked": make_and_let_fstat_be_interrupted}
    pool.publish("t")
    with monkeypatch.context() as patched:
        patched.setattr(owners, seam, instead[seam])
        with pytest.raises(KeyboardInterrupt):
            pool.claim("t", "a")
    (path,) = (pool.tasks_dir / "owners").iterdir()
    assert not owners.is_alive(bytes(path))
    assert pool.claim("t", "a").task["owner"] == tokens.own_id
    assert owners.is_alive(bytes(path))


def test_where_no_owner_file_may_be_made_a_claim_is_bound_to_nobody(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: bytes) -> int:
        raise PermissionError(13, "not allowed", os.fsdecode(path))

    monkeypatch.setattr(owners, "make_flocked", refuse)
    pool.publish("t")

    def claim_unbound() -> bool:
        return "owner" in pool.claim("t", "a").task

    assert run(claim_unbound) == "False"
    assert_held(pool)
    assert pool.recover(older_than=0).returned == ["t"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_claim_file_and_an_owner_file_that_we_may_not_read_stop_nobody(
    pool: TaskPool,
) -> None:
    for task_id in ("t", "u"):
        pool.publish(task_id)
    for directory in (pool.tasks_dir, *pool.tasks_dir.iterdir()):
        directory.chmod(0o777)
    for parent in pool.tasks_dir.parents[:4]:
        parent.chmod(0o755)
    with agent(claim(pool)), agent(claim(pool, "u")) as dead:
        for path in (*pool.claimed_dir.glob("t_*"), *(pool.tasks_dir / "owners").iterdir()):
            path.chmod(0o600)

        def look() -> object:
            os.setresuid(65534, 65534, 65534)
            dead_is_alive = pool.claim_task("u", "b")
            return dead_is_alive, len(pool.recover().problems)

        dead.kill()
        assert run(look) == "({}, 1)"


def test_what_is_no_owner_file_is_nobody_and_in_nobodys_way(pool: TaskPool) -> None:
    directory = pool.tasks_dir / "owners"
    (directory / "directory.owner").mkdir()
    (directory / "link.owner").symlink_to("nowhere")
    os.mkfifo(directory / "fifo.owner")
    pool.recover()
    assert pool.claim_task("none", "a") == {}
    with pytest.raises(LookupError):
        pool.claim("none", "a")
    # The FIFO can be flocked, and goes as the file of a dead process does.
    assert {"directory.owner", "link.owner"} <= set(os.listdir(directory))


# Families -----------------------------------------------------------------------------------------


def test_the_end_of_a_forked_child_does_not_end_its_parents_claims(pool: TaskPool) -> None:
    pool.publish("t")

    def claim_and_fork() -> None:
        pool.claim("t", "a")
        run(lambda: None)

    with agent(claim_and_fork):
        assert_held(pool)


@pytest.mark.parametrize("kind", ["fork", "exec", "subprocess", "all descriptors"])
def test_a_child_does_not_prolong_the_life_of_a_dead_parent(pool: TaskPool, kind: str) -> None:
    pool.publish("t")

    def claim_and_leave_a_child() -> int:
        pool.claim("t", "a")
        if kind == "subprocess":
            return subprocess.Popen(SLEEP).pid
        if kind == "all descriptors":
            return subprocess.Popen(SLEEP, close_fds=False).pid
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            if kind == "exec":
                os.execv(sys.executable, SLEEP)
            os.write(writing, b"has run")
            while True:
                signal.pause()
        os.close(writing)
        os.read(reading, 7)  # it closes what it has inherited when it first runs, or by its exec
        return child

    with agent(claim_and_leave_a_child) as holder:
        child = int(holder.said)
        try:
            assert_held(pool)
            holder.kill()
            if kind == "exec":
                _wait_for_exec(child)
            pool.claim("t", "b")
        finally:
            os.kill(child, signal.SIGKILL)


def _wait_for_exec(process_id: int) -> None:
    while b"time.sleep" not in Path(f"/proc/{process_id}/cmdline").read_bytes():
        pass


def test_a_childs_claims_are_its_own_through_two_generations(pool: TaskPool) -> None:
    for task_id in ("t", "u", "v"):
        pool.publish(task_id)
    pool.claim("t", "parent")

    def child() -> int:
        pool.claim("u", "child")
        reading, writing = os.pipe()
        grandchild = os.fork()
        if grandchild == 0:
            pool.claim("v", "grandchild")
            os.write(writing, b".")
            while True:
                signal.pause()
        os.read(reading, 1)
        return grandchild

    with agent(child) as process:
        grandchild = int(process.said)
        try:
            for task_id in ("t", "u", "v"):
                assert run(lambda task_id=task_id: assert_held(pool, task_id)) == "None"
            process.kill()
            assert pool.recover().returned == ["u"]
            assert run(lambda: assert_held(pool, "v")) == "None"
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_children_forked_while_other_threads_claim_do_not_prolong_a_dead_parent(
    make_pool: Callable[..., TaskPool], tmp_path: Path
) -> None:
    names = [f"p{n}" for n in range(20)]
    for name in names:
        make_pool(tmp_path / name).publish("t")

    def claim_while_forking() -> str:
        children: list[int] = []
        claiming = threading.Thread(
            target=lambda: [make_pool(tmp_path / name).claim("t", "a") for name in names]
        )
        reading, writing = os.pipe()
        claiming.start()
        while claiming.is_alive():
            child = os.fork()
            if child == 0:
                os.write(writing, b"1")  # it has run: before, it cannot have closed anything
                while True:
                    signal.pause()
            children.append(child)
        for _ in children:
            os.read(reading, 1)
        return " ".join(map(str, children))

    with agent(claim_while_forking) as holder:
        children = [int(child) for child in holder.said.split()]
        try:
            holder.kill()
            for name in names:
                make_pool(tmp_path / name).claim("t", "b")
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


def test_a_spawned_process_has_a_life_of_its_own(pool: TaskPool) -> None:
    pool.publish("t")
    code = (
        "import sys, time; from fastclaim import TaskPool, _transition_py\n"
        f"TaskPool({os.fspath(pool.base_dir)!r}).claim('t', 'a')\n"
        "print('claimed', flush=True); time.sleep(600)"
    )
    environment = os.environ | {
        "FASTCLAIM_NO_EXTENSIONS": "1" if pool._directories.core.NAME == "python" else "0"
    }
    command = [sys.executable, "-c", code]
    with running(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"claimed\n"
        assert_held(pool)
        holder.kill()
        holder.wait()
        pool.claim("t", "b")


def test_processes_of_another_pid_namespace_live_and_die_like_ours(pool: TaskPool) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"]).returncode != 0:
        pytest.skip("no PID namespace may be made here")
    pool.publish("t")
    code = (
        "import os, time; from fastclaim import TaskPool\n"
        f"TaskPool({os.fspath(pool.base_dir)!r}).claim('t', 'a')\n"
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    command = [*unshare, sys.executable, "-c", code]
    with running(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"  # a number that somebody here has, too
        assert_held(pool)
        holder.kill()
        holder.wait()
        holder.stdout.read()  # ends when the namespace does
        pool.claim("t", "b")


def test_owners_that_are_not_ours_to_look_at_are_left_to_others(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    listdir = os.listdir

    def refuse(path: Any = ".") -> list[str]:
        if os.path.basename(os.fspath(path)) == "owners":
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    for _ in range(2):
        assert pool.claim_task("nothing", "a") == {}
        assert pool.claim_next("a") is None
