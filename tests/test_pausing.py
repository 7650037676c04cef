"""A paused pool: nothing is claimed, by whichever verb, and all that is claimed goes on."""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastclaim import TaskPool
from fastclaim.aio import AsyncTaskPool
from fastclaim.errors import LockTimeout, PoolPaused

from .conftest import fill

HOUR_S = 3600.0


def claim(pool: TaskPool) -> bool:
    try:
        return pool.claim("t", "a").task_id == "t"
    except PoolPaused:
        return False


async def _claim_next_in_asyncio(pool: TaskPool) -> bool:
    async with AsyncTaskPool(pool).claim_next("a") as claim:
        return claim is not None


CLAIMERS: dict[str, Callable[[TaskPool], bool]] = {
    "claim": claim,
    "claim_task": lambda pool: bool(pool.claim_task("t", "a")),
    "claim_next": lambda pool: pool.claim_next("a") is not None,
    "claim_next, oldest": lambda pool: pool.claim_next("a", order="oldest") is not None,
    "claim_next, any": lambda pool: pool.claim_next("a", order="any") is not None,
    "claim_next, max_claims": lambda pool: pool.claim_next("a", max_claims=1) is not None,
    "claim_next, wait": lambda pool: pool.claim_next("a", wait=0.01) is not None,
    "claim_many": lambda pool: bool(pool.claim_many("a", 2)),
    "claim_many, any": lambda pool: bool(pool.claim_many("a", 2, order="any")),
    "aio": lambda pool: asyncio.run(_claim_next_in_asyncio(pool)),
}
claimers = pytest.mark.parametrize("claims", CLAIMERS.values(), ids=CLAIMERS)


def let_time_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now_s = time.time
    monkeypatch.setattr(time, "time", lambda: now_s() + seconds)


@claimers
@pytest.mark.parametrize("knows", [False, True])
def test_every_claimer_heeds_a_pause_until_somebody_resumes(
    make_pool: Callable[..., TaskPool], claims: Callable[[TaskPool], bool], knows: bool
) -> None:
    ours, theirs = make_pool(), make_pool()
    if knows:  # it has looked for tasks before the pause
        ours.publish("u")
        ours.claim_next("x")
    theirs.publish("t")
    theirs.pause(reason="rate limit")
    assert not claims(ours)
    assert theirs.counts()["available"] == 1
    theirs.resume()
    assert claims(ours)


@claimers
@pytest.mark.parametrize("knows", [False, True])
def test_every_claimer_heeds_a_pause_for_a_time(
    pool: TaskPool,
    monkeypatch: pytest.MonkeyPatch,
    claims: Callable[[TaskPool], bool],
    knows: bool,
) -> None:
    pool.publish("t")
    pool.pause(time.time() + HOUR_S)
    if knows:
        assert not claims(pool)
    let_time_pass(monkeypatch, HOUR_S - 60)
    assert not claims(pool)
    let_time_pass(monkeypatch, 61)
    assert pool.paused() is None
    assert claims(pool)
    assert (pool.tasks_dir / "paused").exists(), "nobody needs to remove it"


@claimers
def test_a_pause_that_ends_in_the_past_is_none(
    pool: TaskPool, claims: Callable[[TaskPool], bool]
) -> None:
    pool.publish("t")
    pool.pause(time.time() - 1)
    assert pool.paused() is None
    assert claims(pool)


@pytest.mark.parametrize(
    "text",
    ["", "{", "\xff", "null", "[]", "{}", '{"until": NaN}', '{"until": "soon"}', '{"until": []}',
     '{"until": 1' + "0" * 400 + "}", "[" * 100_000],
    ids=lambda text: text[:15],
)  # fmt: skip
@claimers
def test_a_file_that_is_not_understood_pauses_until_somebody_resumes(
    pool: TaskPool, text: str, claims: Callable[[TaskPool], bool]
) -> None:
    pool.publish("t")
    (pool.tasks_dir / "paused").write_text(text, "latin-1")
    assert not claims(pool)
    pause = pool.paused()
    assert pause is not None
    assert pause.until == math.inf
    assert str(pool.tasks_dir / "paused") in pause.reason
    pool.resume()
    assert claims(pool)


@pytest.mark.parametrize("kind", ["directory", "FIFO"])
def test_a_pause_that_is_no_file_is_an_error_and_nothing_is_claimed(
    pool: TaskPool, kind: str
) -> None:
    pool.publish("t")
    path = pool.tasks_dir / "paused"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(OSError, match="paused"):
        pool.claim("t", "a")
    assert pool.claim_task("t", "a") == {}
    assert pool.counts() == {"available": 1, "claimed": 0, "completed": 0, "failed": 0}


@pytest.mark.parametrize("until", [None, 4e9, math.inf])
def test_who_is_refused_is_told_until_when_and_why(pool: TaskPool, until: float | None) -> None:
    pool.publish("t")
    pool.pause(until, "rate limit")
    with pytest.raises(PoolPaused, match="rate limit") as caught:
        pool.claim("t", "a")
    assert caught.value.until == (math.inf if until is None else until)
    assert pool.paused() == (caught.value.until, "rate limit")


def test_the_last_pause_counts(pool: TaskPool) -> None:
    pool.publish("t")
    pool.pause(reason="first")
    pool.pause(4e9, reason="second")
    assert pool.paused() == (4e9, "second")
    pool.pause(time.time() - 1)
    assert claim(pool)


@pytest.mark.parametrize("until", [math.nan, "soon", True])
def test_a_pause_until_no_moment_is_refused(pool: TaskPool, until: object) -> None:
    with pytest.raises(ValueError, match="until"):
        pool.pause(until)  # type: ignore[arg-type]
    assert pool.paused() is None


def test_without_a_pause_to_resume_is_nothing(pool: TaskPool) -> None:
    pool.resume()
    pool.pause()
    pool.resume()
    pool.resume()
    assert pool.paused() is None


@pytest.mark.parametrize(
    ("verb", "arguments", "state"),
    [("complete", (1,), "completed"), ("release", (), "available"), ("fail", ("no",), "available"),
     ("renew", (60,), "claimed")],
)  # fmt: skip
def test_claims_that_stand_go_on_through_a_pause(
    pool: TaskPool, verb: str, arguments: tuple[object, ...], state: str
) -> None:
    pool.publish("t")
    held = pool.claim("t", "a")
    pool.pause()
    getattr(held, verb)(*arguments)
    assert pool.counts()[state] == 1


def test_what_is_published_and_recovered_in_a_pause_waits_for_its_end(pool: TaskPool) -> None:
    pool.publish("t")
    pool.claim("t", "a", lease_s=-1)
    pool.pause()
    assert pool.publish("u")
    assert pool.recover().returned == ["t"]
    assert pool.claim_many("b", 2) == []
    pool.resume()
    assert len(pool.claim_many("b", 2)) == 2


def test_who_meets_another_claimer_imports_nothing_to_see_that_there_is_no_pause(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many that race for one task, some do, each in a process of its own."""
    pool.publish("t")
    monkeypatch.setattr("fastclaim.claiming.turns", lambda _: iter(range(3)))
    monkeypatch.setitem(sys.modules, "fastclaim.pausing", None)  # to import it is an error
    with open(pool.available_dir / "t.json") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockTimeout):
            pool.claim("t", "a")


def test_of_a_pause_that_finds_no_room_it_is_said_where(
    make_pool: Callable[..., TaskPool], small_disk: Path
) -> None:
    pool = make_pool(small_disk)
    fill(small_disk)
    with pytest.raises(OSError, match="No space left") as refused:
        pool.pause(reason="r" * 5000)
    assert refused.value.filename == str(small_disk / "tasks" / "paused")
    assert pool.paused() is None


def test_to_resume_what_is_not_paused_does_nothing_even_where_nothing_may_be_written(
    make_pool: Callable[..., TaskPool], small_disk: Path
) -> None:
    pool = make_pool(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    pool.resume()
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    pool.pause()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only"):
        pool.resume()
    assert pool.paused() is not None
