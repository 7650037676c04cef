"""Servers that die, lines that break, answers that are lost: no task is lost, or done twice."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fastclaim import AlreadyClaimed, ClaimLost, LockTimeout, errors
from fastclaim.postgres import claiming, recovery, trouble
from fastclaim.postgres import server as server_module
from fastclaim.postgres.database import Database
from fastclaim.postgres.messaging import PostgresMessaging
from fastclaim.postgres.pool import PostgresPool
from fastclaim.postgres.publishing import _Batch
from fastclaim.postgres.server import server_of
from fastclaim.postgres.session import _break_off

from .. import postgres_server
from ..postgres_server import Server
from .network import NETWORK, Host

AGENTS = 3
TASKS = 300


# The server dies ----------------------------------------------------------------------------------


def drain(url: str, agent: str, barrier: Any, completed: Any) -> None:
    pool = PostgresPool(url)
    barrier.wait()
    while pool.counts()["completed"] < TASKS:
        claim = pool.claim_next(agent, wait=0.1)
        if claim is None:
            continue
        try:
            claim.complete({"by": agent})
        except ClaimLost:
            continue
        completed.put((claim.task_id, agent))
    completed.put(None)


def test_a_server_that_is_killed_in_mid_drain_loses_and_doubles_nothing(
    own_server: Server,
) -> None:
    pool = PostgresPool(own_server.url)
    pool.publish_many([{"task_id": f"t{number}"} for number in range(TASKS)])
    spawn = multiprocessing.get_context("spawn")
    barrier, completed = spawn.Barrier(AGENTS), spawn.Queue()
    agents = [
        spawn.Process(target=drain, args=(own_server.url, f"a{number}", barrier, completed))
        for number in range(AGENTS)
    ]
    for agent in agents:
        agent.start()
    told: list[tuple[str, str]] = []
    ended = 0
    while ended < AGENTS:
        if (word := completed.get(timeout=120)) is None:
            ended += 1
            continue
        told.append(word)
        if len(told) in (TASKS // 4, TASKS // 2):
            own_server.kill()
            own_server.start()
    for agent in agents:
        agent.join()
        assert agent.exitcode == 0
    assert sorted(task_id for task_id, _ in told) == sorted(f"t{n}" for n in range(TASKS))
    assert {task["task_id"]: task["result"]["by"] for task in pool.tasks("completed")} == dict(told)


def test_claims_outlive_a_restart_of_the_server(own_server: Server) -> None:
    pool = PostgresPool(own_server.url)
    pool.publish("x")
    claim = pool.claim("x", "a")
    own_server.kill()
    own_server.start()
    other = PostgresPool(own_server.url)
    # Before this process's session stands again as well as after it.
    assert other.recover().returned == []
    claim.complete()


def claim_and_wait(url: str, told: Any) -> None:
    PostgresPool(url).claim("x", "a")
    told.send(os.getpid())
    time.sleep(60)


def test_claims_outlive_the_crash_of_a_backend(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The postmaster lives on, as one that has run for long; but all sessions are gone.
    for name in ("_RECOVER", "_WOULD_RECOVER"):
        text = getattr(recovery, name).replace("pg_postmaster_start_time()", "'-infinity'")
        monkeypatch.setattr(recovery, name, text)
    pool = PostgresPool(own_server.url, bind_claims=False)
    pool.publish("x")
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    holder = spawn.Process(target=claim_and_wait, args=(own_server.url, there))
    holder.start()
    os.kill(here.recv(), signal.SIGSTOP)  # it makes no new session before others have looked
    try:
        with psycopg.connect(own_server.url) as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
        assert pool.recover().returned == []
        with pytest.raises(AlreadyClaimed):
            pool.claim("x", "b", timeout=60)
        monkeypatch.setattr(recovery, "RECONNECT_GRACE_S", 0.0)
        assert pool.recover(dry_run=True).returned == ["x"]
        pool.claim("x", "b").complete()
    finally:
        holder.kill()
        holder.join()


def test_a_server_that_does_not_come_back_is_given_up_in_one_line(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_module.close_all()
    monkeypatch.setattr(trouble, "RECONNECT_S", 0.5)
    url = own_server.url.replace("postgres@", "postgres:SECRET@")
    pool = PostgresPool(url)
    pool.publish("x")
    claim = pool.claim("x", "a")
    own_server.stop()
    for call in (
        lambda: pool.publish("y"),
        lambda: pool.claim_next("a"),
        claim.complete,
        pool.counts,
        lambda: PostgresPool(url + "?schema=other"),
    ):
        with pytest.raises(errors.PoolUnavailable) as refused:
            call()
        assert isinstance(refused.value, OSError)
        words = str(refused.value)
        assert f"127.0.0.1:{own_server.port}" in words
        assert "\n" not in words
        assert "SECRET" not in words
        assert refused.value.__cause__ is None
    assert pool.publish_task("y", "d") is False
    assert pool.claim_task("x", "a") == {}
    own_server.start()
    claim.complete()


# A line breaks ------------------------------------------------------------------------------------


def terminate_all(outsider: psycopg.Connection) -> int:
    """End every session of fastclaim's; how many there were."""
    return len(
        outsider.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'fastclaim'"
        ).fetchall()
    )


def test_a_claim_whose_connections_are_dropped_stays_and_is_completed(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    owner = pool._database.owner()
    assert terminate_all(outsider) >= 2
    # The session has taken the same lock again, or is about to.
    assert pool._database.owner() == owner
    assert pool.recover().returned == []
    claim.complete()


def test_who_waits_hears_of_a_task_after_the_session_was_dropped(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    import threading

    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(pool.claim_next("a", wait=60)))
    thread.start()
    session = server_module.server_of(pool._database.address).session
    with session._changed:
        session._changed.wait_for(lambda: pool._database.address.channel in session._armed)
    terminate_all(outsider)
    pool.publish("x")
    thread.join()
    assert got[0].task_id == "x"


def test_idle_connections_that_the_server_ends_are_no_loss(postgres_url: str) -> None:
    pool = PostgresPool(f"{postgres_url}&options=-c%20idle_session_timeout%3D50")
    pool.publish("x")
    claim = pool.claim("x", "a")
    time.sleep(0.2)  # longer than the server lets a session idle
    assert pool.recover().returned == []
    claim.complete()


def test_no_transaction_waits_for_the_caller(postgres_url: str) -> None:
    timeout = "options=-c%20idle_in_transaction_session_timeout%3D50"
    pool = PostgresPool(f"{postgres_url}&{timeout}")

    def slowly() -> Iterator[dict[str, object]]:
        for number in range(3):
            time.sleep(0.06)  # longer than the server lets a transaction idle
            yield {"task_id": f"t{number}"}

    assert pool.publish_many(slowly()) == 3
    for number, _ in enumerate(pool.tasks()):
        time.sleep(0.06 if number == 0 else 0)
    for claim in pool.claim_many("a", 3):
        claim.complete()


class LostAnswer:
    """Carries statements out, and then loses the answer to one that has `words` in it.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
        Undoes it after the test.
    words : str
        Which statement.
    meanwhile : callable
        What others do before the loss is noticed.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        words: str,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.lost = 0
        execute = psycopg.Connection.execute

        def execute_and_lose(connection: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            cursor = execute(connection, query, *args, **kwargs)
            if words in str(query) and not self.lost:
                self.lost += 1
                connection.close()
                meanwhile()
                raise psycopg.OperationalError("server closed the connection unexpectedly")
            return cursor

        monkeypatch.setattr(psycopg.Connection, "execute", execute_and_lose)


def by_id(pool: PostgresPool) -> Any:
    return pool.claim("x", "a").token


def next_one(pool: PostgresPool) -> Any:
    claim = pool.claim_next("a")
    return claim is not None and claim.token


def several(pool: PostgresPool) -> Any:
    return pool.claim_many("a", 2)[0].token


def drop_in(pool: PostgresPool) -> Any:
    return pool.claim_task("x", "a")["claim_token"]


@pytest.mark.parametrize("claim", [by_id, next_one, several, drop_in])
def test_a_claim_whose_answer_is_lost_is_found_to_be_made(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch, claim: Callable[[PostgresPool], Any]
) -> None:
    pool.publish("x")
    loss = LostAnswer(monkeypatch, "state = 'claimed', agent")
    token = claim(pool)
    assert loss.lost == 1
    (task,) = pool.tasks("claimed")
    assert task["claim_token"] == token


class Outage:
    """Carries one claim out and loses its answer; from then on no statement gets through.

    Parameters
    ----------
    session_stands : bool
        Whether the line that the session has is not concerned.
    """

    def __init__(self, *, session_stands: bool) -> None:
        self._patch = pytest.MonkeyPatch()
        self.has_begun = False
        execute = psycopg.Connection.execute

        def is_concerned(connection: Any) -> bool:
            if connection.info.get_parameters().get("application_name") != "fastclaim":
                return False
            return not (session_stands and threading.current_thread().name == "fastclaim-session")

        def refuse(*_: Any, **__: Any) -> Any:
            raise psycopg.OperationalError("the network is down")

        def execute_or_lose(connection: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.has_begun:
                cursor = execute(connection, query, *args, **kwargs)
                if "state = 'claimed', agent" not in str(query):
                    return cursor
                self.has_begun = True
                self._patch.setattr(psycopg, "connect", refuse)
                self._patch.setattr(psycopg.Connection, "connect", refuse)
            if is_concerned(connection):
                connection.close()
                refuse()
            return execute(connection, query, *args, **kwargs)

        self._patch.setattr(psycopg.Connection, "execute", execute_or_lose)

    def end(self) -> None:
        self._patch.undo()


@pytest.fixture
def _soon_given_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server_module.close_all()
    monkeypatch.setattr(trouble, "RECONNECT_S", 0.3)
    yield
    server_module.close_all()


@pytest.mark.usefixtures("_soon_given_up")
@pytest.mark.parametrize("claim", [by_id, next_one, several, drop_in])
@pytest.mark.parametrize("session_stands", [True, False])
def test_a_claim_that_an_outage_orphaned_is_given_back_as_soon_as_it_is_over(
    pool: PostgresPool,
    outsider: psycopg.Connection,
    claim: Callable[[PostgresPool], Any],
    session_stands: bool,
) -> None:
    state = f"SELECT state FROM {pool._database.schema}.tasks"
    pool.publish("x")
    pool._database.owner()
    outage = Outage(session_stands=session_stands)
    try:
        if claim is drop_in:
            assert pool.claim_task("x", "a") == {}
        else:
            with pytest.raises(errors.PoolUnavailable):
                claim(pool)
        if not session_stands:
            session = server_module.server_of(pool._database.address).session
            assert outsider.execute(state).fetchone() == ("claimed",)
            terminate_all(outsider)
            with session._changed:
                session._changed.wait_for(lambda: session._connection is None)
    finally:
        outage.end()
    # Without another word to the pool.
    wait_until(outsider, state, "available")
    pool.claim("x", "a").complete()


@pytest.mark.usefixtures("_soon_given_up")
def test_what_is_claimed_after_an_outage_is_not_given_back_for_what_was_before(
    pool: PostgresPool, outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x")
    pool._database.owner()
    outage = Outage(session_stands=False)
    try:
        with pytest.raises(errors.PoolUnavailable):
            pool.claim("x", "a")
        orphaned = outsider.execute(f"SELECT token FROM {pool._database.schema}.tasks").fetchone()
        terminate_all(outsider)
    finally:
        outage.end()
    monkeypatch.setattr(trouble, "RECONNECT_S", 30.0)
    claim = pool.claim("x", "a")  # at once
    assert (claim.token,) != orphaned
    claim.complete()


def test_an_end_whose_answer_is_lost_is_found_to_be_made(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for end, words, state in (
        (lambda claim: pool.complete("x", "a", token=claim.token), "'completed'", "completed"),
        (lambda claim: pool.complete("x", "a"), "'completed'", "completed"),
        (lambda claim: pool.release("x", "a", token=claim.token), "given_back", "available"),
        (lambda claim: pool.fail("x", "a", "e", token=claim.token), "failures", "available"),
    ):
        pool.publish("x", if_exists="replace")
        claim = pool.claim("x", "a")
        with monkeypatch.context() as patch:
            loss = LostAnswer(patch, words)
            end(claim)
            assert loss.lost == 1
        assert pool.counts()[state] == 1
        (task,) = pool.tasks(state)
        assert task.get("attempts", 0) == (words == "failures")
        with pytest.raises(ClaimLost):
            end(claim)


def test_a_publication_whose_answer_is_lost_is_found_to_be_made(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        loss = LostAnswer(patch, "INSERT INTO")
        assert pool.publish("x") is True
        assert loss.lost == 1
    with monkeypatch.context() as patch:
        loss = LostAnswer(patch, "SELECT CASE")  # the last before the commit
        assert pool.publish_many([{"task_id": "y"}, {"task_id": "z"}]) == 2
        assert loss.lost == 1
    assert pool.counts()["available"] == 3


@pytest.mark.parametrize(
    "publish",
    [
        lambda pool: pool.publish("x", if_exists="replace"),
        lambda pool: pool.publish_task("x", "d"),
        lambda pool: pool.publish("x"),
    ],
    ids=["replace", "drop-in", "new"],
)
def test_what_was_completed_before_the_publisher_knew_is_not_published_anew(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch, publish: Callable[[PostgresPool], Any]
) -> None:
    loss = LostAnswer(monkeypatch, "INSERT INTO", lambda: pool.claim("x", "a").complete())
    assert publish(pool) is True
    assert loss.lost == 1
    assert [task["task_id"] for task in pool.tasks("completed")] == ["x"]


@pytest.mark.parametrize("if_exists", ["error", "ignore", "replace"])
def test_what_was_completed_before_the_publisher_of_many_knew_is_not_published_anew(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch, if_exists: str
) -> None:
    publish_once = _Batch.publish
    tries = []

    def publish_and_lose_the_answer(batch: _Batch, connection: Any, retried: bool) -> int:
        number = publish_once(batch, connection, retried)
        tries.append(retried)
        if not retried:
            connection.close()
            pool.claim("x", "a").complete()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return number

    monkeypatch.setattr(_Batch, "publish", publish_and_lose_the_answer)
    tasks = [{"task_id": "x"}, {"task_id": "y"}]
    assert pool.publish_many(tasks, if_exists=if_exists) == 2
    assert tries == [False, True]
    assert [task["task_id"] for task in pool.tasks("completed")] == ["x"]


def test_messages_whose_answer_is_lost_are_received_all_the_same(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastclaim import FileBasedMessaging, a2a

    monkeypatch.setenv("A2A_BASE_DIR", postgres_url)
    bob = FileBasedMessaging("bob")
    assert isinstance(bob, PostgresMessaging)
    message = a2a.A2AMessage("m", "alice", "bob", "status", {}, 1.0)
    assert bob.send_message(message)
    loss = LostAnswer(monkeypatch, "receipt = %(receipt)s\nFROM waiting")
    assert bob.receive_messages() == [message]
    assert loss.lost == 1


def test_a_message_that_was_received_before_its_sender_knew_is_received_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastclaim import FileBasedMessaging, a2a

    monkeypatch.setenv("A2A_BASE_DIR", postgres_url)
    bob = FileBasedMessaging("bob")
    message = a2a.A2AMessage("m", "alice", "bob", "status", {}, 1.0)
    received: list[a2a.A2AMessage] = []
    words = f"INSERT INTO {bob._database.schema}.messages"
    loss = LostAnswer(monkeypatch, words, lambda: received.extend(bob.receive_messages()))
    assert bob.send_message(message)
    assert loss.lost == 1
    assert received + bob.receive_messages() == [message]


# Others hold what we need -------------------------------------------------------------------------


def test_a_row_that_somebody_holds_is_waited_for_until_the_timeout(
    pool: PostgresPool, outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_module.close_all()
    monkeypatch.setattr(server_module, "LOCK_TIMEOUT_S", 0.2)
    schema = pool._database.schema
    for task_id in ("x", "y", "z"):
        pool.publish(task_id)
    claim = pool.claim("y", "a")
    with outsider.transaction():
        outsider.execute(f"SELECT FROM {schema}.tasks WHERE task_id <> 'z' FOR UPDATE")
        with pytest.raises(LockTimeout, match="'x'"):
            pool.claim("x", "a", timeout=0.1)
        with pytest.raises(LockTimeout, match="'y'"):
            claim.complete()
        other = pool.claim_next("a")
        assert other is not None
        assert other.task_id == "z"  # the next one that is free
    claim.complete()
    server_module.close_all()


def test_a_completion_has_come_about_also_if_nobody_can_be_told(
    pool: PostgresPool, outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_module.close_all()
    monkeypatch.setattr(server_module, "LOCK_TIMEOUT_S", 0.1)
    pool.publish("x")
    pool.publish("dependent", blocked_by=["x"])
    claim = pool.claim("x", "a")
    with outsider.transaction():
        row = "WHERE task_id = 'dependent' FOR UPDATE"
        outsider.execute(f"SELECT FROM {pool._database.schema}.tasks {row}")
        claim.complete()
        assert pool.claim_next("a") is None
    assert pool.counts()["completed"] == 1
    claim = pool.claim_next("a")
    assert claim is not None
    server_module.close_all()


def test_a_claim_has_come_about_also_if_others_cannot_be_tidied_up(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x", not_before=time.time() + 0.05)
    time.sleep(0.1)  # not for a race: its time comes by the clock
    query = Database.query

    def refuse(database: Database, text: str, *args: Any) -> Any:
        if text == recovery._WAKE_DELAYED:
            raise errors.PoolUnavailable("the server has just gone")
        return query(database, text, *args)

    monkeypatch.setattr(Database, "query", refuse)
    assert pool.claim_next("a") is not None


def test_who_waits_for_a_row_that_somebody_holds_asks_for_it_now_and_then(
    pool: PostgresPool, outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x")
    asked = 0
    run = claiming._run

    def count_and_run(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return run(*args)

    monkeypatch.setattr(claiming, "_run", count_and_run)
    with outsider.transaction():
        outsider.execute(f"SELECT FROM {pool._database.schema}.tasks FOR UPDATE")
        with pytest.raises(LockTimeout):
            pool.claim("x", "a", timeout=0.5)
    assert asked < 40


def test_who_claims_beside_a_stopped_process_of_its_agent_finds_nothing_for_now(
    pool: PostgresPool, outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "_PLACE_TIMEOUT", "50ms")
    pool.publish("x")
    lock = pool._database.address.key("max_claims of a in")
    outsider.execute("SELECT pg_advisory_lock(%s)", [lock])
    assert pool.claim_next("a", max_claims=1) is None
    outsider.execute("SELECT pg_advisory_unlock(%s)", [lock])
    assert pool.claim_next("a", max_claims=1) is not None


def test_ctrl_c_in_a_wait_leaves_no_claim_that_nobody_knows_of(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x")
    execute = psycopg.Connection.execute

    def execute_and_interrupt(connection: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        cursor = execute(connection, query, *args, **kwargs)
        if "state = 'claimed', agent" in str(query):
            monkeypatch.undo()
            raise KeyboardInterrupt
        return cursor

    for claim in (lambda: pool.claim("x", "a"), lambda: pool.claim_next("a", wait=None)):
        monkeypatch.setattr(psycopg.Connection, "execute", execute_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            claim()
        assert pool.counts()["available"] == 1


def test_a_broken_line_is_asked_for_by_one_connection_and_not_by_all(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_module.close_all()
    pool = PostgresPool(postgres_url)
    barrier = threading.Barrier(8)

    def open_one() -> None:
        pool._database.run(lambda *_: barrier.wait())

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    old = {*server_of(pool._database.address)._opened}
    assert len(old) == 8
    asked: list[psycopg.Connection] = []
    execute = psycopg.Connection.execute

    def execute_or_break(connection: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        if connection in old:
            asked.append(connection)
            connection.close()
            raise psycopg.OperationalError("the line is silent")
        return execute(connection, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "execute", execute_or_break)
    pool.counts()
    assert len(asked) == 1


# Backends that wait for a lock that is somebody else's.
WAITING_BACKENDS = "SELECT pid FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"


def test_a_backend_that_was_cut_off_in_mid_claim_claims_nothing_beside_the_next_try(
    pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    server_module.close_all()
    pool.publish("x", exclusive=["k"], priority=1)
    pool.publish("y")
    claims: list[Any] = []
    claimer = threading.Thread(target=lambda: claims.append(pool.claim_next("a")))
    with outsider.transaction(force_rollback=True):
        outsider.execute(f"INSERT INTO {pool._database.schema}.exclusive_keys VALUES ('k', 'z')")
        claimer.start()
        while not (first := outsider.execute(WAITING_BACKENDS).fetchall()):
            pass
        for connection in [*server_of(pool._database.address)._opened]:
            _break_off(connection)
        while claimer.is_alive() and outsider.execute(WAITING_BACKENDS).fetchall() in (first, []):
            pass
    claimer.join()
    while outsider.execute("SELECT FROM pg_stat_get_activity(%s)", first[0]).fetchall():
        pass
    (task,) = pool.tasks("claimed")
    assert task["task_id"] == claims[0].task_id


@pytest.fixture
def gate(outsider: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps claims between their look at the tasks and their lock, until `outsider` unlocks."""
    gated = claiming._CLAIM_NEXT.replace(
        "locked AS MATERIALIZED",
        "gate AS MATERIALIZED (SELECT *, pg_advisory_xact_lock_shared(7) AS gate FROM candidates),"
        " locked AS MATERIALIZED",
    )
    monkeypatch.setattr(
        claiming, "_CLAIM_NEXT", gated.replace("FROM candidates c J", "FROM gate c J")
    )
    claiming._claim_next.cache_clear()
    outsider.execute("SELECT pg_advisory_lock(7)")
    yield
    claiming._claim_next.cache_clear()


WAITS_AT_GATE = """
SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 7 AND classid = 0
"""


def publish_for_others(pool: PostgresPool) -> None:
    pool.publish("x", requirements=["rust"], if_exists="replace")


def put_off(pool: PostgresPool) -> None:
    pool.claim("x", "b").release(not_before=time.time() + 3600)


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("change", [publish_for_others, put_off])
def test_what_is_changed_between_a_claims_look_and_its_lock_is_not_handed_out(
    pool: PostgresPool, outsider: psycopg.Connection, change: Callable[[PostgresPool], None]
) -> None:
    pool.publish("x")
    claims: list[object] = []
    claimer = threading.Thread(target=lambda: claims.append(pool.claim_next("a", ["python"])))
    claimer.start()
    while not outsider.execute(WAITS_AT_GATE).fetchall():
        pass
    change(pool)
    outsider.execute("SELECT pg_advisory_unlock(7)")
    claimer.join()
    assert claims == [None]


# Forks --------------------------------------------------------------------------------------------


def test_a_forked_child_has_claims_and_a_life_of_its_own(pool: PostgresPool) -> None:
    for task_id in ("x", "y"):
        pool.publish(task_id)
    claim = pool.claim("x", "a")
    child = os.fork()
    if child == 0:
        try:
            pool.claim("y", "a")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    until_s = time.monotonic() + 60
    while (heir := pool.claim_next("heir")) is None:
        assert time.monotonic() < until_s
    assert heir.task_id == "y"
    claim.complete()


def claim_fork_and_die(url: str, told: Any) -> None:
    pool = PostgresPool(url)
    pool.claim("x", "a")
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    told.send(True)
    os.kill(os.getpid(), 9)


def test_a_child_does_not_prolong_its_dead_parents_life(
    pool: PostgresPool, postgres_url: str
) -> None:
    pool.publish("x")
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    parent = spawn.Process(target=claim_fork_and_die, args=(postgres_url, there))
    parent.start()
    assert here.recv()
    parent.join()
    claim = pool.claim_next("heir", wait=50)
    assert claim is not None
    claim.complete()


def test_two_threads_that_meet_at_one_exclusive_key_do_not_both_get_it(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x", exclusive=["k"])
    pool.publish("y", exclusive=["k"])
    execute = psycopg.Connection.execute

    def be_overtaken(connection: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        if "state = 'claimed', agent" in str(query):
            # Between its look at the keys and its own taking of them, as its snapshot sees it.
            monkeypatch.setattr(psycopg.Connection, "execute", execute)
            blind = str(query).replace("k.key = ANY(t.exclusive)", "false")
            pool.claim("y", "faster")
            return execute(connection, blind, *args, **kwargs)
        return execute(connection, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "execute", be_overtaken)
    with pytest.raises(errors.TaskNotAvailable, match="'k'"):
        pool.claim("x", "slower")
    assert [task["claimed_by"] for task in pool.tasks("claimed")] == ["faster"]


# The disk, the network ----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", os.fspath(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("no right to mount a small file system")
    for parent in (tmp_path, *tmp_path.parents):
        if os.stat(parent).st_uid == 0 and parent != Path("/"):
            os.chmod(parent, os.stat(parent).st_mode | 0o011)
    yield place
    subprocess.run(["umount", "-l", os.fspath(place)], check=True)


def publish_without_end(pool: PostgresPool, published: list[str]) -> None:
    filling = os.urandom(100_000).hex()
    for number in range(1000):
        pool.publish(f"t{number}", filling=filling)
        published.append(f"t{number}")


def test_a_full_disk_refuses_and_loses_nothing(own_server: Server, small_disk: Path) -> None:
    location = small_disk / "space"
    location.mkdir()
    shutil.chown(location, "nobody")
    with psycopg.connect(own_server.url, autocommit=True) as outsider:
        outsider.execute(f"CREATE TABLESPACE small LOCATION '{location}'")
    pool = PostgresPool(f"{own_server.url}?options=-c%20default_tablespace%3Dsmall")
    pool.publish("first")
    published: list[str] = []
    with pytest.raises(errors.PoolUnavailable) as refused:
        publish_without_end(pool, published)
    assert refused.value.errno == errno.ENOSPC
    assert pool.counts()["available"] == 1 + len(published)
    subprocess.run(["mount", "-o", "remount,size=64m", os.fspath(small_disk)], check=True)
    for task_id in ("first", *published):
        pool.claim(task_id, "a").complete()


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two hosts, if namespaces and TUN devices are allowed here."""
    with contextlib.ExitStack() as opened:
        hosts = []
        for seed in (1, 2):
            try:
                hosts.append(Host(seed))
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", None) or b""
                pytest.skip(f"no network namespaces with TUN devices here: {error} {said!r}")
            opened.callback(hosts[-1].close)
        yield hosts


DRAIN_AND_TELL = """
import sys
from fastclaim import ClaimLost
from fastclaim.postgres.pool import PostgresPool
url, agent, number = sys.argv[1:]
pool = PostgresPool(url)
claim = pool.claim_next(agent)
print("holds one", flush=True)
sys.stdin.readline()
while claim is not None or pool.counts()["completed"] < int(number):
    if claim is not None:
        try:
            claim.complete({"by": agent})
        except ClaimLost:
            pass
        else:
            print(claim.task_id, flush=True)
    claim = pool.claim_next(agent, wait=0.1)
"""


Agents = list[subprocess.Popen[str]]


def go_on(agents: Agents) -> None:
    for agent in agents:
        assert agent.stdin is not None
        agent.stdin.write("go on\n")
        agent.stdin.flush()


def cut_one_off_for_seconds(hosts: list[Host], agents: Agents) -> None:
    hosts[0].line.loss = 1.0
    go_on(agents)
    time.sleep(3.0)
    hosts[0].line.loss = 0.0


def lose_30_percent_of_all_packets(hosts: list[Host], agents: Agents) -> None:
    for host in hosts:
        host.line.loss = 0.3
    go_on(agents)


@pytest.mark.parametrize("trouble", [cut_one_off_for_seconds, lose_30_percent_of_all_packets])
def test_hosts_with_a_bad_line_lose_and_double_nothing(
    hosts: list[Host], trouble: Callable[[list[Host], Agents], None]
) -> None:
    problem = postgres_server.unusable()
    if problem is not None:
        pytest.skip(problem)
    number = 16
    with (
        postgres_server.running(f"host all all {NETWORK} trust", listen_addresses="*") as server,
        contextlib.ExitStack() as there,
    ):
        pool = PostgresPool(server.url)
        pool.publish_many([{"task_id": f"t{n}"} for n in range(number)])
        agents = [
            there.enter_context(
                host.start(
                    DRAIN_AND_TELL,
                    # A line that is cut for seconds is a broken connection.
                    f"{server.url.replace('127.0.0.1', host.gateway)}?tcp_user_timeout=1500",
                    host.name,
                    f"{number}",
                )
            )
            for host in hosts
        ]
        told = {host.name: [] for host in hosts}
        for agent in agents:
            assert agent.stdout is not None
            assert agent.stdout.readline() == "holds one\n"
        trouble(hosts, agents)
        for host, agent in zip(hosts, agents, strict=True):
            assert agent.stdout is not None
            told[host.name].extend(agent.stdout)
            assert agent.wait() == 0
        by = {task["task_id"]: task["result"]["by"] for task in pool.tasks("completed")}
        server_module.close_all()
    assert hosts[0].line.lost > 0
    assert by == {word.strip(): name for name, words in told.items() for word in words}
    assert len(by) == sum(len(words) for words in told.values()) == number


CLAIM_AND_LOSE_THE_ANSWER = """
import sys
from fastclaim import errors
from fastclaim.postgres import trouble
from fastclaim.postgres.pool import PostgresPool
pool = PostgresPool(sys.argv[1])
pool.publish("x")
pool._database.owner()
trouble.RECONNECT_S = 1.0
print("ready", flush=True)
sys.stdin.readline()
try:
    pool.claim_next("orphaned")
except errors.PoolUnavailable:
    print("unavailable", flush=True)
sys.stdin.readline()
"""


def test_a_claim_whose_answer_no_host_ever_gets_waits_again(hosts: list[Host]) -> None:
    problem = postgres_server.unusable()
    if problem is not None:
        pytest.skip(problem)
    host = hosts[0]
    with (
        postgres_server.running(f"host all all {NETWORK} trust", listen_addresses="*") as server,
        psycopg.connect(server.url, autocommit=True) as outsider,
    ):
        url = server.url.replace("127.0.0.1", host.gateway)
        hasty = "keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=1500"
        with host.start(CLAIM_AND_LOSE_THE_ANSWER, f"{url}?{hasty}&connect_timeout=2") as agent:
            assert agent.stdin is not None
            assert agent.stdout is not None
            assert agent.stdout.readline() == "ready\n"
            with outsider.transaction():  # holds the claim up until the line is cut
                outsider.execute("LOCK TABLE fastclaim.tasks IN EXCLUSIVE MODE")
                go_on([agent])
                wait_until(outsider, "SELECT count(*) FROM pg_locks WHERE NOT granted", 1)
                host.line.loss = 1.0
            wait_until(outsider, "SELECT state FROM fastclaim.tasks", "claimed")
            assert agent.stdout.readline() == "unavailable\n"
            host.line.loss = 0.0
            wait_until(outsider, "SELECT state FROM fastclaim.tasks", "available")
            go_on([agent])


def wait_until(connection: psycopg.Connection, question: str, answer: object) -> None:
    until_s = time.monotonic() + 60
    while connection.execute(question).fetchone() != (answer,):
        assert time.monotonic() < until_s, question
        time.sleep(0.01)
