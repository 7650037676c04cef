"""The original and fastclaim, driven through the same calls, return and leave the same.

Timestamps, and the fields that fastclaim keeps for itself, are not compared; where the two differ
on purpose, `INTENDED` says why.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import orchestration.a2a_integration as original
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from fastclaim import TaskPool

INTENDED = {
    "shared name": (
        "claimed/a_b_c.json belongs to ('a_b', 'c') and to ('a', 'b_c'): the original overwrites "
        "the one's claim with the other's, and a task is lost; ours refuses, {}"
    ),
    "not the holder": (
        "for the same reason the original completes ('a', 'b_c') although the claim of that name "
        "is of task a_b by agent c; ours refuses, False"
    ),
    "refused publication": (
        "False, and the original leaves half a file, over the waiting task of that id if there "
        "was one; ours leaves what was there"
    ),
    "refused claim": (
        "{}, and the original leaves a temporary file in claimed/ where its last rename fails "
        "(agent 'a/b'); ours leaves none"
    ),
    "path": "task id '../b': the original publishes outside of available/; ours refuses, False",
    "refused completion": (
        "False, and the original leaves half a file in completed/; ours leaves what was there"
    ),
}

IDS = ["a", "a_b", "b", "x.y", "", ".", "..", "ä", "%s", "new\nline", 7, None]
# No "../b" and no "/b" here: the original writes there, see "path".
IMPOSSIBLE_IDS = ["a/b", "nul\0", "x" * 300, "\ud800"]
AGENTS = ["a", "c", "b_c", "", "..", "ä", 7, None]
SHARED_NAME = [("a_b", "c"), ("a", "b_c")]

OWN_FIELDS = {"fastclaim", "claim_token", "attempts", "owner"}
TIMES = {"created_at", "claimed_at", "claim_lock_acquired_at", "completed_at"}
STATES = ("available", "claimed", "completed")

task_ids = st.sampled_from(IDS * 4 + IMPOSSIBLE_IDS)
agent_ids = st.sampled_from(AGENTS * 4 + IMPOSSIBLE_IDS)
any_claims = st.one_of(st.tuples(task_ids, agent_ids), st.sampled_from(SHARED_NAME))
# Mostly such as can succeed.
claims_of_published = st.runner().flatmap(
    lambda machine: st.tuples(st.sampled_from(machine.published or IDS), agent_ids)
)
claims_made = st.runner().flatmap(
    lambda machine: st.sampled_from(machine.claimed) if machine.claimed else any_claims
)
claims = st.one_of(any_claims, claims_of_published, claims_of_published, claims_made)
completions = st.one_of(any_claims, claims_made, claims_made)
capabilities = st.sampled_from([None, [], ["python"], ["rust", "validation"], ["python", "rust"]])
constraints = st.one_of(
    st.none(),
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "required_capabilities": st.lists(st.sampled_from(["python", "rust"]), max_size=2),
            # A second before the epoch, and a day in a future that no test sees; and no numbers.
            "deadline": st.sampled_from([-1, 0, 1.5, 1e15, True, "soon", None]),
            "validation_rules": st.sampled_from([{}, {"review": True}]),
            "resource_limits": st.just({"memory_mb": 512}),
        },
    ),
)
json_values = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(),
    st.dictionaries(st.text(), st.lists(st.integers() | st.text(max_size=3), max_size=3)),
)
no_json = st.sampled_from([{"value": object()}, {"set": {1}}, {(1, 2): 3}])
no_constraints = st.one_of(no_json, st.sampled_from([7, "text", ["deadline"]]))


def make_pool(base_dir: Path, core: ModuleType) -> TaskPool:
    return TaskPool(base_dir, _core=core)


def make_original(base_dir: Path) -> Any:
    with mock.patch.object(original, "A2A_BASE_DIR", str(base_dir)):
        return original.TaskPool()


def comparable(value: Any, top: bool = True) -> Any:
    """Without times and own fields, and such that NaN equals NaN; 1 differs from True and 1.0."""
    if isinstance(value, dict):
        left_out = TIMES | OWN_FIELDS if top else set()
        kept = {key: item for key, item in value.items() if key not in left_out}
        if isinstance(kept.get("constraint_enforcement"), dict) and top:
            enforcement = kept["constraint_enforcement"]
            kept["constraint_enforcement"] = {
                key: item for key, item in enforcement.items() if key not in TIMES
            }
        return json.dumps(kept, sort_keys=True)
    if isinstance(value, list):
        return sorted(comparable(item) for item in value)
    return value


class BothPools(RuleBasedStateMachine):
    """The same calls on both; each rule compares what they return."""

    def __init__(self, core: ModuleType) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.theirs = make_original(self.directory / "theirs")
        self.ours = make_pool(self.directory / "ours", core)
        self.published: list[Any] = []
        self.claimed: list[tuple[Any, Any]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def call(self, method: str, *arguments: Any) -> Any:
        """What both return."""
        returned = getattr(self.theirs, method)(*arguments)
        assert comparable(getattr(self.ours, method)(*arguments)) == comparable(returned)
        return returned

    def holder_of(self, task_id: Any, agent_id: Any) -> tuple[Any, Any] | None:
        """Task and agent of the claim that has the name that theirs would have."""
        try:
            claim = json.loads((self.theirs.claimed_dir / f"{task_id}_{agent_id}.json").read_text())
        except (OSError, ValueError):
            return None
        return claim["task_id"], claim["claimed_by"]

    @rule(task_id=task_ids, text=st.text(), requirements=capabilities, constraints=constraints)
    def publish(self, task_id: Any, text: str, requirements: Any, constraints: Any) -> None:
        if self.call("publish_task", task_id, text, requirements, constraints):
            self.published.append(task_id)

    @rule(task_id=task_ids, constraints=no_constraints)
    def publish_what_may_be_no_json(self, task_id: Any, constraints: Any) -> None:
        with self.undone_if_refused(self.theirs.available_dir, f"{task_id}.json"):
            self.call("publish_task", task_id, "text", None, constraints)

    @rule(claim=claims)
    def claim(self, claim: tuple[Any, Any]) -> None:
        holder = self.holder_of(*claim)
        if holder is not None and holder != claim:  # "shared name"
            waiting = (self.theirs.available_dir / f"{claim[0]}.json").exists()
            assert self.ours.claim_task(*claim, 0) == {}
            assert (self.ours.available_dir / f"{claim[0]}.json").exists() == waiting
        elif self.call("claim_task", *claim, 0):
            self.claimed.append(claim)

    @rule(claim=any_claims, requirements=capabilities, constraints=constraints)
    def publish_and_claim(
        self, claim: tuple[Any, Any], requirements: Any, constraints: Any
    ) -> None:
        self.publish(claim[0], "text", requirements, constraints)
        self.claim(claim)

    @rule(claim=any_claims, result=json_values)
    def publish_claim_and_complete(self, claim: tuple[Any, Any], result: Any) -> None:
        self.publish_and_claim(claim, None, None)
        self.complete(claim, result)

    @rule(claim=completions, result=json_values)
    def complete(self, claim: tuple[Any, Any], result: Any) -> None:
        holder = self.holder_of(*claim)
        if holder is not None and holder[1] != claim[1]:  # "not the holder"
            assert self.ours.complete_task(*claim, result) is False
        else:
            self.call("complete_task", *claim, result)

    @rule(claim=completions, result=no_json)
    def complete_with_what_is_no_json(self, claim: tuple[Any, Any], result: Any) -> None:
        with self.undone_if_refused(self.theirs.completed_dir, f"{claim[0]}_complete.json"):
            self.call("complete_task", *claim, result)

    @rule(capabilities=capabilities)
    def list_available(self, capabilities: Any) -> None:
        self.call("get_available_tasks", capabilities)

    @rule(constraints=constraints, capabilities=capabilities.filter(lambda some: some is not None))
    def validate(self, constraints: Any, capabilities: Any) -> None:
        self.call("validate_task_constraints", {"constraints": constraints}, capabilities)
        self.call("validate_task_constraints", {}, capabilities)

    @invariant()
    def same_files(self) -> None:
        assert contents(self.ours.tasks_dir) == contents(self.theirs.tasks_dir)
        assert not litter(self.ours.tasks_dir)

    def undone_if_refused(self, directory: Path, name: str) -> Undone:
        """The original's half files ("refused publication", "refused completion") are put right."""
        return Undone(directory, name)


class Undone:
    """Puts a file of the original's back to what it was, if what is done to it ends as no JSON."""

    def __init__(self, directory: Path, name: str) -> None:
        self.file = directory / name

    def __enter__(self) -> None:
        self.before = self.read()

    def __exit__(self, *_: object) -> None:
        after = self.read()
        if after == self.before or is_json(after):
            return
        if self.before is None:
            self.file.unlink()
        else:
            self.file.write_bytes(self.before)

    def read(self) -> bytes | None:
        try:
            return self.file.read_bytes()
        except (OSError, ValueError):
            return None


def is_json(content: bytes | None) -> bool:
    try:
        json.loads(content or b"")
    except ValueError:
        return False
    return True


def contents(tasks_dir: Path) -> dict[str, Any]:
    """Names and what is in them, in the three directories that the original has, too."""
    return {
        f"{state}/{file.name}": comparable(json.loads(file.read_text()))
        for state in STATES
        for file in (tasks_dir / state).glob("*.json")
    }


def litter(tasks_dir: Path) -> list[Path]:
    """What is no task: lock files, temporary files."""
    return [
        file
        for state in STATES
        for file in (tasks_dir / state).iterdir()
        if not file.name.endswith(".json")
    ]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_whatever_is_called_both_return_and_leave_the_same(core: ModuleType) -> None:
    run_state_machine_as_test(
        lambda: BothPools(core),
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# The intended differences, each shown once --------------------------------------------------------


@pytest.fixture
def both(core: ModuleType, tmp_path: Path) -> tuple[Any, TaskPool]:
    return make_original(tmp_path / "theirs"), make_pool(tmp_path / "ours", core)


def test_intended_shared_name(both: tuple[Any, TaskPool]) -> None:
    kept = []
    for pool in both:
        for task_id, agent_id in SHARED_NAME:
            assert pool.publish_task(task_id, "d")
            pool.claim_task(task_id, agent_id, 0)
        kept.append(sorted(path.name for path in pool.tasks_dir.glob("*/*.json")))
    theirs, ours = kept
    assert theirs == ["a_b_c.json"], INTENDED["shared name"]
    assert ours == ["a.json", "a_b_c.json"], INTENDED["shared name"]


def test_intended_not_the_holder(both: tuple[Any, TaskPool]) -> None:
    completed = []
    for pool in both:
        pool.publish_task("a_b", "d")
        pool.claim_task("a_b", "c", 0)
        completed.append(pool.complete_task("a", "b_c", {}))
    assert completed == [True, False], INTENDED["not the holder"]


def test_intended_refused_publication(both: tuple[Any, TaskPool]) -> None:
    waiting = []
    for pool in both:
        pool.publish_task("a", "first")
        assert pool.publish_task("a", "second", None, {"no json": object()}) is False
        waiting.append([task["description"] for task in pool.get_available_tasks()])
    assert waiting == [[], ["first"]], INTENDED["refused publication"]


def test_intended_refused_claim(both: tuple[Any, TaskPool]) -> None:
    left = []
    for pool in both:
        pool.publish_task("a", "d")
        assert pool.claim_task("a", "a/b", 0) == {}
        left.append(len(litter(pool.tasks_dir)))
    assert left == [1, 0], INTENDED["refused claim"]


def test_intended_path(both: tuple[Any, TaskPool]) -> None:
    published = [pool.publish_task("../b", "d") for pool in both]
    outside = [(pool.tasks_dir / "b.json").exists() for pool in both]
    assert published == outside == [True, False], INTENDED["path"]


def test_intended_refused_completion(both: tuple[Any, TaskPool]) -> None:
    whole = []
    for pool in both:
        pool.publish_task("a", "d")
        pool.claim_task("a", "c", 0)
        assert pool.complete_task("a", "c", {"no json": object()}) is False
        whole.append(all(is_json(file.read_bytes()) for file in pool.completed_dir.iterdir()))
        assert pool.complete_task("a", "c", {}) is True
    assert whole == [False, True], INTENDED["refused completion"]
