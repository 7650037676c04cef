"""Which task `claim_next` and `claim_many` take, and which they leave."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from orchestration.a2a_integration import TaskPool as Original

from fastclaim import (
    InvalidName,
    TaskPool,
    candidates,
    claiming,
    doubts,
    exclusive,
    listing,
    search,
    selection,
    views,
)
from fastclaim.candidates import Ordered
from fastclaim.inotify import Inotify
from fastclaim.tasks_directory import TasksDirectory

from .agents import agent
from .other_hands import publish_unchecked
from .test_transition import flocked

ORDERS = ["priority", "oldest", "any"]


def drain(
    pool: TaskPool, agent_id: str = "a", capabilities: object = (), **how: object
) -> list[str]:
    """The ids of all tasks that the agent gets, in the order in which it gets them."""
    ids = []
    while (claim := pool.claim_next(agent_id, capabilities, **how)) is not None:
        ids.append(claim.task_id)
    return ids


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without inotify."""

    def refuse(_: Inotify) -> None:
        raise OSError("no inotify here")

    monkeypatch.setattr("fastclaim.inotify.Inotify.__init__", refuse)
    monkeypatch.setattr("fastclaim.inotify.Inotify.__del__", lambda _: None)


# Order --------------------------------------------------------------------------------------------


def test_a_higher_priority_comes_first_and_then_the_older(pool: TaskPool) -> None:
    pool.publish("low", priority=-1, created_at=1)
    pool.publish("none", created_at=2)
    pool.publish("new", priority=5, created_at=9)
    pool.publish("old", priority=5, created_at=3)
    publish_unchecked(pool, "odd", priority="high", created_at=4)
    assert drain(pool) == ["old", "new", "none", "odd", "low"]


def test_the_oldest_comes_first_whatever_its_priority(pool: TaskPool) -> None:
    pool.publish("text", created_at="2001-09-09T01:46:41+00:00")
    pool.publish("number", created_at=1_000_000_000.5, priority=-3)
    pool.publish("later", created_at=1_000_000_002, priority=9)
    assert drain(pool, order="oldest") == ["number", "text", "later"]


def test_tasks_without_a_date_are_as_old_as_their_publication(pool: TaskPool) -> None:
    for name in ("first", "second", "third"):
        pool.publish(name)
    pool.publish("ancient", created_at=0)
    assert drain(pool, order="oldest") == ["ancient", "first", "second", "third"]


@pytest.mark.parametrize("odd", [float("nan"), 10**400, -(10**400), float("inf"), True, None, {}])
def test_no_number_in_a_task_breaks_the_order(pool: TaskPool, odd: object) -> None:
    publish_unchecked(pool, "odd", priority=odd, created_at=odd)
    pool.publish("plain", priority=1, created_at=1)
    assert set(drain(pool)) == {"odd", "plain"}


def test_a_task_published_later_comes_before_those_that_matter_less(pool: TaskPool) -> None:
    pool.publish("a", priority=1)
    pool.publish("b", priority=1)
    assert pool.claim_next("x").task_id == "a"
    pool.publish("urgent", priority=2)
    assert pool.claim_next("x").task_id == "urgent"


@pytest.mark.parametrize("order", ORDERS)
def test_a_task_released_or_published_anew_can_be_had_again(pool: TaskPool, order: str) -> None:
    pool.publish("x")
    pool.claim_next("a", order=order).release()
    pool.claim_next("b", order=order).complete()
    assert pool.claim_next("c", order=order) is None
    pool.publish("x", if_exists="replace")
    assert pool.claim_next("c", order=order).task_id == "x"


@pytest.mark.parametrize("changed", [{"requirements": ["rust"]}, {"blocked_by": ["nothing"]}])
@pytest.mark.parametrize("order", ORDERS)
def test_what_was_published_anew_for_others_is_not_had_for_what_it_asked_before(
    pool: TaskPool, order: str, changed: dict[str, object]
) -> None:
    for task_id in ("first", "t"):
        pool.publish(task_id, requirements=["python"])
    claim = pool.claim_next("a", ["python"], order=order)  # it knows of both
    (other,) = {"first", "t"} - {claim.task_id}
    pool.publish(other, if_exists="replace", **{"requirements": ["python"]} | changed)
    assert pool.claim_next("a", ["python"], order=order) is None


@pytest.mark.parametrize("order", ORDERS)
def test_a_task_that_an_original_publishes_in_place_is_seen(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr("orchestration.a2a_integration.A2A_BASE_DIR", str(pool.base_dir))
    assert pool.claim_next("a", order=order) is None
    Original().publish_task("x", "by an original")
    assert pool.claim_next("a", order=order).task["description"] == "by an original"


# Who may have what --------------------------------------------------------------------------------

FIELDS = [
    {},
    {"requirements": []},
    {"requirements": ["python", "gpu"]},
    {"requirements": ["gpu"]},
    {"requirements": "gpu"},
    {"requirements": 7},
    {"requirements": None},
    {"constraints": {}},
    {"constraints": {"required_capabilities": ["python", "gpu"]}},
    {"constraints": {"required_capabilities": []}},
    {"constraints": {"required_capabilities": "python"}},
    {"constraints": {"required_capabilities": 7}},
    {"constraints": ["required_capabilities"]},
    {"constraints": ["deadline is a word"]},
    {"constraints": 7},
    {"constraints": {"deadline": 1}},
    {"constraints": {"deadline": 1e300}},
    {"constraints": {"deadline": "yesterday"}},
    {"constraints": {"deadline": True}},
    {"requirements": ["gpu"], "constraints": {"required_capabilities": ["python"]}},
]
CAPABILITIES = [
    [],
    ["python"],
    ["gpu"],
    ["gpu", "python"],
    ["p", "y", "t", "h", "o", "n", "g", "u"],
]


@pytest.mark.parametrize("capabilities", CAPABILITIES, ids=",".join)
@pytest.mark.parametrize("order", ["priority", "any"])
def test_capabilities_match_exactly_as_the_originals_do(
    pool: TaskPool, capabilities: list[str], order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.a2a_integration.A2A_BASE_DIR", str(pool.base_dir))
    for number, fields in enumerate(FIELDS):
        publish_unchecked(pool, f"x{number}", **fields)
    original = Original()
    expected = set()
    for task in original.get_available_tasks(capabilities):
        try:
            if original.validate_task_constraints(task, capabilities):
                expected.add(task["task_id"])
        except TypeError:
            continue
    assert set(drain(pool, capabilities=capabilities, order=order)) == expected


def test_agents_of_different_capabilities_share_a_pool_object(pool: TaskPool) -> None:
    pool.publish("g", requirements=["gpu"], priority=9)
    pool.publish("p", requirements=["python"], priority=1)
    assert pool.claim_next("a", ["python"]).task_id == "p"
    assert pool.claim_next("a", ["python"]) is None
    assert pool.claim_next("b", ["gpu"]).task_id == "g"


@pytest.mark.parametrize("order", ORDERS)
def test_a_task_waits_for_all_that_it_is_blocked_by(pool: TaskPool, order: str) -> None:
    pool.publish("last", blocked_by=["one", "two"], priority=9)
    pool.publish("one")
    pool.publish("two")
    first, second = pool.claim_next("a", order=order), pool.claim_next("a", order=order)
    assert {first.task_id, second.task_id} == {"one", "two"}
    assert pool.claim_next("a", order=order) is None
    first.complete()
    assert pool.claim_next("a", order=order) is None
    second.complete()
    assert pool.claim_next("a", order=order).task_id == "last"


@pytest.mark.parametrize("blocked_by", [{"x": 1}, 1.5, ["a/b"], ["../claimed"], [None]])
def test_a_dependency_that_can_never_be_is_never_met(pool: TaskPool, blocked_by: object) -> None:
    publish_unchecked(pool, "x", blocked_by=blocked_by)
    assert pool.claim_next("a") is None


@pytest.mark.parametrize("blocked_by", [None, [], "", 0])
def test_an_empty_blocked_by_blocks_nothing(pool: TaskPool, blocked_by: object) -> None:
    publish_unchecked(pool, "x", blocked_by=blocked_by)
    assert pool.claim_next("a") is not None


@pytest.mark.parametrize("order", ORDERS)
def test_a_task_is_not_claimed_before_its_time(pool: TaskPool, order: str) -> None:
    from_s = time.time() + 0.3
    pool.publish("x", not_before=from_s)
    pool.publish("iso", not_before="2999-12-31T00:00:00+00:00")
    assert pool.claim_next("a", order=order) is None
    claim = pool.claim_next("a", order=order, wait=60)
    assert claim.task_id == "x"
    assert claim.task["claimed_at"] >= from_s


def test_a_deadline_that_passes_after_the_task_was_read_counts(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time()
    pool.publish("first", priority=1)
    pool.publish("x", constraints={"deadline": now_s + 1000})
    assert pool.claim_next("a").task_id == "first"
    monkeypatch.setattr(time, "time", lambda: now_s + 1001)
    assert pool.claim_next("a") is None


@pytest.mark.parametrize("order", ORDERS)
def test_what_cannot_be_claimed_is_left_alone_and_in_nobodys_way(
    pool: TaskPool, order: str
) -> None:
    available = pool.available_dir
    (available / "broken.json").write_text("{")
    (available / "list.json").write_text("[]")
    (available / "taken.json").write_text('{"task_id": "taken", "status": "claimed"}')
    (available / "directory.json").mkdir()
    (available / "link.json").symlink_to("/dev/zero")
    os.mkfifo(available / "fifo.json")
    before = sorted(os.listdir(available))
    pool.publish("good", priority=-9)
    assert drain(pool, order=order) == ["good"]
    assert sorted(os.listdir(available)) == before


def test_a_claim_whose_name_another_task_has_taken_is_passed_over(pool: TaskPool) -> None:
    pool.publish("a_b")
    pool.claim("a_b", "c")
    pool.publish("a", priority=1)
    pool.publish("z")
    assert drain(pool, agent_id="b_c") == ["z"]


@pytest.mark.parametrize("order", ORDERS)
def test_bad_arguments_are_named(pool: TaskPool, order: str) -> None:
    pool.publish("x")
    with pytest.raises(InvalidName, match="a/b"):
        pool.claim_next("a/b", order=order)
    with pytest.raises(ValueError, match="newest"):
        pool.claim_next("a", order="newest")
    with pytest.raises(TypeError, match="python"):
        pool.claim_next("a", "python", order=order)
    assert pool.counts()["claimed"] == 0


def test_max_claims_counts_the_claims_that_stand(pool: TaskPool) -> None:
    for number in range(5):
        pool.publish(f"x{number}")
    pool.claim("x0", "other_a")  # a file name that ends like those of "a"
    first = pool.claim_next("a", max_claims=2)
    assert pool.claim_next("a", max_claims=2) is not None
    assert pool.claim_next("a", max_claims=2) is None
    first.complete()
    assert pool.claim_next("a", max_claims=2) is not None


def test_two_threads_of_one_agent_do_not_both_take_its_last_place(pool: TaskPool) -> None:
    for number in range(20):
        pool.publish(f"x{number}")
    with ThreadPoolExecutor(8) as threads:
        claims = threads.map(lambda _: pool.claim_next("a", max_claims=3), range(16))
        assert sum(claim is not None for claim in claims) == 3


# What it costs ------------------------------------------------------------------------------------


@pytest.fixture
def read_tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the tasks that a selection has read."""
    paths: list[str] = []

    def read_task(path: str, tasks: TasksDirectory) -> dict[str, object]:
        paths.append(path)
        return listing.read_task(path, tasks)

    monkeypatch.setattr(views, "read_task", read_task)
    return paths


@pytest.mark.parametrize("order", ORDERS)
def test_no_task_is_read_whose_mark_says_that_anybody_may_have_it(
    pool: TaskPool, read_tasks: list[str], order: str
) -> None:
    for number in range(50):
        pool.publish(f"x{number}", priority=number % 5)
        pool.publish(f"y{number}", requirements=["rust"])
    assert len(drain(pool, order=order)) == 100
    assert read_tasks == []


def test_any_reads_no_task_but_the_one_that_it_claims(
    pool: TaskPool, read_tasks: list[str]
) -> None:
    for number in range(50):
        pool.publish(f"x{number}", constraints={"deadline": 4e9})
    for _ in range(3):
        claim = pool.claim_next("a", order="any")
        assert read_tasks.pop() == str(pool.available_dir / f"{claim.task_id}.json")
        assert read_tasks == []


def test_any_claims_before_the_directory_has_been_read(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3 * views._PIECE_NAMES):
        (pool.available_dir / f"x{number}.json").write_text("{}")
    pieces = []
    piece = views._Scan.piece
    monkeypatch.setattr(views._Scan, "piece", lambda scan: pieces.append(piece(scan)) or pieces[-1])
    assert pool.claim_next("a", order="any") is not None
    assert len(pieces) == 1


@pytest.mark.parametrize("order", ["priority", "oldest"])
def test_an_ordered_agent_reads_each_task_once(
    pool: TaskPool, read_tasks: list[str], order: str
) -> None:
    for number in range(50):
        pool.publish(f"x{number}", blocked_by=["never"] if number % 2 else [])
    assert len(drain(pool, order=order)) == 25
    pool.publish("new")
    assert drain(pool, order=order) == ["new"]
    assert max(Counter(read_tasks).values()) == 1


def test_the_order_holds_over_many_runs_and_late_comers() -> None:
    names = Ordered(10**9)
    entries = [(float(random.randrange(5)), random.random(), f"x{n}") for n in range(20_000)]
    for entry in entries[:15_000]:
        names.push(*entry)
    taken = [names.pop() for _ in range(3000)]
    assert taken == sorted(entries[:15_000])[:3000]
    for entry in entries[15_000:]:
        names.push(*entry)
    rest = sorted(set(entries) - set(taken))
    assert [names.pop() for _ in rest] == rest
    assert names.pop() is None
    assert not names.dropped


def test_what_does_not_fit_is_dropped_from_the_end() -> None:
    names = Ordered(400_000)
    entries = [(0.0, random.random(), f"x{n:06}") for n in range(40_000)]
    for entry in entries:
        names.push(*entry)
    assert names.dropped
    kept = []
    while (entry := names.pop()) is not None:
        kept.append(entry)
    assert kept == sorted(entries)[: len(kept)]
    assert len(kept) > 5_000


def test_candidates_take_at_most_64_bytes_each() -> None:
    count = 200_000
    tracemalloc.start()
    try:
        names = Ordered(8 * 1024 * 1024)
        for number in range(count):
            names.push(float(number % 7), float(number), f"task-{number:07}.json")
        _, most_bytes = tracemalloc.get_traced_memory()
        assert most_bytes / count <= 64
        assert not names.dropped
    finally:
        tracemalloc.stop()


def test_dropped_tasks_are_found_again(pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "RUN_NAMES", 10)
    monkeypatch.setattr("fastclaim.selection._BUDGET_BYTES", 1000)
    for number in range(200):
        pool.publish(f"x{number:03}", priority=number % 3, created_at=number)
    expected = [f"x{n:03}" for p in (2, 1, 0) for n in range(200) if n % 3 == p]
    assert drain(pool) == expected


# What changes meanwhile ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_what_others_have_claimed_is_passed_over(
    make_pool: Callable[..., TaskPool], order: str
) -> None:
    ours, theirs = make_pool(), make_pool()
    for number in range(30):
        ours.publish(f"x{number}")
    assert ours.claim_next("a", order=order) is not None
    taken = {theirs.claim_next("b", order=order).task_id for _ in range(10)}
    rest = set(drain(ours, order=order))
    assert len(rest) == 19
    assert not rest & taken


@pytest.mark.parametrize("order", ORDERS)
def test_who_keeps_coming_too_late_looks_before_it_claims(
    make_pool: Callable[..., TaskPool], monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr("random.randrange", lambda _: 0)  # no jump out of the others' way
    ours, theirs = make_pool(), make_pool()
    ours.publish_many([{"task_id": f"x{number}"} for number in range(60)])
    assert ours.claim_next("a", order=order) is not None
    claim, claimed = claiming.claim, []
    monkeypatch.setattr(
        claiming,
        "claim",
        lambda *how, **terms: claimed.append(result := claim(*how, **terms)) or result,
    )
    for _ in range(10):
        del claimed[:]
        for _ in range(3):
            theirs.claim_next("b", order=order)
        before = len(claimed)
        assert ours.claim_next("a", order=order) is not None
    assert len(claimed) - before == 1


@pytest.mark.parametrize("order", ORDERS)
def test_lost_events_lose_no_task(
    pool: TaskPool, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x")
    assert pool.claim_next("a", order=order) is not None
    files = [open(pool.available_dir / f"y{n}.json", "w") for n in range(2)]  # noqa: SIM115
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most + 1):
        # Two names in turn: the kernel counts equal events in a row as one.
        os.pwrite(files[number % 2].fileno(), b"{}", 0)
    for file in files:
        file.close()
    pool.publish("late")
    assert set(drain(pool, order=order)) == {"y0", "y1", "late"}


@pytest.mark.parametrize("order", ORDERS)
def test_directories_made_anew_are_watched_anew(pool: TaskPool, order: str) -> None:
    pool.publish("x")
    assert pool.claim_next("a", order=order) is not None
    shutil.rmtree(pool.tasks_dir)
    pool.publish("y")
    assert pool.claim_next("a", order=order).task_id == "y"
    pool.available_dir.rename(pool.tasks_dir / "moved away")
    pool.publish("z")
    assert pool.claim_next("a", order=order).task_id == "z"
    pool.publish("later")
    assert pool.claim_next("a", order=order).task_id == "later"


@pytest.mark.parametrize("order", ORDERS)
def test_a_pool_that_was_made_anew_where_another_was_moved_away_is_followed_once_it_is_found(
    pool: TaskPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    assert pool.claim_next("a", order=order) is None
    pool.base_dir.rename(tmp_path / "moved away")
    others = TaskPool(pool.base_dir)
    others.publish("x")
    with monkeypatch.context() as patched:
        patched.setattr(selection, "_SLOW_LOOK_S", -1.0)
        patched.setattr(selection, "_LOOKING_SHARE", float("inf"))
        assert pool.claim_next("a", order=order).task_id == "x"
    others.publish("y")
    assert pool.claim_next("a", order=order).task_id == "y"


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("order", ORDERS)
def test_without_inotify_each_call_looks_by_itself(pool: TaskPool, order: str) -> None:
    assert pool.claim_next("a", order=order) is None
    pool.publish("x")
    pool.publish("y", blocked_by=["x"])
    claim = pool.claim_next("a", order=order)
    assert claim.task_id == "x"
    assert pool.claim_next("a", order=order) is None
    claim.complete()
    assert pool.claim_next("a", order=order).task_id == "y"


def test_a_forked_child_selects_for_itself(pool: TaskPool) -> None:
    for number in range(4):
        pool.publish(f"x{number}")
    assert pool.claim_next("parent") is not None
    child = os.fork()
    if child == 0:
        status = 1
        try:
            pool.publish("mine", priority=9)
            status = 0 if pool.claim_next("child").task_id == "mine" else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    pool.publish("after", priority=8)
    assert pool.claim_next("parent").task_id == "after"


def test_an_error_of_the_system_leaves_the_task_to_the_next_call(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(pool._directories.core, "claim", fail)
        with pytest.raises(OSError, match="full"):
            pool.claim_next("a")
    assert pool.claim_next("a").task_id == "x"


def test_no_task_is_claimed_twice_by_many_threads_and_none_is_left(
    make_pool: Callable[..., TaskPool],
) -> None:
    pools = [make_pool(), make_pool()]
    expected = {f"x{number}" for number in range(300)}
    pools[0].publish_many([{"task_id": task_id} for task_id in expected])

    def work(number: int) -> list[str]:
        return drain(pools[number % 2], f"a{number}", order=ORDERS[number % 3])

    with ThreadPoolExecutor(6) as threads:
        taken = [task_id for ids in threads.map(work, range(6)) for task_id in ids]
    assert sorted(taken) == sorted(expected)


# Batches ------------------------------------------------------------------------------------------


def test_a_batch_is_in_order_and_as_large_as_asked_for(pool: TaskPool) -> None:
    for number in range(5):
        pool.publish(f"x{number}", priority=number)
    claims = pool.claim_many("a", 3)
    assert [claim.task_id for claim in claims] == ["x4", "x3", "x2"]
    assert all(claim.task["claim_token"] == claim.token for claim in claims)
    assert [claim.task_id for claim in pool.claim_many("a", 9)] == ["x1", "x0"]
    assert pool.claim_many("a", 9) == []
    for claim in claims:
        claim.complete()
    assert pool.counts()["completed"] == 3


# What others keep from us -------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("order", ORDERS)
def test_a_directory_that_may_not_be_searched_is_an_error_and_no_empty_pool(
    core: ModuleType, order: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="fastclaim-test-") as base:
        pool = TaskPool(base, _core=core)
        pool.publish("x")
        for directory in (base, *(path for path in Path(base).rglob("*") if path.is_dir())):
            os.chmod(directory, 0o777)
        pool.available_dir.chmod(0o666)

        def claims() -> None:
            os.setuid(65534)
            TaskPool(base, _core=core).claim_next("a", order=order)

        drain(TaskPool(f"{base}/other", _core=core), order=order)  # imports what it takes
        with agent(claims) as other:
            assert other.said.startswith("PermissionError")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("order", ORDERS)
def test_what_is_somebody_elses_to_read_is_passed_over(core: ModuleType, order: str) -> None:
    base = Path(tempfile.mkdtemp(prefix="fastclaim-test-"))
    try:
        pool = TaskPool(base, _core=core)
        pool.publish("ours", priority=0)
        for number in range(5):
            pool.publish(f"theirs-{number}", priority=9)
        for directory in (base, *(path for path in base.rglob("*") if path.is_dir())):
            directory.chmod(0o777)
        for path in pool.available_dir.iterdir():
            path.chmod(0o666 if path.name == "ours.json" else 0o600)

        def claims() -> list[str]:
            os.setuid(65534)
            return drain(TaskPool(base, _core=core), order=order)

        drain(TaskPool(base / "other", _core=core), order=order)  # imports what it takes
        with agent(claims) as other:
            assert other.said == "['ours']"
    finally:
        shutil.rmtree(base)


@pytest.mark.parametrize("order", ORDERS)
def test_a_task_that_somebody_only_looks_at_is_not_taken_for_gone(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    pool.publish("x")
    with contextlib.ExitStack() as looking:
        looking.enter_context(flocked(pool.available_dir / "x.json"))
        sleep = time.sleep

        def let_go_and_sleep(pause_s: float) -> None:
            looking.close()
            sleep(pause_s)

        monkeypatch.setattr(time, "sleep", let_go_and_sleep)
        claim = pool.claim_next("a", order=order)
    assert claim is not None
    assert claim.task_id == "x"


@pytest.mark.parametrize("order", ORDERS)
def test_who_does_not_wait_is_not_kept_by_who_holds_a_task_for_long(
    pool: TaskPool, order: str
) -> None:
    pool.publish("x")
    with flocked(pool.available_dir / "x.json"):
        assert pool.claim_next("a", order=order) is None
    assert pool.claim_next("a", order=order, wait=60) is not None


@pytest.mark.parametrize("order", ORDERS)
def test_who_does_not_wait_comes_to_an_end_though_many_need_a_key_that_is_held(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    for module in (search, selection, views):
        monkeypatch.setattr(module, "BUSY_S", 0.0)  # as if all took longer to try than that
    tries = itertools.count()
    claim = claiming.claim

    def counted(*how: Any, **more: Any) -> Any:
        assert next(tries) < 100
        return claim(*how, **more)

    monkeypatch.setattr(claiming, "claim", counted)
    pool.publish_many({"task_id": f"x{n}", "priority": 9, "exclusive": ["k"]} for n in range(3))
    pool.publish("y", priority=0)
    with exclusive.held(pool._directories, {"k"}, "x", "x_a.json"):  # by who is stopped there
        assert pool.claim_next("a", order=order).task_id == "y"
        assert pool.claim_next("a", order=order) is None
    assert pool.claim_next("a", order=order).task_id != "y"


# What is not for us to claim ----------------------------------------------------------------------


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Ids of tasks that the system lets nobody claim: another user's, in a sticky directory."""
    names = {"poison"}
    claim = claiming.claim

    def refuse(pool: Any, task_id: object, *how: Any, **more: Any) -> Any:
        if task_id in names:
            raise PermissionError(1, "Operation not permitted", f"{task_id}")
        return claim(pool, task_id, *how, **more)

    monkeypatch.setattr(claiming, "claim", refuse)
    return names


@pytest.mark.parametrize("order", ["priority", "any"])
def test_what_we_may_not_claim_keeps_nothing_else_from_us(
    pool: TaskPool, forbidden: set[str], order: str
) -> None:
    pool.publish("poison", priority=9)
    pool.publish_many([{"task_id": f"x{number}"} for number in range(3)])
    ids = {pool.claim_next("a", order=order).task_id for _ in range(3)}
    assert ids == {"x0", "x1", "x2"}


@pytest.mark.parametrize("order", ["priority", "any"])
def test_that_we_may_not_claim_what_is_there_is_said(
    pool: TaskPool, forbidden: set[str], order: str
) -> None:
    pool.publish("poison")
    for _ in range(2):
        with pytest.raises(PermissionError, match="poison"):
            pool.claim_next("a", order=order)
    forbidden.clear()
    assert pool.claim_next("a", order=order).task_id == "poison"


@pytest.mark.parametrize("order", ["priority", "any"])
@pytest.mark.parametrize("put", [os.mkdir, os.mkfifo, partial(os.symlink, "elsewhere")])
def test_what_stands_where_a_lock_file_should_keeps_nothing_else_from_us(
    pool: TaskPool, order: str, put: Callable[[Path], None]
) -> None:
    pool.publish("poison", priority=9)
    put(pool.available_dir / "poison.lock")
    with pytest.raises(OSError, match=r"poison\.lock"):
        pool.claim_next("a", order=order)
    pool.publish("x")
    assert pool.claim_next("a", order=order).task_id == "x"


def allow_scans(monkeypatch: pytest.MonkeyPatch, view: views.View, most: int) -> None:
    """Let the test fail, rather than never end, if the directory is read more often."""
    scans = itertools.count()
    rescan = type(view).rescan

    def counted(view: views.View) -> None:
        assert next(scans) < most
        rescan(view)

    monkeypatch.setattr(type(view), "rescan", counted)


def test_links_that_lead_nowhere_are_passed(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish("x")
    view = pool._selected().view("any", ())
    for number in range(4):
        (pool.available_dir / f".#{number}.json").symlink_to("nowhere")
    view.missed()
    allow_scans(monkeypatch, view, 10)
    assert pool.claim_next("a", order="any").task_id == "x"
    assert pool.claim_next("a", order="any") is None


# What seems to have gone --------------------------------------------------------------------------


@pytest.fixture
def doubted(pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Ids of tasks that a look which waits for nobody does not see."""
    ids: set[str] = set()
    core = pool._directories.core
    is_there = core.is_there

    def look(path: str, tasks: TasksDirectory | None = None) -> bool | None:
        return None if tasks is not None and Path(path).stem in ids else is_there(path)

    monkeypatch.setattr(core, "is_there", look)
    return ids


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("number", [1, doubts._FEW + 1], ids=["looked for", "listed"])
def test_what_only_seems_to_have_gone_is_claimed_when_nothing_else_is_left(
    pool: TaskPool, doubted: set[str], order: str, number: int
) -> None:
    doubted.update(f"doubted-{n}" for n in range(number))
    pool.publish_many({"task_id": task_id, "priority": 9} for task_id in sorted(doubted))
    pool.publish_many({"task_id": f"x{n}"} for n in range(9))
    pool._selected().view(order, ()).missed()
    ids = drain(pool, order=order)
    assert not doubted.intersection(ids[:9])
    assert sorted(ids[9:]) == sorted(doubted)


@pytest.mark.parametrize("order", ORDERS)
def test_what_has_gone_for_good_is_looked_for_once_more_and_then_forgotten(
    pool: TaskPool, doubted: set[str], order: str
) -> None:
    doubted.add("gone")
    view = pool._selected().view(order, ())
    view.tell(["gone.json"])
    view.missed()
    assert view.has_work
    assert pool.claim_next("a", order=order) is None
    assert not view.has_work


@pytest.mark.parametrize("order", ORDERS)
def test_who_claims_leaves_to_those_who_wait_what_only_seemed_to_have_gone(
    pool: TaskPool, doubted: set[str], order: str
) -> None:
    doubted.add("doubted")
    pool.publish_many([{"task_id": "doubted", "priority": 9}, {"task_id": "x"}])
    view = pool._selected().view(order, ())
    view.missed()
    view.tell(["doubted.json", "x.json"])
    assert pool.claim_next("a", order=order).task_id == "x"
    assert view.has_work


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_there_is_claimed_though_each_look_that_waits_for_nobody_says_it_has_gone(
    pool: TaskPool, doubted: set[str], order: str
) -> None:
    doubted.add("doubted")
    pool.publish("doubted")
    pool._selected().view(order, ()).missed()
    assert drain(pool, order=order) == ["doubted"]


def test_a_scan_comes_to_an_end_though_each_look_that_waits_for_nobody_says_that_all_have_gone(
    pool: TaskPool, doubted: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is with what is open of a `tasks/` that somebody has made anew.
    doubted.update(f"x{number}" for number in range(20))
    pool.publish_many({"task_id": task_id} for task_id in doubted)
    view = pool._selected().view("any", ())
    view.missed()
    allow_scans(monkeypatch, view, 50)
    assert sorted(drain(pool, order="any")) == sorted(doubted)


@pytest.mark.parametrize("order", ORDERS)
def test_what_seems_to_have_gone_is_claimed_though_others_take_what_is_tried_before(
    pool: TaskPool, doubted: set[str], monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    doubted.update(f"x{number}" for number in range(9))
    pool.publish_many({"task_id": task_id} for task_id in doubted)
    other = TaskPool(pool.base_dir)
    view = pool._selected().view(order, ())
    view.missed()
    tell = view.tell

    def told(names: list[str]) -> None:
        tell(names)
        if len(names) > 1:
            other.claim(names[0].removesuffix(".json"), "b")

    monkeypatch.setattr(view, "tell", told)
    assert drain(pool, order=order)
    assert not list(pool.tasks("available"))


def test_once_a_task_was_found_that_seemed_to_have_gone_looks_are_of_what_stands_there(
    pool: TaskPool, doubted: set[str]
) -> None:
    doubted.add("x")
    before = pool._directories.opened()
    pool.tasks_dir.rename(pool.base_dir / "old")
    TaskPool(pool.base_dir).publish("x")
    view = pool._selected().view("priority", ())
    view.missed()
    assert view.take(time.time()) == "x.json"
    assert pool._directories.opened() is not before


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("number", [1, doubts._FEW + 1])
def test_to_be_sure_of_a_few_that_seem_to_have_gone_not_all_of_many_is_read(
    pool: TaskPool,
    doubted: set[str],
    monkeypatch: pytest.MonkeyPatch,
    order: str,
    number: int,
) -> None:
    assert pool.claim_next("a", ["x"], order=order) is None
    for task_id in ("x", *(f"y{n}" for n in range(3000))):
        pool.publish_task(task_id, "d", [task_id[0]])
    doubted.update({"x", *(f"gone{n}" for n in range(number))})
    view = pool._selected().view(order, ["x"])
    view.tell([f"{name}.json" for name in doubted])
    view.missed()
    names_read = 0
    piece = views._Scan.piece

    def counted(scan: Any) -> list[str]:
        nonlocal names_read
        names = piece(scan)
        names_read += len(names)
        return names

    monkeypatch.setattr(views._Scan, "piece", counted)
    assert drain(pool, capabilities=["x"], order=order) == ["x"]
    assert names_read < (1 if number == 1 else 1500)


@pytest.mark.parametrize("order", ["priority", "oldest"])
def test_what_only_seems_to_have_gone_does_not_wait_until_nothing_else_is_left(
    pool: TaskPool, doubted: set[str], monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    doubted.add("first")
    pool.publish("first", priority=9)
    pool.publish_many({"task_id": f"x{number}"} for number in range(9))
    pool._selected().view(order, ()).missed()
    ids = [pool.claim_next("a", order=order).task_id]
    monkeypatch.setattr(doubts, "_LONGEST_S", 0.0)  # as if it was long ago
    ids.append(pool.claim_next("a", order=order).task_id)
    assert ids == ["x0", "first"]
