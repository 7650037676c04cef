"""What `PostgresPool` says where a directory could do more, or a server less."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastclaim import PoolUnavailable, TaskPool
from fastclaim.postgres import pool as pool_module
from fastclaim.postgres import selecting
from fastclaim.postgres.pool import PostgresPool
from fastclaim.tokens import new_token

from ..postgres_server import Server

TOO_MANY = 10**400
VERBS: dict[str, Callable[[PostgresPool], Any]] = {
    "lease_s": lambda pool: pool.claim("x", "a", lease_s=TOO_MANY),
    "wait": lambda pool: pool.claim_next("a", ["none"], wait=TOO_MANY),
    "not_before": lambda pool: pool.claim("x", "a").release(not_before=TOO_MANY),
    "retry_after_s": lambda pool: pool.claim("x", "a").fail("e", retry_after_s=TOO_MANY),
    "until": lambda pool: pool.pause(TOO_MANY),
    "older_than": lambda pool: pool.recover(older_than=TOO_MANY),
}


@pytest.mark.parametrize("name", VERBS)
def test_more_seconds_than_a_server_can_count_are_refused_by_name(
    pool: PostgresPool, name: str
) -> None:
    pool.publish("x")
    with pytest.raises(ValueError, match=f"^{name} "):
        VERBS[name](pool)


def test_other_verbs_refuse_them_too(pool: PostgresPool) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a", lease_s=60)
    with pytest.raises(ValueError, match=r"^lease_s "):
        claim.renew(TOO_MANY)
    with pytest.raises(ValueError, match=r"^older_than "):
        pool.prune("completed", TOO_MANY)
    claim.complete()


@pytest.mark.parametrize(
    "name", ["tasks_dir", "available_dir", "claimed_dir", "completed_dir", "failed_dir"]
)
@pytest.mark.parametrize("is_subclass", [False, True])
def test_who_asks_for_a_directory_is_told_that_there_is_none(
    postgres_url: str, name: str, is_subclass: bool
) -> None:
    class Special(TaskPool):
        pass

    pool = (Special if is_subclass else TaskPool)(postgres_url)
    with pytest.raises(AttributeError, match=rf"{name}.* PostgreSQL has no directories"):
        getattr(pool, name)
    assert not hasattr(pool, name)


def test_who_wants_all_tasks_may_say_any_number(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = iter(new_token() for _ in range(10_000))
    monkeypatch.setattr(pool_module, "new_token", lambda: next(tokens))
    pool.publish_many([{"task_id": f"t{n}"} for n in range(3)])
    assert len(pool.claim_many("a", 10**9)) == 3


def test_many_tasks_are_claimed_piece_by_piece_and_in_order(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_MOST_TOGETHER", 2)
    pool.publish_many([{"task_id": f"t{n}", "priority": -n} for n in range(7)])
    assert [claim.task_id for claim in pool.claim_many("a", 5)] == [f"t{n}" for n in range(5)]
    assert [claim.task_id for claim in pool.claim_many("a", 4)] == ["t5", "t6"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), PoolUnavailable("gone")], ids=repr)
def test_what_one_piece_has_claimed_is_given_back_if_the_next_cannot_be(
    pool: PostgresPool, monkeypatch: pytest.MonkeyPatch, problem: BaseException
) -> None:
    monkeypatch.setattr(pool_module, "_MOST_TOGETHER", 2)
    pool.publish_many([{"task_id": f"t{n}"} for n in range(7)])
    claim_next = selecting.claim_next

    def claim_one_piece(*args: Any) -> Any:
        if pool.counts()["claimed"]:
            raise problem
        return claim_next(*args)

    monkeypatch.setattr(selecting, "claim_next", claim_one_piece)
    with pytest.raises(type(problem)):
        pool.claim_many("a", 5)
    assert pool.counts()["available"] == 7


MEET_AN_OUTAGE = """
import logging, sys
from fastclaim import TaskPool, errors
from fastclaim.postgres import trouble
if sys.argv[2] == "configured":
    logging.basicConfig()
trouble.RECONNECT_S = 0.5
pool = TaskPool(sys.argv[1])
pool.publish("x")
print("ready", flush=True)
sys.stdin.readline()
try:
    pool.publish("y")
except errors.PoolUnavailable:
    print("unavailable")
"""


@pytest.mark.parametrize("logging_is", ["configured", "not configured"])
def test_an_outage_is_logged_where_logging_is_configured_and_printed_nowhere(
    own_server: Server, logging_is: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MEET_AN_OUTAGE, own_server.url, logging_is],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        own_server.stop()
        output, logged = process.communicate("go on\n")
    assert output == "unavailable\n"
    assert ("error connecting" in logged) == (logging_is == "configured")
    assert logging_is == "configured" or logged == ""


def test_a_time_comes_back_to_the_digit_whatever_the_server_is_set_to(postgres_url: str) -> None:
    pool = PostgresPool(f"{postgres_url}&options=-c%20extra_float_digits%3D-5")
    pool.publish("x")
    pool.claim("x", "a").release(not_before=4123456789.123457)
    (task,) = pool.tasks()
    assert task["not_before"] == 4123456789.123457
