"""Who lives and who waits: what a process holds on the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from fastclaim import TaskPoolError
from fastclaim.aio import AsyncTaskPool
from fastclaim.postgres import finishing, recovery, selecting
from fastclaim.postgres import server as server_module
from fastclaim.postgres import session as session_module
from fastclaim.postgres.pool import PostgresPool
from fastclaim.postgres.server import server_of

from ..postgres_server import Server
from .pooler import Pooler


@pytest.fixture
def _new_session() -> None:
    """Nobody of this process waits yet."""
    server_module.close_all()


def holders(
    pool: PostgresPool, outsider: psycopg.Connection, number: int, granted: bool = True
) -> int:
    """How many sessions hold an advisory lock, or wait for it."""
    (row,) = outsider.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted = %s"
        " AND (classid::bigint << 32 | objid::bigint) = %s",
        [granted, number],
    ).fetchall()
    return int(row[0])


def test_a_claim_carries_the_lock_that_its_process_holds(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    pool.publish("x")
    owner = int(pool.claim("x", "a").task["owner"], 16)
    assert holders(pool, outsider, owner) == 1
    server_module.close_all()
    until_s = time.monotonic() + 60
    while holders(pool, outsider, owner):  # the server hears of it a moment later
        assert time.monotonic() < until_s


def test_a_claim_of_no_process_stands_though_no_process_is_connected(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "RECONNECT_GRACE_S", 0.0)
    server_module.close_all()
    pool = PostgresPool(own_server.url, bind_claims=False)
    pool.publish("x")
    pool.claim("x", "a")
    assert "ended" not in pool.why("x")


@pytest.mark.usefixtures("_new_session")
def test_nobody_is_notified_while_nobody_waits(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    outsider.execute(f"LISTEN {pool._database.address.channel}")
    pool.publish("x")
    assert list(outsider.notifies(timeout=0.1)) == []
    waiting = pool._database.address.key("waiting")
    with outsider.transaction():
        outsider.execute("SELECT pg_advisory_xact_lock_shared(%s)", [waiting])
        pool.publish("y")
    assert len(list(outsider.notifies(timeout=5, stop_after=1))) == 1


@pytest.mark.usefixtures("_new_session")
def test_what_is_published_while_somebody_begins_to_wait_is_not_missed(
    pool: PostgresPool, outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selecting, "SLOW_POLL_S", 600.0)
    address = pool._database.address
    schema = pool._database.schema
    got: list[Any] = []
    with outsider.transaction():
        # A publisher that found nobody waiting, and has not committed.
        row = outsider.execute("SELECT pg_try_advisory_xact_lock(%s)", [address.key("waiting")])
        assert row.fetchall() == [(True,)]
        outsider.execute(
            f"INSERT INTO {schema}.tasks (task_id, publication, payload, lane, requirements,"
            " required, priority) VALUES ('x', 'p', '{\"task_id\": \"x\"}', 1, '{}', '{}', 0)"
        )
        thread = threading.Thread(target=lambda: got.append(pool.claim_next("a", wait=60)))
        thread.start()
        # It says that it waits by a lock which it cannot have before the publisher's commit.
        until_s = time.monotonic() + 60
        while not holders(pool, outsider, address.key("waiting"), granted=False):
            assert time.monotonic() < until_s
            time.sleep(0.01)
    thread.join()
    assert got[0].task_id == "x"


class Waiting:
    """Threads that wait for a task each; none of them looks by itself.

    Attributes
    ----------
    looks : list of str
        The agents that have looked for a task, once for each look.
    interrupt : set of str
        Agents whose next look is interrupted.
    """

    def __init__(self, pool: PostgresPool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(selecting, "SLOW_POLL_S", 600.0)
        look = selecting._try

        def counted(database: Any, wanted: Any, *terms: Any) -> Any:
            self.looks.append(wanted.agent_id)
            if wanted.agent_id in self.interrupt:
                raise KeyboardInterrupt
            return look(database, wanted, *terms)

        monkeypatch.setattr(selecting, "_try", counted)
        self.looks: list[str] = []
        self.interrupt: set[str] = set()
        self.got: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self._pool = pool
        self._threads: dict[threading.Thread, str] = {}

    def begin(self, *agents: str, **how: Any) -> None:
        """Let agents wait, until all of them sleep."""
        self.looks.clear()
        for agent in agents:
            thread = threading.Thread(target=self._claim, args=(agent, how))
            self._threads[thread] = agent
            thread.start()
        address = self._pool._database.address
        session = server_module.server_of(address).session
        until_s = time.monotonic() + 60
        while len(self.looks) < 2 * len(agents):
            assert time.monotonic() < until_s
            time.sleep(0.01)
        with session._lock:
            waiters = session._waiters[address.channel]
        while not all(waiter._woken._waiters for waiter in waiters):
            assert time.monotonic() < until_s
            time.sleep(0.01)
        self.looks.clear()

    def end(self) -> None:
        """Interrupt those who wait still: a thread must not outlive its test."""
        self.interrupt.update(self._threads.values())
        address = self._pool._database.address
        session = server_module.server_of(address).session
        with session._lock:
            session._wake_for(address.channel, len(self._threads))
        for thread in self._threads:
            thread.join()

    def _claim(self, agent: str, how: Any) -> None:
        try:
            claim = self._pool.claim_next(agent, wait=600, **how)
        except KeyboardInterrupt:
            self.got.put((agent, None))
        else:
            self.got.put((agent, claim and claim.task_id))


@pytest.fixture
def waiting(pool: PostgresPool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    server_module.close_all()
    waiting = Waiting(pool, monkeypatch)
    yield waiting
    waiting.end()
    server_module.close_all()


def test_a_task_wakes_one_thread_of_a_process(pool: PostgresPool, waiting: Waiting) -> None:
    waiting.begin("a", "b", "c", "d")
    for number in range(4):
        pool.publish(f"t{number}")
        assert waiting.got.get(timeout=60)[1] == f"t{number}"
    assert len(waiting.looks) == 4


@pytest.fixture
def _a_thousand_files() -> Iterator[None]:
    """All descriptors that select(2) knows are taken."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 4096), limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        while stack.enter_context(open(os.devnull, "rb")).fileno() < 1024:
            pass
        yield


@pytest.mark.usefixtures("_a_thousand_files")
def test_who_waits_is_woken_though_the_process_has_a_thousand_files(
    pool: PostgresPool, waiting: Waiting
) -> None:
    waiting.begin("a")
    pool.publish("x")
    assert waiting.got.get(timeout=60) == ("a", "x")


def test_a_task_wakes_one_thread_of_each_kind(pool: PostgresPool, waiting: Waiting) -> None:
    waiting.begin("d1", "d2", capabilities=["docs"])
    waiting.begin("p1", "p2", capabilities=["python"])
    waiting.begin("full", "full", capabilities=["python"], max_claims=0)
    pool.publish("x", requirements=["python"])
    agent, task_id = waiting.got.get(timeout=60)
    assert (agent[0], task_id) == ("p", "x")
    until_s = time.monotonic() + 60
    while len(waiting.looks) < 3:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert sorted(agent[0] for agent in waiting.looks) == ["d", "f", "p"]


def make_three(pool: PostgresPool, how: str) -> Callable[[], object]:
    """Three tasks in the pool; what makes them available."""
    tasks = [{"task_id": f"t{number}", "max_attempts": 1} for number in range(3)]
    if how == "a batch":
        return lambda: pool.publish_many(tasks)
    if how == "the end of a pause":
        pool.pause()
        pool.publish_many(tasks)
        return pool.resume
    if how == "a blocker":
        pool.publish("blocker")
        claim = pool.claim("blocker", "b")
        pool.publish_many([task | {"blocked_by": ["blocker"]} for task in tasks])
        return claim.complete
    pool.publish_many(tasks)
    for claim in pool.claim_many("a", 3):
        claim.fail("e")
    return pool.retry_failed


class Waited(Exception):
    """Somebody has waited often enough."""


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long who waits would pause before each look; it looks at once, and only a few times."""
    pauses: list[float] = []
    next_s = selecting.Pauses.next_s

    def told_and_cut_short(self: selecting.Pauses, left_s: float) -> float:
        pauses.append(next_s(self, left_s))
        if len(pauses) == 4:
            raise Waited
        return 0.0

    monkeypatch.setattr(selecting.Pauses, "next_s", told_and_cut_short)
    return pauses


WAITS_IN: dict[str, Callable[[PostgresPool], object]] = {
    "a thread": lambda pool: pool.claim_next("a", ["python"], wait=None),
    "a coroutine": lambda pool: asyncio.run(
        AsyncTaskPool(pool).claim_next("a", ["python"], wait=None)
    ),
}


@pytest.mark.parametrize("moment", ["a pause's end", "a task's time"])
@pytest.mark.parametrize("waits_in", WAITS_IN)
def test_for_a_moment_that_has_passed_nobody_looks_again_and_again(
    pool: PostgresPool,
    outsider: psycopg.Connection,
    pauses: list[float],
    moment: str,
    waits_in: str,
) -> None:
    if moment == "a pause's end":
        pool.pause(1e9 + 1)
    else:
        pool.publish("x", requirements=["rust"], not_before=4e9)
        outsider.execute(f"UPDATE {pool._database.schema}.tasks SET not_before = 1")
    with pytest.raises(Waited):
        WAITS_IN[waits_in](pool)
    assert len([pause_s for pause_s in pauses if pause_s < selecting.SLOW_POLL_S / 2]) <= 1


def test_each_moment_that_passes_in_a_wait_is_looked_for(
    pool: PostgresPool, outsider: psycopg.Connection, pauses: list[float]
) -> None:
    pool.publish("x", not_before=4e9)
    waits = selecting.Pauses(pool._database)
    waits.next_s(600.0)
    now = pool._database.query("SELECT {now}", {})[0][0]
    outsider.execute(f"UPDATE {pool._database.schema}.tasks SET not_before = %s", [now])
    pauses.clear()
    waits.next_s(600.0)
    waits.next_s(600.0)
    assert pauses[0] == 0.01
    assert pauses[1] > 0.01


@pytest.mark.parametrize("how", ["a batch", "the end of a pause", "a blocker", "a second try"])
def test_as_many_threads_wake_as_there_are_tasks(
    pool: PostgresPool, waiting: Waiting, how: str
) -> None:
    make_available = make_three(pool, how)
    waiting.begin("a", "b", "c")
    make_available()
    assert sorted(str(waiting.got.get(timeout=60)[1]) for _ in range(3)) == ["t0", "t1", "t2"]


def test_who_is_interrupted_after_being_woken_wakes_another(
    pool: PostgresPool, waiting: Waiting
) -> None:
    waiting.begin("a")
    waiting.begin("b")
    waiting.interrupt.add("a")  # who waits longest is woken first
    pool.publish("x")
    assert [waiting.got.get(timeout=60) for _ in "ab"] == [("a", None), ("b", "x")]


@pytest.mark.parametrize("words", ["9" * 5000, "-1", "", "\u0664"])
def test_what_anybody_says_on_the_channel_ends_no_session(
    pool: PostgresPool, waiting: Waiting, outsider: psycopg.Connection, words: str
) -> None:
    owner = pool._database.owner()
    waiting.begin("a")
    outsider.execute("SELECT pg_notify(%s, %s)", [pool._database.address.channel, words])
    pool.publish("x")
    assert waiting.got.get(timeout=60) == ("a", "x")
    assert pool._database.owner() == owner
    assert holders(pool, outsider, owner) == 1


@pytest.mark.usefixtures("_new_session")
def test_behind_a_pooler_claims_cannot_be_bound_but_leased(
    pool: PostgresPool, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What pgbouncer makes of a connection: the number that it tells is made up.
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 1)
    server_module.close_all()
    pool.publish("x")
    with pytest.raises(TaskPoolError, match="pooler"):
        pool.claim("x", "a")
    assert pool.claim_task("x", "a") == {}
    claim = pool.claim_next("a", lease_s=60, wait=0.1)
    assert claim is not None
    claim.complete()
    assert pool.claim_next("a", lease_s=60, wait=0.05) is None
    unbound = PostgresPool(postgres_url, bind_claims=False)
    unbound.publish("y")
    unbound.claim("y", "a").complete()
    server_module.close_all()


def test_a_row_that_somebody_holds_holds_up_no_other_claim(
    pool: PostgresPool, outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_LINGER_S", 0.05)
    schema = pool._database.schema
    state = f"SELECT state FROM {schema}.tasks WHERE task_id = 'x'"
    for task_id in ("x", "y"):
        pool.publish(task_id)
    nobodys = pool.claim("x", "a", bind=False)
    with outsider.transaction():
        outsider.execute(f"SELECT FROM {schema}.tasks WHERE task_id = 'x' FOR UPDATE")
        finishing.release_by_token_later(pool._database, "a", [nobodys.token])
        pool.claim("y", "a").complete()
    while outsider.execute(state).fetchall() != [("available",)]:
        time.sleep(0.02)


@pytest.mark.usefixtures("_new_session")
def test_a_process_ends_though_its_session_waits_for_a_lock(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    session = server_of(pool._database.address).session
    outsider.execute("SELECT pg_advisory_lock(%s)", [session._owner])
    session._start()
    while not holders(pool, outsider, session._owner, granted=False):
        time.sleep(0.01)
    ending = threading.Thread(target=server_module.close_all, daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()


@pytest.fixture
def pooled_url(own_server: Server) -> Iterator[str]:
    """Where there is a pool, behind a pooler with two connections."""
    pooler = Pooler(own_server.port, 2)
    yield own_server.url.replace(f":{own_server.port}", f":{pooler.port}")
    server_module.close_all()
    pooler.close()


def test_threads_behind_a_pooler_that_keeps_no_statements_get_each_task_once(
    pooled_url: str,
) -> None:
    pool = PostgresPool(pooled_url, bind_claims=False)
    pool.publish_many([{"task_id": f"t{number}"} for number in range(40)])
    got: list[object] = []
    problems: list[BaseException] = []

    def work(agent: str) -> None:
        try:
            while (claim := pool.claim_next(agent, lease_s=60)) is not None:
                got.append(claim.task_id)
                claim.complete()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(f"a{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(map(str, got)) == sorted(f"t{number}" for number in range(40))
    # Nothing is heard there, and nobody waits until it is.
    with pool._database.waiting("kind") as waiter:
        arming = threading.Thread(target=waiter.arm, args=(60,))
        arming.start()
        arming.join(30)
        assert not arming.is_alive()
        assert waiter.is_late
