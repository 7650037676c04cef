"""What the verbs promise when their process is killed: at every call of every verb.

`deaths.py` runs once for each core and durability, under the shim `interpose.c`, and tries all
points; each test here is one promise, and fails with the points at which it was broken.
"""

from __future__ import annotations

import sys
from types import FunctionType

import pytest

from fastclaim import TaskPool

from .conftest import Tell
from .sweep import Sweep

# The verbs of TaskPool that change no file. Every other one has to be tried.
READS = {
    "base_dir",
    "counts",
    "doctor",
    "find",
    "get_available_tasks",
    "mine",
    "paused",
    "tasks",
    "validate_task_constraints",
    "why",
}

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the shim is for glibc and /proc"
    ),
]


def test_every_verb_was_killed_before_every_call_and_after_the_last(
    sweep: Sweep, tell: Tell
) -> None:
    points, calls, same = (sweep.result[name] for name in ("points", "calls", "same"))
    tell(
        f"deaths ({sweep.name}), {len(calls)} verbs, {sum(calls.values())} calls, {points};"
        f" call for call as with data, and not tried again: {len(same)} verbs",
        {verb: count + 1 for verb, count in calls.items()},
    )
    assert all(calls.values())
    assert (points["before"], points["after"]) == (sum(calls.values()), len(calls))
    sweep.keeps("dies")


def test_no_verb_that_changes_files_was_left_out(sweep: Sweep) -> None:
    public = {
        name
        for name, method in vars(TaskPool).items()
        if isinstance(method, FunctionType) and not name.startswith("_")
    }
    assert not public - READS - set(sweep.result["methods"])


def test_a_death_leaves_all_of_a_transition_or_nothing_once_recovered(sweep: Sweep) -> None:
    sweep.keeps("all or nothing")


def test_no_reader_ever_meets_a_torn_task(sweep: Sweep) -> None:
    sweep.keeps("readable")


def test_a_task_is_claimable_after_any_death(sweep: Sweep) -> None:
    sweep.keeps("claimable again")


def test_a_task_is_claimed_once_after_any_death(sweep: Sweep) -> None:
    sweep.keeps("claimable once")


def test_recovery_leaves_no_litter(sweep: Sweep) -> None:
    sweep.keeps("no litter")


def test_a_second_recovery_finds_nothing(sweep: Sweep) -> None:
    sweep.keeps("nothing is left")


def test_no_death_needs_a_person(sweep: Sweep) -> None:
    sweep.keeps("no problems")
