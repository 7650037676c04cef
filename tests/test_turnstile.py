"""Of many processes that wait for the same tasks few listen, and no sleeper is forgotten."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastclaim import TaskPool, selection, turnstile
from fastclaim.turnstile import Turnstile

from .agents import agent

PLACES = 2
LONG_S = 60.0


class Team:
    """Processes that each wait for one task, and stay when they have it."""

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        self._reading, self._writing = os.pipe()
        self.members: list[int] = []
        self.agent_id = "a"  # of who joins from now on

    def start(self, *capabilities: str, wait_s: float | None = None) -> int:
        """One more, which is going to wait."""
        process_id = os.fork()
        if process_id == 0:
            self._wait(capabilities, wait_s)
        self.members.append(process_id)
        return process_id

    def join(self, *capabilities: str, wait_s: float | None = None) -> int:
        """One more; returns when it waits."""
        process_id = self.start(*capabilities, wait_s=wait_s)
        until_s = time.monotonic() + LONG_S
        while not (self.listens(process_id) or self.sleeps(process_id)):
            assert time.monotonic() < until_s
        return process_id

    def _wait(self, capabilities: tuple[str, ...], wait_s: float | None) -> None:
        said = "nothing"
        try:
            claim = self._pool.claim_next(self.agent_id, capabilities, wait=wait_s)
            said = claim.task_id if claim else "none"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(self._writing, f"{said}\n".encode())
        while True:
            signal.pause()

    def said(self) -> str:
        """What the next of them says: the task that it has, or why it has none."""
        said = b""
        poll = select.poll()  # there may be more files than select(2) knows
        poll.register(self._reading, select.POLLIN)
        while not said.endswith(b"\n"):
            assert poll.poll(LONG_S * 1000), "nobody says anything"
            said += os.read(self._reading, 1)
        return said.decode().strip()

    def listens(self, process_id: int) -> bool:
        """Whether it has a place, and the kernel tells it of tasks."""
        places = _descriptors(process_id, "/waiting/")
        has_place = any("FLOCK" in _locks(process_id, descriptor) for descriptor in places)
        return has_place and bool(_descriptors(process_id, "inotify"))

    def sleeps(self, process_id: int) -> bool:
        """Whether it has found all places taken, and given its inotify instances back."""
        found = _descriptors(process_id, "/waiting/")
        return len(found) == turnstile.PLACES and not _descriptors(process_id, "inotify")

    def listeners(self) -> list[int]:
        return [member for member in self.members if self.listens(member)]

    def end(self) -> None:
        for member in self.members:
            os.kill(member, signal.SIGKILL)
            os.waitpid(member, 0)
        self.members.clear()
        os.close(self._reading)
        os.close(self._writing)


def _descriptors(process_id: int, part: str) -> list[str]:
    """Those of a process whose file's name has this part."""
    found = []
    for name in os.listdir(f"/proc/{process_id}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if part in os.readlink(f"/proc/{process_id}/fd/{name}"):
                found.append(name)
    return found


def _locks(process_id: int, descriptor: str) -> str:
    try:
        return Path(f"/proc/{process_id}/fdinfo/{descriptor}").read_text()
    except FileNotFoundError:
        return ""


def test_who_may_read_what_others_may_not_does_not_leave_listening_to_them(
    pool: TaskPool, make_pool: Callable[..., TaskPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pool._selected().view("any", ["b", "a"])
    assert make_pool()._selected().view("priority", ["a", "b"]).kind == ours.kind
    monkeypatch.setattr(os, "getgroups", lambda: [4711])
    assert make_pool()._selected().view("any", ["b", "a"]).kind != ours.kind


@pytest.fixture
def team(pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    monkeypatch.setattr(turnstile, "PLACES", PLACES)
    monkeypatch.setattr(selection, "_SLOW_LOOK_S", 1e6)  # nothing but a wake wakes
    gc.collect()  # an inotify instance of another test's pool would be taken for the processes' own
    team = Team(pool)
    yield team
    team.end()


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def test_as_many_as_there_are_places_listen_and_the_others_need_no_inotify(
    pool: TaskPool, team: Team
) -> None:
    for _ in range(5):
        team.join()
    assert len(team.listeners()) == PLACES
    for sleeper in set(team.members) - set(team.listeners()):
        assert team.sleeps(sleeper)


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
def test_each_of_many_who_wait_gets_a_task(pool: TaskPool, team: Team, at_once: bool) -> None:
    for _ in range(7):
        team.join()
    tasks = [f"t{number}" for number in range(7)]
    if at_once:
        pool.publish_many({"task_id": task} for task in tasks)
        assert sorted(team.said() for _ in tasks) == tasks
    else:
        for task in tasks:
            pool.publish(task)
            assert team.said() == task


def test_what_a_sleeper_is_woken_for_need_not_have_been_told_to_it(
    pool: TaskPool, team: Team
) -> None:
    for _ in range(PLACES):
        team.join(wait_s=LONG_S)
    listeners = team.listeners()
    sleeper = team.join()
    for listener in listeners:
        os.kill(listener, signal.SIGSTOP)
    pool.publish("t")
    for listener in listeners:
        os.kill(listener, signal.SIGKILL)  # and never looked
    assert team.said() == "t"
    assert team.sleeps(sleeper) is False


def test_who_is_killed_leaves_its_place_to_a_sleeper(pool: TaskPool, team: Team) -> None:
    for _ in range(5):
        team.join()
    for _ in range(3):
        dead = team.listeners()[0]
        os.kill(dead, signal.SIGKILL)
        os.waitpid(dead, 0)
        team.members.remove(dead)
        wait_until(lambda: len(team.listeners()) == PLACES)
    pool.publish("t")
    assert team.said() == "t"


def test_a_death_that_nobody_heard_of_is_found_by_who_listens_next(
    pool: TaskPool, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "PLACES", 1)
    pool.publish("held")
    with agent(lambda: pool.claim("held", "b")) as holder:
        listener = team.join()
        team.join()
        os.kill(listener, signal.SIGSTOP)
        holder.kill()
        os.kill(listener, signal.SIGKILL)
        assert team.said() == "held"


def test_who_does_not_wait_makes_no_places(pool: TaskPool) -> None:
    assert pool.claim_next("a") is None
    assert not (pool.tasks_dir / "waiting").exists()


def test_who_has_waited_long_enough_leaves_its_place_to_a_sleeper(
    pool: TaskPool, team: Team
) -> None:
    for _ in range(PLACES):
        team.join(wait_s=0.5)
    sleeper = team.join()
    assert [team.said() for _ in range(PLACES)] == ["none"] * PLACES
    wait_until(lambda: team.listens(sleeper))


def test_an_interrupt_wakes_a_sleeper_at_once(pool: TaskPool, team: Team) -> None:
    for _ in range(PLACES):
        team.join()
    os.kill(team.join(), signal.SIGINT)
    assert team.said() == "KeyboardInterrupt:"


def test_a_place_is_for_those_who_can_do_the_same(pool: TaskPool, team: Team) -> None:
    for _ in range(PLACES + 1):
        team.join("python")
    docs = team.join("docs")
    assert team.listens(docs)
    pool.publish("t", requirements=["docs"])
    assert team.said() == "t"


def test_a_stopped_listener_keeps_nobody_from_hearing(pool: TaskPool, team: Team) -> None:
    for _ in range(PLACES + 2):
        team.join()
    os.kill(team.listeners()[0], signal.SIGSTOP)
    for task in ("t", "u"):
        pool.publish(task)
        assert team.said() == task


def test_where_all_who_listen_are_stopped_a_sleeper_looks_for_itself(
    pool: TaskPool, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(PLACES):
        team.join()
    monkeypatch.setattr(selection, "_SLOW_LOOK_S", 0.05)
    team.join()
    for listener in team.listeners():
        os.kill(listener, signal.SIGSTOP)
    pool.publish("t")
    assert team.said() == "t"


def test_a_child_does_not_keep_its_dead_parents_place(pool: TaskPool, team: Team) -> None:
    reading, writing = os.pipe()
    (pool.tasks_dir / "waiting").mkdir()
    place = Turnstile(str(pool.tasks_dir), ["kind"])
    parent = os.fork()
    if parent == 0:
        assert place.enter()
        if os.fork() == 0:
            os.write(writing, f"{os.getpid()}\n".encode())
        while True:
            signal.pause()
    child = int(os.read(reading, 20))
    try:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert not _descriptors(child, "/waiting/")
    finally:
        os.kill(child, signal.SIGKILL)


def test_where_there_can_be_no_places_all_listen(pool: TaskPool, team: Team) -> None:
    (pool.tasks_dir / "waiting").write_text("in the way")
    with pytest.raises(OSError, match="waiting"):
        Turnstile(str(pool.tasks_dir), [])

    members = [team.start() for _ in range(PLACES + 1)]
    wait_until(lambda: all(_descriptors(member, "inotify") for member in members))
    tasks = [f"t{number}" for number in range(PLACES + 1)]
    for task in tasks:
        pool.publish(task)
        assert team.said() == task


def test_what_is_cleared_away_under_those_who_wait_keeps_nobody_waiting(
    pool: TaskPool, team: Team
) -> None:
    for _ in range(PLACES + 1):
        team.join()
    for path in (pool.tasks_dir / "waiting").iterdir():
        path.unlink()
    (pool.tasks_dir / "waiting").rmdir()
    tasks = [f"t{number}" for number in range(PLACES + 1)]
    for task in tasks:
        pool.publish(task)
        assert team.said() == task


def test_a_place_that_was_cleared_away_wakes_nobody_for_ever(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "PLACES", 1)
    first, sleeper, last = (Turnstile(str(pool.tasks_dir), []) for _ in range(3))
    assert first.enter()
    assert not sleeper.enter()
    (fifo,) = (pool.tasks_dir / "waiting").iterdir()
    fifo.unlink()
    assert last.enter()
    first.leave()
    assert not sleeper.enter()
    poll = select.poll()
    poll.register(sleeper._reading[0], 0)
    assert poll.poll(0) == []
    last.leave()
    assert sleeper.enter()
    sleeper.leave()


def test_listeners_that_cannot_have_a_task_leave_their_places_to_those_who_can(
    pool: TaskPool, team: Team
) -> None:
    team.agent_id = "a" * 150
    for _ in range(PLACES):
        team.join()
    team.agent_id = "b"
    assert team.sleeps(team.join())
    pool.publish("t" * 120)
    assert team.said() == "t" * 120
