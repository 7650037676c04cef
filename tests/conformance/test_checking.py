"""What claims would misread is refused by the verbs that publish, and read as ever where it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from fastclaim import InvalidTask, TaskPool

from ..other_hands import publish_unchecked

NAN = float("nan")
# Each with what the message says of it.
MISTAKES = [
    (
        {"requirements": "python"},
        "requirements is 'python'; expected a list of capabilities, such as [\"py",
    ),
    ({"requirements": [["python"]]}, "requirements is [['python']]"),
    ({"requirements": {"python": True}}, "requirements is {'python': True}"),
    ({"constraints": ["deadline"]}, "constraints is ['deadline']; expected a dict"),
    ({"constraints": {"deadline": "tomorrow"}}, "constraints.deadline is 'tomorrow'"),
    ({"constraints": {"required_capabilities": "gpu"}}, "constraints.required_capabilities is"),
    ({"constraints": {"required_capabilities": None}}, "constraints.required_capabilities is"),
    ({"priority": "high"}, "priority is 'high'; expected a number"),
    ({"priority": NAN}, "priority is nan"),
    ({"created_at": "yesterday"}, "created_at is 'yesterday'; expected seconds since the epoch"),
    ({"not_before": "tomorrow"}, "not_before is 'tomorrow'; expected an ISO 8601 text, such as 20"),
    ({"not_before": ""}, "not_before is ''"),
    (
        {"not_before": 3600},
        "not_before is 3600; expected an ISO 8601 text, such as 2030-01-31T12:00Z",
    ),
    ({"not_before": 0.5}, "not_before is 0.5; expected an ISO 8601 text"),
    ({"not_before": datetime.now(UTC)}, "not_before is datetime.datetime"),
    ({"blocked_by": 1.5}, "blocked_by is 1.5; expected a list of task ids"),
    ({"blocked_by": 0}, "blocked_by is 0"),
    ({"blocked_by": [None]}, "blocked_by is [None]"),
    ({"blocked_by": {"y"}}, "blocked_by is {'y'}"),
    ({"exclusive": {"main": 1}}, "exclusive is {'main': 1}; expected a list of keys"),
    ({"exclusive": ""}, "exclusive is ''"),
    ({"max_attempts": 0}, "max_attempts is 0; expected a whole number from 1 on"),
    ({"max_attempts": "3"}, "max_attempts is '3'"),
    ({"max_attempts": True}, "max_attempts is True"),
    ({"requirements": "x" * 10_000}, "requirements is 'xxx"),
]


UNDERSTOOD: list[dict[str, Any]] = [
    {"requirements": [], "constraints": {}, "blocked_by": [], "exclusive": []},
    {
        "requirements": ("python", 7),
        "exclusive": ("k", 7),
        "constraints": {"deadline": 4e9},
        "not_before": -1,
    },
    {"blocked_by": "done", "exclusive": "k", "not_before": "1999-01-01T00:00:00+00:00"},
    {"blocked_by": ("done", 7), "not_before": 0, "created_at": "1999-01-01T00:00:00+00:00"},
    {"priority": float("inf"), "created_at": time.time(), "not_before": 1e9, "max_attempts": 1},
    dict.fromkeys(["requirements", "constraints", "priority", "created_at"]),
    dict.fromkeys(["not_before", "blocked_by", "exclusive", "max_attempts"]),
]


def test_a_field_that_claims_would_misread_is_named_and_nothing_published(pool: TaskPool) -> None:
    for fields, words in MISTAKES:
        with pytest.raises(InvalidTask) as alone:
            pool.publish("x", **fields)
        with pytest.raises(InvalidTask) as among_others:
            pool.publish_many([{"task_id": "good"}, {"task_id": "x", **fields}])
        for error in (alone.value, among_others.value):
            assert f"task 'x': {words}" in f"{error}"
            assert len(f"{error}") < 200
            assert error.task_id == "x"
    assert not any(pool.counts().values())


@pytest.mark.parametrize("length_s", [300, 0.5, 30 * 86400])
def test_a_length_of_time_is_not_taken_for_a_time(pool: TaskPool, length_s: float) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    for name, verb in (("not_before", claim.release), ("until", pool.pause)):
        with pytest.raises(ValueError, match=f"^{name} {length_s!r} is a length") as caught:
            verb(length_s)
        assert f"{caught.value}".endswith(f"such as time.time() + {length_s!r}")
    assert pool.paused() is None
    claim.complete()


@pytest.mark.parametrize("at_s", [-1, 0, 1e9])
def test_a_time_that_has_long_been_over_is_one(pool: TaskPool, at_s: float) -> None:
    pool.publish("x")
    pool.claim("x", "a").release(at_s)
    pool.pause(at_s)
    assert pool.paused() is None
    pool.claim("x", "a").complete()


def test_an_id_is_a_string_or_a_number(pool: TaskPool) -> None:
    for task_id in (None, True, 1.5, ["a"], {"a": 1}):
        with pytest.raises(InvalidTask, match="task_id is"):
            pool.publish({"task_id": task_id})
        with pytest.raises(InvalidTask, match="task_id is"):
            pool.publish_many([{"task_id": task_id}])


def test_what_claims_understand_is_published(pool: TaskPool) -> None:
    for task_id in ("done", 7):
        pool.publish({"task_id": task_id})
        pool.claim(task_id, "a").complete()
    for number, fields in enumerate(UNDERSTOOD):
        pool.publish(f"{number}", **fields)
        claim = pool.claim_next("a", ["python"])
        assert claim is not None, fields
        claim.complete()


def test_a_task_that_waits_for_itself_is_refused(pool: TaskPool) -> None:
    for task_id, blocked_by in (("x", "x"), ("x", ["y", "x"]), (7, ["7"])):
        task = {"task_id": task_id, "blocked_by": blocked_by}
        with pytest.raises(InvalidTask, match=f"task {task_id!r} waits for itself"):
            pool.publish(task)
        with pytest.raises(InvalidTask, match=f"task {task_id!r} waits for itself"):
            pool.publish_many([task])
    assert not any(pool.counts().values())


def test_a_batch_in_which_tasks_wait_in_a_circle_is_refused(pool: TaskPool) -> None:
    circle = [{"task_id": a, "blocked_by": [b, "elsewhere"]} for a, b in ("ab", "bc", "ca")]
    with pytest.raises(InvalidTask, match=r"waits for itself: (\w) after \w after \w after \1"):
        pool.publish_many([{"task_id": "good"}, *circle])
    assert not any(pool.counts().values())
    assert pool.publish_many(circle[:2]) == 2  # "c" may yet come


def test_what_stands_in_a_pool_already_is_read_as_ever(pool: TaskPool) -> None:
    letters = {"task_id": "letters", "requirements": "python", "priority": "high"}
    never = {"task_id": "never", "not_before": "tomorrow"}
    own = {"task_id": "own", "blocked_by": "own", "max_attempts": 0}
    for task in (letters, never, own):
        publish_unchecked(pool, **task)
    claim = pool.claim_next("a", ["y"])
    assert claim is not None
    assert claim.task["requirements"] == "python"
    assert pool.claim_next("a") is None
    assert "not_before 'tomorrow' is no time" in pool.why("never")


def test_the_originals_method_publishes_what_the_original_does(pool: TaskPool) -> None:
    wrong: dict[str, Any] = {"requirements": "python", "constraints": {"deadline": "tomorrow"}}
    assert pool.publish_task("x", "d", **wrong)
    (task,) = pool.tasks()
    assert {name: task[name] for name in wrong} == wrong
