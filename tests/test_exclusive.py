"""Two tasks that share a key are never claimed at the same time."""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastclaim import (
    InvalidTask,
    KeyHeld,
    LockTimeout,
    TaskNotAvailable,
    TaskPool,
    claiming,
    exclusive,
    listing,
)

from .dying import deaths

ORDERS = ["priority", "oldest", "any"]


@pytest.fixture
def keyed(pool: TaskPool) -> TaskPool:
    """A pool with two tasks that share a key, one that has another, and one that has none."""
    pool.publish("x", exclusive=["src/app.py", "main"], priority=4)
    pool.publish("y", exclusive=["main"], priority=3)
    pool.publish("other", exclusive=["docs"], priority=2)
    pool.publish("free", priority=1)
    return pool


@pytest.mark.parametrize("order", ORDERS)
def test_a_task_whose_key_is_held_is_passed_over_until_it_is_free(
    keyed: TaskPool, order: str
) -> None:
    claims = {}
    while (claim := keyed.claim_next("a", order=order)) is not None:
        claims[claim.task_id] = claim
    first = claims.keys() & {"x", "y"}
    assert len(first) == 1
    assert claims.keys() - first == {"other", "free"}
    claims[first.pop()].complete()
    assert keyed.claim_next("b", order=order).task_id in {"x", "y"} - first


@pytest.mark.parametrize("end", ["complete", "release", "complete_task", "by hand"])
def test_a_key_is_free_when_its_claim_ends_however_it_does(keyed: TaskPool, end: str) -> None:
    claim = keyed.claim("x", "a")
    if end == "complete_task":
        assert keyed.complete_task("x", "a", {})
    elif end == "by hand":
        (keyed.claimed_dir / "x_a.json").rename(keyed.tasks_dir / "put aside")
    else:
        getattr(claim, end)()
    assert keyed.claim("y", "b").task_id == "y"


def test_a_claim_by_id_is_refused_while_a_key_is_held(keyed: TaskPool) -> None:
    keyed.claim("x", "a")
    before = (keyed.available_dir / "y.json").read_bytes()
    said = r"task 'y' needs the key 'main', which x \(claimed by a since \S+\) holds"
    with pytest.raises(KeyHeld, match=said) as refused:
        keyed.claim("y", "b")
    assert (refused.value.task_id, refused.value.key) == ("y", "main")
    assert (refused.value.holder, refused.value.claim_name) == ("a", "x_a.json")
    assert vars(pickle.loads(pickle.dumps(refused.value))) == vars(refused.value)
    assert keyed.claim_task("y", "b") == {}
    assert (keyed.available_dir / "y.json").read_bytes() == before
    assert sorted(os.listdir(keyed.available_dir)) == ["free.json", "other.json", "y.json"]


def test_a_batch_holds_no_key_twice(keyed: TaskPool) -> None:
    assert {claim.task_id for claim in keyed.claim_many("a", 9)} == {"x", "other", "free"}


def test_the_same_agent_may_take_its_task_again_when_it_was_published_again(
    keyed: TaskPool,
) -> None:
    keyed.claim("x", "a")
    keyed.publish("x", exclusive=["main"], if_exists="replace")
    with pytest.raises(TaskNotAvailable, match="main"):
        keyed.claim("x", "b")
    keyed.claim("x", "a")
    with pytest.raises(TaskNotAvailable, match="main"):
        keyed.claim("y", "b")


@pytest.mark.parametrize("keys", [7.5, {"main": 1}, True])
def test_keys_that_are_no_list_are_refused_when_published(pool: TaskPool, keys: object) -> None:
    if keys is True:
        assert exclusive.keys_of({"exclusive": True}) == {"True"}
        return
    with pytest.raises(InvalidTask, match="exclusive"):
        pool.publish("x", exclusive=keys)
    (pool.available_dir / "x.json").write_text('{"task_id": "x", "exclusive": {"main": 1}}')
    assert pool.claim_next("a") is None


def test_keys_may_be_any_text(pool: TaskPool) -> None:
    for number, key in enumerate(["../x", "/", "", "\0", "k" * 5000, "\ud800", "ä", ".", "K", "k"]):
        for twin in "ab":
            pool.publish(f"{number}{twin}", exclusive=[key, f"{key}!"])
    claimed = [claim.task_id for claim in pool.claim_many("a", 99)]
    assert [task_id[:-1] for task_id in claimed] == [f"{number}" for number in range(10)]


def test_a_task_published_with_keys_between_the_look_and_the_claim_is_not_claimed_without_them(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("holder", exclusive=["main"])
    pool.claim("holder", "a")
    pool.publish("x", "without keys", priority=9)
    claim = claiming.claim

    def claim_what_was_replaced(*args: object, **how: object) -> object:
        monkeypatch.undo()
        pool.publish("x", "with keys", exclusive=["main"], if_exists="replace")
        return claim(*args, **how)

    monkeypatch.setattr(claiming, "claim", claim_what_was_replaced)
    assert pool.claim_next("b") is None
    assert sorted(os.listdir(pool.claimed_dir)) == ["holder_a.json"]
    assert [task["description"] for task in pool.tasks()] == ["with keys"]


def test_the_keys_of_tasks_that_others_wrote_count_too(pool: TaskPool) -> None:
    for name in ("x", "y"):
        (pool.available_dir / f"{name}.json").write_text('{"exclusive": ["main"]}')
    pool.claim("x", "a")
    with pytest.raises(TaskNotAvailable, match="main"):
        pool.claim("y", "b")


def test_a_key_in_the_middle_of_a_claim_is_waited_for_no_longer_than_told(
    keyed: TaskPool,
) -> None:
    with exclusive.held(keyed._directories, {"main"}, "z", "z_a.json"):
        with pytest.raises(LockTimeout):
            keyed.claim("y", "b", timeout=0)
        assert keyed.claim_next("b").task_id == "other"
    assert keyed.claim("y", "b", timeout=0).task_id == "y"


@pytest.mark.parametrize("durability", ["none", "data"])
def test_a_death_at_any_moment_leaves_the_key_held_or_free_as_the_claim_stands(
    make_pool: Callable[..., TaskPool], durability: str
) -> None:
    pool = make_pool(durability=durability)
    pool.publish("y", exclusive=["main"])
    pool.publish("x", exclusive=["main", "src"])
    pool.claim("x", "a").release()  # imports what a claim imports
    outcomes = set()
    for _ in deaths(lambda: pool.claim("x", "a")):
        stands = (pool.claimed_dir / "x_a.json").exists()
        try:
            pool.claim("y", "b", timeout=0).release()
            is_free = True
        except TaskNotAvailable:
            is_free = False
        assert is_free is not stands
        outcomes.add(is_free)
        for path in pool.claimed_dir.iterdir():
            path.unlink()
        pool.publish("x", exclusive=["main", "src"], if_exists="replace")
    assert outcomes == {True, False}


HOLDER = """
import sys
from fastclaim import TaskPool, exclusive
pool = TaskPool(sys.argv[1])
with exclusive.held(pool._directories, {"main"}, "x", "x_a.json"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_holds_no_key(keyed: TaskPool) -> None:
    command = [sys.executable, "-c", HOLDER, os.fspath(keyed.base_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockTimeout):
            keyed.claim("y", "b", timeout=0)
        holder.kill()
        holder.wait()
    assert keyed.claim("y", "b", timeout=0).task_id == "y"


def test_a_child_forked_inside_a_claim_does_not_keep_the_key(keyed: TaskPool) -> None:
    reader, writer = os.pipe()
    with exclusive.held(keyed._directories, {"main"}, "x", "x_a.json"):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        assert keyed.claim("y", "b", timeout=0).task_id == "y"
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


def test_many_threads_never_hold_a_key_together(make_pool: Callable[..., TaskPool]) -> None:
    pools = [make_pool(durability="none"), make_pool(durability="none")]
    keys = ["k0", "k1", "k2"]
    pools[0].publish_many(
        {"task_id": f"x{n}", "exclusive": [keys[n % 3], keys[(n + n // 3) % 3]]} for n in range(60)
    )
    holders = {key: threading.Lock() for key in keys}

    def work(number: int) -> int:
        done = 0
        while (claim := pools[number % 2].claim_next(f"a{number}", wait=0.5)) is not None:
            held = sorted(set(claim.task["exclusive"]))
            for key in held:
                assert holders[key].acquire(blocking=False)
            for _ in range(10):
                pools[number % 2].counts()  # lets others claim meanwhile
            for key in held:
                holders[key].release()
            claim.complete()
            done += 1
        return done

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(work, range(4))) == 60


def test_free_keys_are_forgotten_and_held_ones_are_not(keyed: TaskPool) -> None:
    keyed.claim("x", "a")
    keyed.claim("other", "a").complete()
    keyed.prune("completed", 0, dry_run=False)
    assert len(list((keyed.tasks_dir / "keys").glob("*.key"))) == 2
    with pytest.raises(TaskNotAvailable, match="main"):
        keyed.claim("y", "b")


def test_the_file_of_an_agent_is_forgotten_unless_that_is_just_claiming(pool: TaskPool) -> None:
    def files() -> int:
        return len(list((pool.tasks_dir / "keys").iterdir()))

    with exclusive.agent_lock(pool._directories, "claiming"):
        pool.claim_next("a", max_claims=1)
        assert files() == 2
        pool.prune("completed", 0, dry_run=False)
        assert files() == 1
    pool.prune("completed", 0, dry_run=False)
    assert files() == 0


def test_who_waits_for_a_key_file_that_is_removed_makes_it_anew(
    keyed: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed.claim("x", "a").release()
    flock = fcntl.flock

    def remove_first(*args: object) -> None:
        monkeypatch.undo()
        exclusive.forget_free_keys(keyed._directories)
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    keyed.claim("y", "b")
    assert exclusive.holder_of(keyed._directories, "main") == "y_b.json"


def test_a_pool_without_keys_makes_no_directory_for_them(pool: TaskPool) -> None:
    pool.publish("x")
    pool.claim_next("a").complete()
    assert not (pool.tasks_dir / "keys").exists()
    assert [task["task_id"] for task in pool.tasks("completed")] == ["x"]
    assert list(listing.claims_by(pool._directories, "a")) == []
