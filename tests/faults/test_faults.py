"""What the verbs promise when the system refuses: every call of every verb, one at a time.

`driver.py` runs once for each core and durability, under the shim `interpose.c`, and tries all
points; each test here is one promise, and fails with the points at which it was broken.
"""

from __future__ import annotations

import sys

import pytest

from .conftest import Tell
from .sweep import Sweep, Sweeps, sweep_of

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the shim is for glibc and /proc"
    ),
]


def test_every_call_of_every_verb_was_made_to_fail(sweep: Sweep, tell: Tell) -> None:
    points, calls = sweep.result["points"], sweep.result["calls"]
    tell(f"errors ({sweep.name}), {len(calls)} verbs, {points}", sweep.result["tried"])
    assert all(calls.values())
    assert points["no fault"] == len(calls)
    assert points["fail"] >= 2 * sum(map(len, calls.values()))


def replaces(verb: str) -> bool:
    """Whether it may rename over a file, or undoes a stamp by writing."""
    parts = ("if_exists=replace", "publish_task", " over a", "complete without completed/")
    return any(part in verb for part in parts)


def cannot_be_undone(point: list[str]) -> bool:
    """What was renamed over is gone, if the rename then says that it failed.

    No file system on a local disk does that. The others: an earlier result and an old claim, which
    the task's new publication has ended, and a stamp that the disk does not take back; the claim
    can then be completed again.
    """
    _, verb, fault, call, _ = point
    if fault.startswith("done, but fails") and "rename" in call:
        return True
    ended = ("over an earlier completion", "over an old claim")
    no_way_back = verb.startswith("complete without completed/") and "pwrite" in call
    return no_way_back or any(words in verb for words in ended)


def test_a_refused_verb_leaves_every_file_to_the_byte_and_mtime(sweep: Sweep) -> None:
    sweep.keeps("as before", lambda verb: not replaces(verb))


def test_a_refused_replacement_leaves_what_it_would_have_replaced(sweep: Sweep) -> None:
    sweep.keeps("as before", replaces, cannot_be_undone)


def test_a_failed_clean_up_is_no_failure(sweep: Sweep) -> None:
    sweep.keeps("cleaning")


def test_a_task_is_in_exactly_one_place(sweep: Sweep) -> None:
    sweep.keeps("one place")


def test_what_a_verb_returned_is_what_the_pool_holds(sweep: Sweep) -> None:
    sweep.keeps("whole")


def test_no_verb_succeeds_over_a_failure_that_matters(sweep: Sweep) -> None:
    sweep.keeps("failure is told")


def test_a_system_error_is_the_calls_and_names_a_file_of_the_pool(sweep: Sweep) -> None:
    sweep.keeps("named error")


def test_the_originals_methods_log_what_they_do_not_raise(sweep: Sweep) -> None:
    sweep.keeps("log line")


def test_no_lock_and_no_temporary_file_is_left(sweep: Sweep) -> None:
    sweep.keeps("litter")


def test_no_descriptor_is_left(sweep: Sweep) -> None:
    sweep.keeps("descriptors")


def test_a_failed_sync_is_never_tried_again(sweep: Sweep) -> None:
    sweep.keeps("one sync")


def test_after_a_failure_the_next_try_works_at_once(sweep: Sweep) -> None:
    sweep.keeps("works at once")


def test_short_reads_and_writes_and_a_missing_renameat2_are_no_errors(sweep: Sweep) -> None:
    sweep.keeps("succeeds")


def test_both_cores_are_swept_over_the_same_verbs(sweeps: Sweeps, durability: str) -> None:
    if ("c", durability) not in sweeps:
        pytest.skip("the extension was not built")
    compiled, python = (sweep_of(sweeps, core, durability).result["calls"] for core in ("c", "py"))
    assert compiled.keys() == python.keys()
