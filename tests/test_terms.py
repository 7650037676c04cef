"""What a document's mark says of the task: the same as the document, or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastclaim import TaskPool, _transition_py, outcome
from fastclaim.document import (
    FOR_ANYBODY,
    GUARDED,
    UNCONSTRAINED,
    admits,
    lay_out,
    read_sector,
)
from fastclaim.matching import ORDERS, missing_capability, rank
from fastclaim.stamps import Hold, claim_stamp
from fastclaim.terms import Terms, encode_capabilities, rank_of, terms_of

from .conftest import CORES
from .test_document import MTIME_NS, both_cores, documents_of_ours, edited, edits

numbers = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.integers(0, 9), st.floats(1e9, 2e9)
)
times = st.one_of(
    st.none(),
    st.just("yesterday"),
    numbers,
    st.datetimes().map(lambda when: when.isoformat()),
    st.datetimes().map(lambda when: when.isoformat() + "+02:00"),
)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=3), numbers), times, st.sampled_from(ORDERS))
def test_a_rank_in_the_mark_is_that_of_the_document(
    priority: object, created_at: object, order: str
) -> None:
    task = {"priority": priority, "created_at": created_at, "fastclaim": f"1 9 {MTIME_NS} 060 c"}
    text = terms_of(task, MTIME_NS).rank
    if text:
        first, since_s = rank_of(MTIME_NS, text, order)
        assert first == rank(task, order)[0]
        assert since_s == pytest.approx(rank(task, order)[1], abs=2e-9, rel=0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, b" 0 0"),
        ({"priority": 5, "created_at": 1_700_000_000}, b" 5 123456789"),
        ({"priority": True, "created_at": -1.5}, b" 1 1700000001623456789"),
        ({"priority": 0.1, "created_at": "2023-11-14T23:13:20+01:00"}, b" 0.1 123456789"),
        ({"priority": "high"}, b" 0 0"),
        ({"created_at": "2023-11-14T23:13:20"}, b""),  # what that means depends on the reader
        ({"priority": float("nan")}, b""),
        ({"priority": 10**400}, b""),
        ({"created_at": float("inf")}, b""),
        ({"created_at": 10**400}, b""),
    ],
)
def test_ranks_are_written_where_they_are_short_and_mean_the_same_to_all(
    fields: dict[str, object], text: bytes
) -> None:
    assert terms_of(fields, MTIME_NS).rank == text


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, UNCONSTRAINED | FOR_ANYBODY),
        ({"requirements": [], "constraints": {}, "blocked_by": []}, UNCONSTRAINED | FOR_ANYBODY),
        ({"requirements": ["rust"]}, UNCONSTRAINED),
        ({"constraints": {"deadline": 1}}, FOR_ANYBODY),
        ({"blocked_by": "x"}, FOR_ANYBODY),
        ({"exclusive": ["repo"]}, UNCONSTRAINED | FOR_ANYBODY | GUARDED),
    ],
)
def test_flags_say_what_a_task_does_not_ask_for(fields: dict[str, object], flags: int) -> None:
    assert terms_of(fields, MTIME_NS).flags == flags


names = st.sampled_from(["", "c", "c++", "rust", "=", "a,b", "a b", 'x"', "é", "x" * 25, 7, None])
asked = st.one_of(st.none(), st.just("rust"), st.lists(names, max_size=4).map(tuple))


@settings(deadline=None)
@given(asked, st.lists(names, max_size=4).map(tuple))
def test_a_mark_admits_nobody_whom_the_document_does_not(
    requirements: object, capabilities: tuple[object, ...]
) -> None:
    task = {"task_id": "x", "requirements": requirements}
    raw = lay_out({"status": "available"}, json.dumps(task)[1:-1].encode(), 1, terms_of(task, 1))
    if admits(read_sector(raw), encode_capabilities(capabilities)):
        assert missing_capability(task, capabilities) is None


@pytest.mark.parametrize(
    ("requirements", "text"),
    [
        ([], b""),
        (["rust"], b" =rust"),
        (("c++", "="), b" =c++,="),
        (["x" * 48], b" =" + b"x" * 48),
        (["x" * 49], b""),
        (["rust", "a,b"], b""),
        (["rust", ""], b""),
        (["rust", 7], b""),
        ("rust", b""),  # any of its letters, to the original
    ],
)
def test_requirements_are_written_where_they_are_short_plain_names(
    requirements: object, text: bytes
) -> None:
    assert terms_of({"requirements": requirements}, MTIME_NS).requirements == text


@both_cores
@settings(deadline=None)
@given(
    documents_of_ours(),
    st.one_of(st.just([]), edits),
    st.sampled_from([b"", b",", b",rust,", b",d,c,", b",=,", b"," + b"x" * 48 + b","]),
)
def test_both_cores_see_the_same_in_a_mark(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, changes: list, capabilities: bytes
) -> None:
    pool = TaskPool(tmp_path_factory.getbasetemp() / "peek")
    path = pool.available_dir / "x.json"
    path.write_bytes(edited(raw, changes))
    os.utime(path, ns=(MTIME_NS, MTIME_NS))
    tasks = pool._directories.opened()
    seen = CORES[0].values[0].peek(str(path), capabilities, tasks)
    assert seen == _transition_py.peek(str(path), capabilities, tasks)


def peeked(core: ModuleType, pool: TaskPool, capabilities: bytes = b"") -> object:
    path = pool.available_dir / "x.json"
    return core.peek(str(path), capabilities, pool._directories.opened())


def test_a_peek_tells_the_rank_of_a_task_for_which_the_capabilities_are_enough(
    core: ModuleType, pool: TaskPool
) -> None:
    path = pool.available_dir / "x.json"
    pool.publish("x", priority=7, requirements=["c", "rust"])
    assert peeked(core, pool) == (path.stat().st_mtime_ns, b" 7 0")
    assert peeked(core, pool, b",python,rust,") is not None
    assert peeked(core, pool, b",python,") is None


@pytest.mark.parametrize("what", ["nothing", "foreign", "touched", "linked", "not_before", "fifo"])
def test_a_peek_tells_nothing_of_what_is_not_proven_or_has_to_wait(
    core: ModuleType, pool: TaskPool, what: str
) -> None:
    path = pool.available_dir / "x.json"
    pool.publish("x", **({"not_before": 4e9} if what == "not_before" else {}))
    if what == "foreign":
        path.write_text(json.dumps({"task_id": "x"}))
    elif what == "touched":
        os.utime(path)
    elif what == "linked":
        os.link(path, path.with_name("other"))
    elif what in ("nothing", "fifo"):
        path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    assert peeked(core, pool) is None


def claimed_with(core: ModuleType, pool: TaskPool, capabilities: bytes) -> tuple[int, object]:
    directories = pool._directories
    stamp = claim_stamp("a", Hold(None, None))
    tasks = directories.opened()
    return core.claim(directories, tasks, "x", "a", *stamp, "token", True, -1, False, capabilities)


def files_of(pool: TaskPool) -> dict[str, bytes]:
    found = (path for path in Path(pool.tasks_dir).glob("[!o]*/*") if not path.is_dir())
    return {path.name: path.read_bytes() for path in found}


WAITING = {"status": "available"}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"task_id": "x"}',
        b"",
        lay_out(WAITING, b'"a": 1', MTIME_NS, Terms(FOR_ANYBODY, b"", b"")),
        lay_out(WAITING, b'"a": 1', MTIME_NS, Terms(UNCONSTRAINED | GUARDED, b"", b" =rust")),
        lay_out(WAITING, b'"a": 1', MTIME_NS, Terms(UNCONSTRAINED, b" 0 0", b" =c")),
        lay_out({"status": "claimed"}, b'"a": 1', MTIME_NS, Terms(12, b"", b"")),
        lay_out(WAITING | {"not_before": 4e9}, b'"a": 1', MTIME_NS, Terms(12, b"", b"")),
    ],
    ids=["foreign", "empty", "constrained", "guarded", "for others", "claimed", "not_before"],
)
def test_a_claim_with_capabilities_that_do_not_prove_to_be_enough_touches_nothing(
    core: ModuleType, pool: TaskPool, raw: bytes
) -> None:
    path = pool.available_dir / "x.json"
    path.write_bytes(raw)
    os.utime(path, ns=(MTIME_NS, MTIME_NS))
    assert claimed_with(core, pool, b",rust,") == (outcome.UNJUDGED, None)
    assert files_of(pool) == {"x.json": raw}


@pytest.mark.parametrize("capabilities", [b"", b",python,rust,"])
def test_a_claim_with_capabilities_that_prove_to_be_enough_is_made(
    core: ModuleType, pool: TaskPool, capabilities: bytes
) -> None:
    pool.publish("x", requirements=["rust"])
    assert claimed_with(core, pool, capabilities) == (outcome.DONE, None)
    assert list(files_of(pool)) == ["x_a.json"]


@pytest.mark.parametrize("lock_files", [True, False])
def test_any_does_not_claim_what_has_been_given_a_condition_since_the_directory_was_read(
    make_pool: object, lock_files: bool
) -> None:
    pool = make_pool(lock_files=lock_files)
    for name in "ab":
        pool.publish(name)
    first = pool.claim_next("x", order="any")
    (other,) = {"a", "b"} - {first.task_id}
    # Not told by the kernel yet: the names have been read.
    pool.publish(other, if_exists="replace", blocked_by=["never"])
    assert pool.claim_next("x", order="any") is None
    assert [task["task_id"] for task in pool.tasks()] == [other]
