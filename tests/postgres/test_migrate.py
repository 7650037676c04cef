"""A live pool moves without losing or doubling a task, also when it is interrupted anywhere."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastclaim import LockTimeout, PoolUnavailable, TaskNotAvailable, TaskPool, cli
from fastclaim.postgres import migrate as migration
from fastclaim.postgres.migrate import MOVER, migrate
from fastclaim.postgres.pool import PostgresPool

from ..other_hands import publish_unchecked
from .interrupted import Interrupted, interrupter

Pools = tuple[TaskPool, str, TaskPool, str]


@pytest.fixture(params=["to the server", "to the directory"])
def pools(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Pools:
    """The pool to move, its place, and where to."""
    directory = str(tmp_path / "pool")
    places = (directory, postgres_url)
    if request.param == "to the directory":
        places = places[::-1]
    source, target = (TaskPool(place) for place in places)
    return source, places[0], target, places[1]


def fill(pool: TaskPool) -> None:
    pool.publish("plain", "d", requirements=["python"], number=float("inf"), text="\ud800\0")
    pool.publish_task("original", "d", None, {"deadline": 4e9})
    pool.publish("blocked", blocked_by=["done"])
    pool.publish("done")
    pool.claim("done", "a").complete({"r": [1, None]})
    pool.publish("given-back")
    pool.claim("given-back", "a").release()
    pool.publish("later", not_before=4e9)


def states(*pools: TaskPool) -> dict[object, str]:
    """Where each task is; it must be in one place."""
    found = [
        (task["task_id"], state)
        for pool in pools
        for state in pool.counts()
        for task in pool.tasks(state)
        if task.get("claimed_by") != MOVER
    ]
    assert len({task_id for task_id, _ in found}) == len(found)
    return dict(found)


# A mark of the directory's; and a process, which means nothing in another pool.
OF_ONE_POOL = ("fastclaim", "owner")


def tasks(pool: TaskPool) -> dict[object, Any]:
    return {
        task["task_id"]: {name: value for name, value in task.items() if name not in OF_ONE_POOL}
        for state in pool.counts()
        for task in pool.tasks(state)
    }


def test_everything_arrives_as_it_was(pools: Pools) -> None:
    source, come_from, target, go_to = pools
    fill(source)
    before, where = tasks(source), states(source)
    moved, left = migrate(come_from, go_to)
    assert (moved, left) == (6, [])
    assert sum(source.counts().values()) == 0
    assert states(target) == where
    assert tasks(target) == before
    assert migrate(come_from, go_to) == (0, [])
    # They are tasks like any other there.
    assert target.claim("plain", "b").task["number"] == float("inf")
    target.complete("plain", "b")
    if isinstance(target, PostgresPool):
        got = []
        while (claim := target.claim_next("b")) is not None:
            got.append(claim.task_id)
        assert sorted(map(str, got)) == ["blocked", "given-back", "original"]


def test_what_was_tried_and_given_up_arrives_too(postgres_url: str, tmp_path: Path) -> None:
    source = PostgresPool(postgres_url)
    for task_id, attempts in (("tried", 3), ("given-up", 1)):
        source.publish(task_id, max_attempts=attempts)
        source.claim(task_id, "a")
        source.fail(task_id, "a", "e")
    before = tasks(source)
    assert migrate(postgres_url, tmp_path / "pool") == (2, [])
    assert migrate(tmp_path / "pool", postgres_url) == (2, [])
    assert tasks(source) == before
    assert source.counts()["failed"] == 1


def test_a_task_whose_time_is_to_come_is_moved_with_its_time(pools: Pools) -> None:
    source, come_from, target, go_to = pools
    source.publish("later", not_before=4e9)
    source.publish("given-back")
    source.claim("given-back", "a").release(not_before=4e9)
    assert migrate(come_from, go_to) == (2, [])
    assert {task["task_id"]: task["not_before"] for task in target.tasks()} == {
        "later": 4e9,
        "given-back": 4e9,
    }
    with pytest.raises(TaskNotAvailable):
        target.claim("later", "a")
    assert target.claim_next("a") is None


def test_a_task_that_cannot_be_moved_after_all_keeps_its_time(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, come_from, _, go_to = pools
    source.publish("x", not_before=4e9)
    source.publish("y")
    for side in (migration._Server, migration._Directory):
        monkeypatch.setattr(side, "adopt", lambda *_: False)  # somebody publishes it there
    before = tasks(source)
    assert migrate(come_from, go_to).moved == 0
    assert tasks(source) == before
    claim = source.claim_next("a")
    assert claim is not None
    assert claim.task_id == "y"
    assert source.claim_next("a") is None


@pytest.mark.parametrize("state", ["available", "completed", "failed"])
def test_what_is_published_anew_in_mid_move_stays(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    source = PostgresPool(postgres_url, max_attempts=1)

    def bring_to_its_state() -> None:
        source.publish("x", if_exists="replace")
        claim = source.claim("x", "a")
        if state == "completed":
            claim.complete()
        elif state == "failed":
            claim.fail("e")

    bring_to_its_state()
    if state == "available":
        source.release("x", "a")
    adopt = migration._Directory.adopt

    def adopt_and_publish_anew(self: Any, task: Any, where: str) -> bool:
        adopted = adopt(self, task, where)
        bring_to_its_state()
        return adopted

    monkeypatch.setattr(migration._Directory, "adopt", adopt_and_publish_anew)
    migrate(postgres_url, tmp_path / "pool")
    assert source.counts()["claimed" if state == "available" else state] == 1


def test_a_pause_holds_nothing_up(pools: Pools) -> None:
    source, come_from, target, go_to = pools
    source.publish("x")
    source.pause(reason="moving")
    assert migrate(come_from, go_to) == (1, [])
    assert source.paused() is not None
    assert target.paused() is None


def test_a_task_whose_key_a_claim_holds_is_left_until_the_claim_ends(pools: Pools) -> None:
    source, come_from, target, go_to = pools
    source.publish("x", exclusive=["k"])
    source.publish("y", exclusive=["k"])
    claim = source.claim("x", "a")
    moved, left = migrate(come_from, go_to)
    assert (moved, sorted(f"{task_id}" for task_id, _ in left)) == (0, ["x", "y"])
    assert "key" in dict(left)["y"]
    claim.complete()
    assert migrate(come_from, go_to) == (2, [])
    target.claim("y", "b").complete()


def test_a_claim_stays_with_its_holder_until_it_ends(pools: Pools) -> None:
    source, come_from, target, go_to = pools
    source.publish("x")
    claim = source.claim("x", "a")
    moved, left = migrate(come_from, go_to)
    assert moved == 0
    assert left == [("x", "it is claimed by 'a'")]
    claim.complete({"r": 1})
    assert migrate(come_from, go_to) == (1, [])
    (task,) = target.tasks("completed")
    assert task["result"] == {"r": 1}


def test_another_task_of_the_same_id_is_left_and_told(pools: Pools) -> None:
    source, come_from, target, go_to = pools
    source.publish("x", "ours")
    source.publish("y", "ours")
    source.claim("y", "a").complete()
    target.publish("x", "theirs")
    target.publish("y", "theirs")
    moved, left = migrate(come_from, go_to)
    assert moved == 0
    assert sorted(str(task_id) for task_id, _ in left) == ["x", "y"]
    assert source.counts()["available"] == 1
    assert {task["description"] for task in target.tasks()} == {"theirs"}


STEPS = ("hold", "adopt", "remove")


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return interrupter(monkeypatch, migration, STEPS)


def moments_of(run: Callable[[], object], interrupt_at: Callable[[int], None]) -> Iterator[int]:
    for n in itertools.count(1):
        interrupt_at(n)
        try:
            run()
        except Interrupted:
            yield n
        else:
            return


def test_an_interruption_anywhere_is_made_good_by_the_next_run(
    pools: Pools, interrupt_at: Callable[[int], None]
) -> None:
    source, come_from, target, go_to = pools
    fill(source)
    where = states(source)
    interruptions = 0
    for n in moments_of(lambda: migrate(come_from, go_to), interrupt_at):
        interruptions = n
        # Nobody can get a task in both pools; ended ones may be seen twice.
        claimable = [task["task_id"] for pool in (source, target) for task in pool.tasks()]
        assert len(set(claimable)) == len(claimable)
        # And back to the beginning, so that the next moment is one of a whole run.
        interrupt_at(0)
        assert migrate(come_from, go_to)[1] == []
        assert states(source, target) == where
        assert migrate(go_to, come_from)[1] == []
        assert states(source) == where
    assert interruptions > len(where) * 4
    assert states(target) == where
    assert tasks(target)["later"]["not_before"] == 4e9


def instead(
    monkeypatch: pytest.MonkeyPatch, name: str, step: Callable[[Callable[..., Any]], Any]
) -> None:
    """Let a step of both sides be another one, which gets the original to call."""
    for side in (migration._Server, migration._Directory):
        original = getattr(side, name)

        def other(*args: object, original: Callable[..., Any] = original) -> Any:
            return step(lambda: original(*args))

        monkeypatch.setattr(side, name, other)


def interrupted(*_: object) -> None:
    raise Interrupted


def refused(*_: object) -> None:
    raise LockTimeout("others hold it")


def test_a_run_the_other_way_does_not_lose_what_was_completed_since_one_was_interrupted(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, come_from, target, go_to = pools
    source.publish("x")
    with monkeypatch.context() as patch:
        instead(patch, "remove", interrupted)
        with pytest.raises(Interrupted):
            migrate(come_from, go_to)
    target.claim("x", "a").complete("r")
    told = "the other pool is moving it here: finish that run first"
    assert migrate(go_to, come_from) == (0, [("x", told)])
    assert migrate(come_from, go_to) == (1, [])
    assert [task["result"] for task in target.tasks("completed")] == ["r"]
    assert sum(source.counts().values()) == 0


def test_what_an_interrupted_run_the_other_way_holds_is_told(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, come_from, target, go_to = pools
    source.publish("x")
    with monkeypatch.context() as patch:
        instead(patch, "adopt", interrupted)
        with pytest.raises(Interrupted):
            migrate(come_from, go_to)
    told = "the other pool is moving it here: finish that run first"
    assert migrate(go_to, come_from) == (0, [("x", told)])
    assert migrate(come_from, go_to) == (1, [])
    target.claim("x", "a").complete()


def test_a_server_that_goes_when_a_task_has_arrived_leaves_it_to_one_pool(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, come_from, target, go_to = pools
    source.publish("x")

    def adopt_and_lose_the_answer(adopt: Callable[[], object]) -> None:
        adopt()
        raise PoolUnavailable("the server has gone")

    with monkeypatch.context() as patch:
        instead(patch, "adopt", adopt_and_lose_the_answer)
        with pytest.raises(PoolUnavailable):
            migrate(come_from, go_to)
    assert source.claim_next("a") is None
    target.claim("x", "a").complete()
    assert migrate(come_from, go_to) == (1, [])
    assert target.counts()["completed"] == 1


def test_a_task_that_has_arrived_and_cannot_be_removed_yet_is_one_pools(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, come_from, target, go_to = pools
    source.publish("x")
    with monkeypatch.context() as patch:
        instead(patch, "remove", refused)
        assert migrate(come_from, go_to) == (0, [("x", "others hold it")])
    assert source.claim_next("a") is None
    target.claim("x", "a").complete()
    assert migrate(come_from, go_to) == (1, [])
    assert target.counts()["completed"] == 1


ENDED = {"claimed_by": "a", "claimed_at": 1.0, "completed_at": 1.0, "result": 1}
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "attempts in words": ("available", {"attempts": "three"}),
    "half an attempt": ("available", {"attempts": 1.5}),
    "more attempts than fit": ("available", {"attempts": 2**40}),
    "attempts unknown": ("available", {"attempts": None}),
    "no failures": ("available", {"failures": []}),
    "an age that is none": ("available", {"fastclaim": f"1 0 {10**400}"}),
    "iso times": ("completed", ENDED | {"completed_at": "2026-01-01", "claimed_at": "2026-01-01"}),
    "no time": ("completed", {"claimed_by": "a", "status": "completed"}),
    "another status": ("completed", ENDED | {"status": "available"}),
    "no status": ("completed", ENDED),
    "a claimer with NUL": ("completed", ENDED | {"claimed_by": "a\0"}),
    "a claimer with half a letter": ("completed", ENDED | {"claimed_by": "a\udcff"}),
    "a number as token": ("completed", ENDED | {"claim_token": 5}),
    "a token with NUL": ("completed", ENDED | {"claim_token": "t\0"}),
    "failures that are none": ("failed", {"failures": {"a": 1}, "failed_at": "2026-01-01"}),
}
SUFFIXES = {"available": ".json", "completed": "_complete.json", "failed": "_failed.json"}


@pytest.mark.parametrize("odd", ODD)
def test_a_document_of_another_hand_arrives_with_what_can_be_read_of_it(
    tmp_path: Path, postgres_url: str, odd: str
) -> None:
    state, fields = ODD[odd]
    source, target = TaskPool(tmp_path / "pool"), TaskPool(postgres_url)
    document = json.dumps({"task_id": "q"} | fields)
    (source.tasks_dir / state / f"q{SUFFIXES[state]}").write_text(document)
    assert migrate(tmp_path / "pool", postgres_url) == (1, [])
    assert states(target) == {"q": state}
    if state == "completed":
        return
    if state == "failed":
        target.retry_failed("q")
    target.claim("q", "a").fail("e")
    (task,) = target.tasks()
    assert [failure["error"] for failure in task["failures"]] == ["e"]


def test_a_task_that_says_it_was_created_at_no_time_arrives_as_it_was(pools: Pools) -> None:
    source, come_from, target, go_to = pools
    publish_unchecked(source, "x", created_at=float("inf"))
    assert migrate(come_from, go_to) == (1, [])
    assert [task["created_at"] for task in target.tasks()] == [float("inf")]


@pytest.mark.parametrize("task_id", ["q\0x", "q\udcff", "a/b"])
@pytest.mark.parametrize("state", ["available", "completed"])
def test_what_cannot_be_moved_is_left_with_its_reason_and_the_others_move(
    tmp_path: Path, postgres_url: str, task_id: str, state: str
) -> None:
    source, target = TaskPool(tmp_path / "pool"), TaskPool(postgres_url)
    document = json.dumps(ENDED | {"task_id": task_id})
    (source.tasks_dir / state / f"q{SUFFIXES[state]}").write_text(document)
    for good in ("a", "z"):
        source.publish(good)
        if state == "completed":
            source.claim(good, "a").complete()
    moved, ((left, reason),) = migrate(tmp_path / "pool", postgres_url)
    assert (moved, left) == (2, task_id)
    assert f"task id {task_id!r}" in reason
    assert states(target) == {"a": state, "z": state}


def test_what_others_hold_for_long_is_left_and_the_others_move(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, come_from, target, go_to = pools
    source.publish("x")
    source.publish("done")
    source.claim("done", "a").complete()
    with monkeypatch.context() as patch:
        instead(patch, "hold", refused)
        assert migrate(come_from, go_to) == (1, [("x", "others hold it")])
    assert states(target) == {"done": "completed"}


def test_in_whatever_order_tasks_arrive_the_first_published_is_the_first_claimed(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, come_from, target, go_to = pools
    order = ["d", "b", "e", "a", "c"]
    for task_id in order:
        source.publish(task_id)
    instead(monkeypatch, "tasks", lambda tasks: sorted(tasks(), key=lambda task: task["task_id"]))
    assert migrate(come_from, go_to) == (len(order), [])
    claims = [target.claim_next("a") for _ in order]
    assert [claim and claim.task_id for claim in claims] == order


def test_agents_on_both_sides_complete_each_task_once(pools: Pools) -> None:
    source, come_from, target, go_to = pools
    number = 60
    source.publish_many([{"task_id": f"t{n}"} for n in range(number)])
    completed: list[str] = []
    moving = True

    def work(pool: TaskPool) -> None:
        while len(completed) < number:
            ids = [f"{task['task_id']}" for task in itertools.islice(pool.tasks(), 3)]
            for task_id in ids:
                if pool.claim_task(task_id, "a") and pool.complete_task(task_id, "a", {}):
                    completed.append(task_id)
            assert time.monotonic() < until_s

    until_s = time.monotonic() + 60
    agents = [threading.Thread(target=work, args=(pool,)) for pool in (source, target)]
    for agent in agents:
        agent.start()
    while moving:
        _, left = migrate(come_from, go_to)
        moving = bool(left) or sum(source.counts().values()) > 0
        assert time.monotonic() < until_s
    for agent in agents:
        agent.join()
    assert sorted(completed) == sorted(f"t{n}" for n in range(number))
    assert migrate(come_from, go_to)[1] == []
    assert target.counts()["completed"] == number


def test_the_command_moves_a_pool_and_says_what_is_left(
    tmp_path: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = TaskPool(tmp_path / "pool")
    source.publish("x")
    source.publish("y")
    source.claim("y", "a")
    half_a_claim = source.claimed_dir / "z_a.json"
    half_a_claim.write_text('{"task_id": "z"}')
    command = ["migrate", "--from", str(tmp_path / "pool"), "--to", postgres_url]
    assert cli.main(command) == 1
    out = capsys.readouterr().out
    assert "z: somebody is just claiming it, or died doing so: see `fastclaim recover`" in out
    half_a_claim.unlink()
    assert "moved 1 task" in out
    assert "y: it is claimed by 'a'" in out
    source.complete("y", "a")
    assert cli.main(command) == 0
    assert cli.main(["migrate", "--from", "a", "--to", "b"]) == 2
    assert "a directory, the other a URL" in capsys.readouterr().err
    typo = str(tmp_path / "typo")
    assert cli.main(["migrate", "--from", typo, "--to", postgres_url]) != 0
    assert "typo: there is no pool" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
    assert cli.main(["migrate", "--from", postgres_url, "--to", ""]) == 2
    assert "empty" in capsys.readouterr().err
    broken = "postgresql://u:SECRET@127.0.0.1:1/d"
    assert cli.main(["migrate", "--from", str(tmp_path / "pool"), "--to", broken]) == 7
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "SECRET" not in err
