"""Hold, move, stamp: what both cores promise, one rule a test."""

from __future__ import annotations

import ast
import errno
import fcntl
import inspect
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import (
    AlreadyClaimed,
    ClaimLost,
    InvalidName,
    InvalidTask,
    LockTimeout,
    NameCollision,
    PoolPaused,
    TaskExists,
    TaskNotAvailable,
    TaskPool,
    _transition_py,
    claiming,
    outcome,
    stamps,
)
from fastclaim._core import posix
from fastclaim.document import SECTOR_BYTES
from fastclaim.inotify import Inotify

from .conftest import _transition_c

# Of inotify(7).
IN_OPEN = 0x020
IN_CLOSE = 0x018

LONG_S = 30.0


def _offers(core: ModuleType) -> dict[str, list[str]]:
    """What a core's functions and the methods of what it holds are called, and their parameters."""
    callables = vars(core) | {f"Held.{name}": found for name, found in vars(core.Held).items()}
    return {
        name: list(inspect.signature(found).parameters)
        for name, found in callables.items()
        if not name.rpartition(".")[-1].startswith("_")
        and inspect.isroutine(found)
        and getattr(found, "__module__", core.__name__) == core.__name__
    }


@pytest.mark.skipif(_transition_c is None, reason="the extension was not built")
def test_the_two_cores_and_the_stub_of_the_compiled_one_offer_the_same() -> None:
    offered = _offers(_transition_py)
    assert _offers(_transition_c) == offered
    stub = ast.parse(Path(_transition_c.__file__).with_name("_transition_c.pyi").read_text())
    (held,) = (node for node in stub.body if isinstance(node, ast.ClassDef))
    functions = [("", node) for node in stub.body] + [("Held.", node) for node in held.body]
    assert offered == {
        prefix + node.name: [argument.arg for argument in node.args.args]
        for prefix, node in functions
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


@pytest.mark.skipif(_transition_c is None, reason="the extension was not built")
def test_what_holds_nothing_and_directories_that_are_none_are_errors_and_no_crash(
    tmp_path: Path,
) -> None:
    nothing, two = _transition_c.Held(), (b"a", b"b")
    for call in (
        lambda: nothing.read(),
        lambda: nothing.move(b"x"),
        lambda: nothing.prepare(b"x", b"{}", 0, outcome.SYNC_NONE),
        lambda: nothing.publish(two, outcome.SYNC_FULL, True),
        lambda: nothing.claim(b"x", two, outcome.SYNC_FULL),
        lambda: nothing.finish(b"x", two, outcome.SYNC_FULL, False),
    ):
        with pytest.raises(ValueError, match="this holds nothing"):
            call()
    names = bytes(tmp_path / "temporary"), bytes(tmp_path / "task")
    for directories in ((None, b"a"), (b"a",)):
        with pytest.raises((TypeError, ValueError)):
            _transition_c.publish(*names, directories, b"{}", 0, outcome.SYNC_FULL)
    assert os.listdir(tmp_path) == []


@contextmanager
def flocked(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    """Somebody else in the middle of a transition."""
    descriptor = os.open(path, flags)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def names(pool: TaskPool) -> set[str]:
    """All but the owner files, which say who lives."""
    found = {str(path.relative_to(pool.tasks_dir)) for path in pool.tasks_dir.glob("*/*")}
    return {name for name in found if not name.startswith("owners/")}


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def as_nobody(function: Callable[[], None]) -> None:
    """Run in a child without root's rights; its failures are ours."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            function()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_outcomes_are_the_same_in_both_cores(core: ModuleType) -> None:
    theirs = getattr(core, "OUTCOMES", vars(outcome))
    ours = {
        k: v for k, v in vars(outcome).items() if k.isupper() and not k.startswith(("SYNC", "TYPE"))
    }
    assert {name: theirs[name] for name in ours} == ours


# Claims -------------------------------------------------------------------------------------------


def test_a_claim_stamps_the_published_inode_and_only_its_sector(pool: TaskPool) -> None:
    pool.publish("x", "d" * 5000, priority=3)
    published = (pool.available_dir / "x.json").read_bytes()
    inode = (pool.available_dir / "x.json").stat().st_ino
    claim = pool.claim("x", "a")
    claimed = pool.claimed_dir / "x_a.json"
    assert claimed.stat().st_ino == inode
    assert claimed.read_bytes()[SECTOR_BYTES:] == published[SECTOR_BYTES:]
    assert claim.task == json.loads(claimed.read_bytes())
    assert names(pool) == {"claimed/x_a.json"}


def test_a_stamp_puts_the_mtime_back_so_that_the_next_one_is_in_place_too(pool: TaskPool) -> None:
    pool.publish("x")
    inode = (pool.available_dir / "x.json").stat().st_ino
    for agent in ("a", "b", "c"):
        pool.claim("x", agent).release()
        assert (pool.available_dir / "x.json").stat().st_ino == inode
    pool.claim("x", "d").complete({"ok": 1})
    assert (pool.completed_dir / "x_complete.json").stat().st_ino == inode


def test_claims_and_releases_do_not_make_a_task_grow(pool: TaskPool) -> None:
    pool.publish_task("x", "d", ["r"], {"deadline": 1e12})
    published = (pool.available_dir / "x.json").read_bytes()
    for agent in ("a", "b" * 100, "c"):
        pool.claim("x", agent).release()
    again = (pool.available_dir / "x.json").read_bytes()
    assert len(again) == len(published)
    assert json.loads(again).keys() == json.loads(published).keys()


def test_the_claimed_file_and_the_returned_dict_are_equal(pool: TaskPool) -> None:
    pool.publish_task("x", "é\ud800", ["r"], {"n": 10**80, "f": 1.1, "nan": None})
    task = pool.claim_task("x", 'a"\n\x01\x7fé')  # type: ignore[arg-type]
    (path,) = pool.claimed_dir.iterdir()
    assert json.loads(path.read_bytes()) == task
    assert task["claimed_by"] == task["constraint_enforcement"]["claimed_by"] == 'a"\n\x01\x7fé'
    times = (task["claimed_at"], task["claim_lock_acquired_at"])
    assert {*times, task["constraint_enforcement"]["claimed_at"]} == {times[0]}


def test_agent_ids_keep_their_json_type(pool: TaskPool) -> None:
    pool.publish_task("x", "d")
    assert pool.claim_task("x", 7)["claimed_by"] == 7  # type: ignore[arg-type]
    assert pool.complete_task("x", 7, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "agent", ["b" * 240, "\x01" * 100, "é" * 100], ids=["long", "escapes", "é"]
)
def test_a_stamp_that_does_not_fit_the_sector_is_made_all_the_same(
    pool: TaskPool, agent: str
) -> None:
    pool.publish_task("x", "d")
    task = pool.claim_task("x", agent)
    assert task["claimed_by"] == agent
    assert json.loads((pool.claimed_dir / f"x_{agent}.json").read_bytes()) == task
    assert pool.complete_task("x", agent, {"ok": True})
    assert names(pool) == {"completed/x_complete.json"}


def test_a_claim_of_a_task_that_is_not_there_creates_nothing(pool: TaskPool) -> None:
    with pytest.raises(TaskNotAvailable):
        pool.claim("x", "a")
    assert pool.claim_task("x", "a") == {}
    assert names(pool) == set()


def test_of_many_threads_one_gets_the_task(pool: TaskPool) -> None:
    pool.publish("x")
    won: list[object] = []
    start = threading.Barrier(16)

    def race(agent: int) -> None:
        start.wait()
        if pool.claim_task("x", f"a{agent}"):
            won.append(agent)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert names(pool) == {f"claimed/x_a{won[0]}.json"}


@pytest.mark.parametrize(
    ("changed_s_ago", "same_tick"),
    [(3600.0, False), (-60.0, True), (0.5, True)],
    ids=["later", "before a tick", "in a coarse clock's tick"],
)
def test_a_pause_that_comes_after_a_claim_is_seen_by_the_next_one(
    pool: TaskPool, changed_s_ago: float, same_tick: bool
) -> None:
    pool.publish("x")
    pool.publish("y")
    changed_ns = time.time_ns() - round(changed_s_ago * 1e9)
    if changed_s_ago == 0.5:
        changed_ns -= changed_ns % 1_000_000_000
    os.utime(pool.tasks_dir, ns=(changed_ns, changed_ns))
    pool.claim("x", "a")
    (pool.tasks_dir / "paused").write_text("by hand")
    if same_tick:
        os.utime(pool.tasks_dir, ns=(changed_ns, changed_ns))
    with pytest.raises(PoolPaused):
        pool.claim("y", "a")


def test_a_pause_that_comes_right_after_the_look_is_seen_by_the_next_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Python core's alone: there one can come in between.
    pool = TaskPool(tmp_path / "pool", _core=_transition_py)
    pool.publish_many([{"task_id": "x"}, {"task_id": "y"}])
    lstat, changed_ns = posix.lstat, time.time_ns()
    monkeypatch.setattr(posix, "file_clock_ns", lambda: changed_ns)

    def pause_after(path: bytes, at: int | None = None) -> os.stat_result | None:
        found = lstat(path, at)
        if path == b"paused":
            (pool.tasks_dir / "paused").write_text("by hand")
            os.utime(pool.tasks_dir, ns=(changed_ns, changed_ns))
            monkeypatch.setattr(posix, "file_clock_ns", lambda: changed_ns + 10**10)
        return found

    os.utime(pool.tasks_dir, ns=(changed_ns, changed_ns))
    monkeypatch.setattr(posix, "lstat", pause_after)
    pool.claim("x", "a")
    with pytest.raises(PoolPaused):
        pool.claim("y", "a")


@pytest.mark.parametrize("choosy", [False, True])
def test_a_task_that_somebody_has_is_tried_again_within_the_call_unless_there_are_others(
    pool: TaskPool, core: ModuleType, choosy: bool
) -> None:
    pool.publish("x")
    directories = pool._directories
    tasks = directories.opened()
    stamp = stamps.claim_stamp("a", stamps.UNTIL_ENDED)
    with flocked(pool.available_dir / "x.json"), Inotify() as watch:
        watch.add(bytes(pool.available_dir / "x.json"), IN_OPEN | IN_CLOSE)
        came_to, _ = core.claim(
            directories, tasks, "x", "a", *stamp, "t", True, -1, False, b"" if choosy else None
        )
        opened = sum(event.mask & IN_OPEN != 0 for event in watch.read())
    assert came_to == outcome.BUSY
    assert opened == (1 if choosy else 8)


class Renamed(str):
    """An id that an f-string writes otherwise than it is."""

    def __format__(self, spec: str) -> str:
        return "y"


@pytest.mark.parametrize(
    "task_id", ["x", "", 7, None, "ä", "\udcff", "\n", Renamed("x")], ids=ascii
)
@pytest.mark.parametrize("agent_id", ["a", "ä", 7, Renamed("a")], ids=ascii)
def test_a_claim_moves_the_file_that_the_ids_name_in_an_f_string(
    pool: TaskPool, task_id: object, agent_id: object
) -> None:
    (pool.available_dir / f"{task_id}.json").write_text('{"task_id": "x"}')
    assert pool.claim_task(task_id, agent_id)  # the original's takes any
    assert names(pool) == {f"claimed/{task_id}_{agent_id}.json"}


@pytest.mark.parametrize("character", ["a", "ä"])
def test_a_claim_takes_as_long_a_name_as_the_file_system(pool: TaskPool, character: str) -> None:
    longest = character * ((255 - len("_a.json")) // len(character.encode()))
    longest += "a" * (255 - len("_a.json") - len(longest.encode()))
    for task_id in (longest, longest + "a"):
        (pool.available_dir / f"{task_id}.json").write_text("{}")
    pool.claim(longest, "a")
    with pytest.raises(InvalidName, match="256 bytes"):
        pool.claim(longest + "a", "a")
    assert names(pool) == {f"claimed/{longest}_a.json", f"available/{longest}a.json"}


# The original's lock file -------------------------------------------------------------------------


def test_a_loser_never_unlinks_or_truncates_the_lock(pool: TaskPool) -> None:
    pool.publish("x")
    lock = pool.available_dir / "x.lock"
    lock.write_text("held")
    with flocked(lock):
        with pytest.raises(LockTimeout):
            pool.claim("x", "a", timeout=0)
        assert lock.read_text() == "held"
    pool.claim("x", "a", timeout=0)
    assert not lock.exists()


def test_a_lock_left_by_a_dead_process_is_taken_over_and_removed(pool: TaskPool) -> None:
    pool.publish("x")
    (pool.available_dir / "x.lock").touch()
    pool.claim("x", "a", timeout=0)
    assert names(pool) == {"claimed/x_a.json"}


def test_who_had_the_lock_removes_it_when_the_claim_is_refused(pool: TaskPool) -> None:
    (pool.available_dir / "x.json").write_text('{"status": "claimed", "claimed_by": "z"}')
    with pytest.raises(AlreadyClaimed) as refused:
        pool.claim("x", "a")
    assert refused.value.holder == "z"
    assert names(pool) == {"available/x.json"}


def test_without_lock_files_nobody_looks_at_them(make_pool: Callable[..., TaskPool]) -> None:
    pool = make_pool(lock_files=False)
    pool.publish("x")
    lock = pool.available_dir / "x.lock"
    lock.touch()
    with flocked(lock):
        pool.claim("x", "a", timeout=0)
    assert lock.exists()


@pytest.mark.parametrize("plant", ["symlink", "fifo", "directory"])
def test_a_planted_lock_neither_hangs_nor_misleads(
    pool: TaskPool, tmp_path: Path, plant: str
) -> None:
    pool.publish("x")
    lock, victim = pool.available_dir / "x.lock", tmp_path / "victim"
    victim.write_text("precious")
    if plant == "symlink":
        lock.symlink_to(victim)
    elif plant == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(OSError, match=r"x\.lock"):
        pool.claim("x", "a", timeout=0)
    assert pool.claim_task("x", "a", timeout=0) == {}
    assert victim.read_text() == "precious"
    assert (pool.available_dir / "x.json").exists()


# Hold ---------------------------------------------------------------------------------------------


def test_a_task_in_others_hands_is_busy_not_lost(pool: TaskPool) -> None:
    pool.publish("x")
    with flocked(pool.available_dir / "x.json"), pytest.raises(LockTimeout):
        pool.claim("x", "a", timeout=0)
    pool.claim("x", "a", timeout=0)


def test_a_claim_that_is_held_is_waited_for_and_then_completed(
    pool: TaskPool, pausing: threading.Event
) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    with flocked(pool.claimed_dir / "x_a.json") as holder:
        thread = threading.Thread(target=claim.complete, args=({"ok": 1},))
        thread.start()
        assert pausing.wait(60)
        assert pool.counts()["completed"] == 0
        fcntl.flock(holder, fcntl.LOCK_UN)
        thread.join()
    assert pool.counts() == {"available": 0, "claimed": 0, "completed": 1, "failed": 0}


@pytest.mark.parametrize("plant", ["fifo", "directory", "symlink", "zeros", "socket"])
def test_what_is_no_regular_file_is_refused_and_the_others_are_served(
    pool: TaskPool, tmp_path: Path, plant: str
) -> None:
    pool.publish("good")
    path, elsewhere = pool.available_dir / "x.json", tmp_path / "elsewhere"
    elsewhere.write_text('{"task_id": "x"}')
    if plant == "fifo":
        os.mkfifo(path)
    elif plant == "directory":
        path.mkdir()
    elif plant == "symlink":
        path.symlink_to(elsewhere)
    elif plant == "zeros":
        path.symlink_to("/dev/zero")
    else:
        here = os.getcwd()
        os.chdir(pool.available_dir)  # a socket's name may have 108 bytes at most
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("x.json")
        os.chdir(here)
    with pytest.raises(InvalidTask, match="regular file"):
        pool.claim("x", "a")
    assert pool.claim_task("x", "a") == {}
    assert [task["task_id"] for task in pool.get_available_tasks()] == ["good"]
    assert [task["task_id"] for task in pool.tasks()] == ["good"]
    assert pool.claim_task("good", "a")
    assert names(pool) == {"available/x.json", "claimed/good_a.json"}


def test_a_hole_of_a_terabyte_is_refused_without_being_read(pool: TaskPool) -> None:
    path = pool.available_dir / "x.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert pool.claim_task("x", "a") == {}
    assert pool.get_available_tasks() == []
    assert names(pool) == {"available/x.json"}


# Move ---------------------------------------------------------------------------------------------


def test_claims_that_share_a_file_name_do_not_overwrite_each_other(pool: TaskPool) -> None:
    pool.publish("a")
    pool.publish("a_b")
    first = pool.claim("a_b", "c")
    with pytest.raises(NameCollision):
        pool.claim("a", "b_c")
    assert pool.claim_task("a", "b_c") == {}
    assert (pool.available_dir / "a.json").exists()
    with pytest.raises(ClaimLost):
        pool.complete("a", "b_c")
    first.complete()
    pool.claim("a", "b_c")


def test_an_old_claim_of_the_same_task_and_agent_is_replaced(pool: TaskPool) -> None:
    pool.publish("x", "old")
    old = pool.claim("x", "a")
    pool.publish("x", "new", if_exists="replace")
    new = pool.claim("x", "a")
    assert new.task["description"] == "new"
    with pytest.raises(ClaimLost):
        old.complete("late")
    new.complete()
    assert names(pool) == {"completed/x_complete.json"}


@pytest.mark.parametrize("old", [b"", b"null", b"{", b'{"task_id": "y"}', b'{"claimed_by": "z"}'])
def test_an_old_claim_that_is_not_ours_is_not_replaced(pool: TaskPool, old: bytes) -> None:
    pool.publish("x")
    (pool.claimed_dir / "x_a.json").write_bytes(old)
    with pytest.raises(NameCollision):
        pool.claim("x", "a")
    assert (pool.claimed_dir / "x_a.json").read_bytes() == old
    assert names(pool) == {"available/x.json", "claimed/x_a.json"}


def test_directories_on_different_file_systems_lose_nothing(pool: TaskPool, tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    places = (Path(place) for place in ("/dev/shm", tempfile.gettempdir()))
    other = next(
        (place for place in places if place.is_dir() and place.stat().st_dev != device), None
    )
    if other is None:
        pytest.skip("no second file system to write to")
    elsewhere = Path(tempfile.mkdtemp(dir=other))
    try:
        pool.publish("x")
        pool.claimed_dir.rmdir()
        pool.claimed_dir.symlink_to(elsewhere)
        published = (pool.available_dir / "x.json").read_bytes()
        with pytest.raises(OSError) as refused:  # noqa: PT011
            pool.claim("x", "a")
        assert refused.value.errno == errno.EXDEV
        assert pool.claim_task("x", "a") == {}
        assert (pool.available_dir / "x.json").read_bytes() == published
        assert list(elsewhere.iterdir()) == []
    finally:
        for left in elsewhere.iterdir():
            left.unlink()
        elsewhere.rmdir()


# Stamp --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw[:600] + b'"' + raw[601:],
        lambda raw: raw[:-2],
        lambda raw: raw[:512],
        lambda raw: raw[:-3] + b"\xff" + raw[-2:],
        lambda raw: b"",
        lambda raw: raw.replace(b'"status":"available"', b'"status":"available,'),
    ],
    ids=["same length", "cut", "sector only", "not UTF-8", "empty", "sector"],
)
def test_an_edit_that_breaks_a_task_of_ours_is_noticed_before_it_moves(
    pool: TaskPool, edit: Callable[[bytes], bytes]
) -> None:
    pool.publish_task("x", "d" * 300)
    path = pool.available_dir / "x.json"
    broken = edit(path.read_bytes())
    path.write_bytes(broken)
    with pytest.raises(InvalidTask, match="x"):
        pool.claim("x", "a")
    assert pool.claim_task("x", "a") == {}
    assert path.read_bytes() == broken
    assert names(pool) == {"available/x.json"}


def test_a_claim_that_was_broken_by_an_edit_is_not_completed(pool: TaskPool) -> None:
    pool.publish_task("x", "d" * 300)
    claim = pool.claim("x", "a")
    path = pool.claimed_dir / "x_a.json"
    raw = path.read_bytes()
    path.write_bytes(raw[:600] + b'"' + raw[601:])
    with pytest.raises(InvalidTask):
        claim.complete()
    assert not pool.complete_task("x", "a", {})
    assert names(pool) == {"claimed/x_a.json"}


def test_an_edit_that_keeps_a_task_whole_is_kept(pool: TaskPool) -> None:
    pool.publish("x", "before")
    path = pool.available_dir / "x.json"
    path.write_bytes(path.read_bytes().replace(b"before", b"behind"))
    claim = pool.claim("x", "a")
    assert claim.task["description"] == "behind"
    claim.release()
    assert pool.claim_task("x", "b")["description"] == "behind"


def test_the_other_link_of_a_hard_linked_task_is_not_written(
    pool: TaskPool, tmp_path: Path
) -> None:
    pool.publish("x", "template")
    template = tmp_path / "template.json"
    os.link(pool.available_dir / "x.json", template)
    before = template.read_bytes()
    pool.claim("x", "a").complete({"ok": 1})
    assert template.read_bytes() == before


def test_read_only_tasks_are_claimed_and_completed(make_pool: Callable[..., TaskPool]) -> None:
    pool = make_pool()
    pool.publish("x")
    (pool.available_dir / "x.json").chmod(0o444)
    for directory in (pool.available_dir, pool.claimed_dir, pool.completed_dir):
        directory.chmod(0o777)
    for directory in (pool.available_dir, *pool.available_dir.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)

    def claim_and_complete() -> None:
        assert pool.claim_task("x", "a")
        assert pool.complete_task("x", "a", {"ok": 1})

    as_nobody(claim_and_complete)
    assert names(pool) == {"completed/x_complete.json"}


def test_a_documents_file_mode_follows_the_umask(pool: TaskPool) -> None:
    before = os.umask(0o027)
    try:
        pool.publish("x")
    finally:
        os.umask(before)
    assert (pool.available_dir / "x.json").stat().st_mode & 0o777 == 0o640


def test_what_the_originals_monitor_gives_back_does_not_grow(pool: TaskPool) -> None:
    pool.publish_task("x", "d", ["r"], {"deadline": 1e12})
    sizes = set()
    for _ in range(3):
        assert pool.claim_task("x", "a")
        claimed = pool.claimed_dir / "x_a.json"
        task = json.loads(claimed.read_bytes())
        for name in ("claimed_by", "claimed_at"):
            task.pop(name)
        task["status"] = "available"
        with (pool.available_dir / "x.json").open("w") as file:
            json.dump(task, file, indent=2)
        claimed.unlink()
        sizes.add((pool.available_dir / "x.json").stat().st_size)
    assert max(sizes) - min(sizes) < 8  # times are written without trailing zeros


@pytest.mark.parametrize("plant", ["symlink", "hard link", "fifo"])
def test_nothing_is_written_through_a_planted_name(
    pool: TaskPool, tmp_path: Path, plant: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for path in (pool.available_dir / "x.json", pool.completed_dir / "x_complete.json"):
        if plant == "symlink":
            path.symlink_to(victim)
        elif plant == "hard link":
            os.link(victim, path)
        else:
            os.mkfifo(path)
    assert pool.publish_task("x", "d")
    assert pool.claim_task("x", "a")
    assert pool.complete_task("x", "a", {"ok": True})
    assert victim.read_text() == "precious"
    assert names(pool) == {"completed/x_complete.json"}


def test_what_a_claim_moved_unread_goes_back_also_if_its_publisher_still_holds_it(
    pool: TaskPool, core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x")
    claim, hold = core.claim, core.hold
    publisher = os.open(pool.available_dir / "x.json", os.O_RDWR)
    fcntl.flock(publisher, fcntl.LOCK_EX)

    def move_a_newer_publication(*_: object) -> tuple[int, None]:
        monkeypatch.setattr(core, "claim", claim)
        os.rename(pool.available_dir / "x.json", pool.claimed_dir / "x_a.json")
        return outcome.CHANGED, None

    def hold_and_be_let_in_the_next_time(*arguments: object) -> object:
        held = hold(*arguments)
        fcntl.flock(publisher, fcntl.LOCK_UN)
        return held

    monkeypatch.setattr(core, "claim", move_a_newer_publication)
    monkeypatch.setattr(core, "hold", hold_and_be_let_in_the_next_time)
    assert pool.claim("x", "a").task["claimed_by"] == "a"
    os.close(publisher)


def test_what_its_publisher_holds_for_long_goes_back_to_whoever_looks_next(
    pool: TaskPool, core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x")
    claim = core.claim

    def move_a_newer_publication(*_: object) -> tuple[int, None]:
        monkeypatch.setattr(core, "claim", claim)
        os.rename(pool.available_dir / "x.json", pool.claimed_dir / "x_a.json")
        return outcome.CHANGED, None

    monkeypatch.setattr(core, "claim", move_a_newer_publication)
    monkeypatch.setattr(claiming, "_GIVE_BACK_S", 0.0)
    with flocked(pool.available_dir / "x.json"):
        with pytest.raises(AlreadyClaimed, match="'x' is just being claimed"):
            pool.claim("x", "a")
        assert pool.claim_next("b") is None
    found = pool.claim_next("b", wait=LONG_S)
    assert found is not None
    assert found.task_id == "x"


# Finish -------------------------------------------------------------------------------------------


def test_a_result_of_any_size_arrives_and_the_rest_is_kept(pool: TaskPool) -> None:
    for number, result in enumerate([None, {"ok": True}, "x" * 511, {"big": "y" * 1_000_000}]):
        task_id = f"x{number}"
        pool.publish(task_id, "d", priority=number)
        before = pool.claim(task_id, "a").task
        pool.complete(task_id, "a", result)
        done = json.loads((pool.completed_dir / f"{task_id}_complete.json").read_bytes())
        assert done.pop("result") == result
        assert done.pop("status") == "completed"
        assert done.pop("completed_at") >= done["claimed_at"]
        before.pop("status")
        assert {**done, "fastclaim": 0} == {**before, "fastclaim": 0}
        assert names(pool) == {f"completed/x{n}_complete.json" for n in range(number + 1)}


def test_a_late_completion_changes_nothing(pool: TaskPool) -> None:
    pool.publish("x")
    early = pool.claim("x", "a")
    early.release()
    late = pool.claim("x", "a")
    path = pool.claimed_dir / "x_a.json"
    before = path.read_bytes()
    with pytest.raises(ClaimLost):
        early.complete("late")
    with pytest.raises(ClaimLost):
        early.release()
    assert path.read_bytes() == before
    late.complete("in time")


def test_a_release_does_not_overwrite_a_newer_publication(pool: TaskPool) -> None:
    pool.publish("x", "old")
    claim = pool.claim("x", "a")
    pool.publish("x", "new", if_exists="replace")
    before = (pool.claimed_dir / "x_a.json").read_bytes()
    with pytest.raises(TaskExists):
        claim.release()
    assert (pool.claimed_dir / "x_a.json").read_bytes() == before
    assert next(pool.tasks())["description"] == "new"
    claim.complete()


def test_a_result_that_is_no_json_leaves_the_claim(pool: TaskPool) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    with pytest.raises(InvalidTask, match="serialisable"):
        claim.complete(object())
    assert not pool.complete_task("x", "a", {"o": object()})
    claim.complete()


def test_a_claim_without_a_stamp_is_completed_as_by_the_original(pool: TaskPool) -> None:
    (pool.claimed_dir / "x_a.json").write_text('{"task_id": "x", "n": 1.50}')
    assert pool.complete_task("x", "a", {"ok": 1})
    raw = (pool.completed_dir / "x_complete.json").read_bytes()
    assert b'"n": 1.50' in raw
    assert json.loads(raw)["result"] == {"ok": 1}


# Descriptors and processes ------------------------------------------------------------------------


def test_no_descriptor_stays_open(make_pool: Callable[..., TaskPool]) -> None:
    pool = make_pool(durability="full")
    pool.publish("w")
    pool.claim("w", "a")
    for _ in range(2):  # from the second miss on the kernel is listened to
        pool.claim_task("nothing", "a")
    before = descriptors()  # tasks/, the owner file, and what tells of deaths
    pool.publish("x")
    pool.publish("y")
    (pool.available_dir / "f.json").write_text("{}")
    (pool.available_dir / "g.json").write_text("{")
    pool.claim("x", "a").complete("r" * 1000)
    pool.claim("y", "a").release()
    pool.claim("f", "a")
    for task_id in ("g", "nothing"):
        assert pool.claim_task(task_id, "a") == {}
    assert not pool.complete_task("y", "a", {})
    assert descriptors() == before


def test_a_forked_bystander_does_not_keep_a_task_locked(pool: TaskPool) -> None:
    pool.publish("x")
    pool.publish("y")
    directories = pool._directories
    path = os.fsencode(pool.available_dir / "x.json")
    _, held = directories.core.hold(directories.opened(), path, None)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # it has a copy of the descriptor, and so of the lock
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    held.close()
    pool.claim("x", "a", timeout=0)
    os.close(writer)
    os.waitpid(child, 0)


def test_threads_that_claim_while_the_interpreter_ends_do_no_harm(pool: TaskPool) -> None:
    program = (
        "import pickle, sys, threading; pool = pickle.load(sys.stdin.buffer)\n"
        "begun = threading.Barrier(5)\n"
        "def work(agent):\n"
        "    begun.wait()\n"
        "    while True:\n"
        "        pool.publish_task(agent, 'd'); pool.claim_task(agent, agent)\n"
        "        pool.complete_task(agent, agent, {})\n"
        "for n in range(4): threading.Thread(target=work, args=(f'a{n}',), daemon=True).start()\n"
        "begun.wait()"
    )
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(pool), check=False)
    assert done.returncode == 0
    for path in pool.tasks_dir.glob("*/*.json"):
        json.loads(path.read_bytes())


def test_forked_and_spawned_processes_share_the_pool(
    make_pool: Callable[..., TaskPool],
) -> None:
    pool = make_pool(bind_claims=False)  # the claims of the one are not to die with it
    for number in range(20):
        pool.publish(f"x{number}")
    program = (
        "import pickle, sys; pool = pickle.load(sys.stdin.buffer)\n"
        "print(sum(bool(pool.claim_task(f'x{n}', 'spawned')) for n in range(20)))"
    )
    spawned = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child = os.fork()
    if child == 0:
        os._exit(sum(bool(pool.claim_task(f"x{n}", "forked")) for n in range(20)))
    output, _ = spawned.communicate(pickle.dumps(pool))
    forked = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert forked + int(output) == 20
    assert pool.counts() == {"available": 0, "claimed": 20, "completed": 0, "failed": 0}
