"""Documents: what is ours, what is others', and that both cores leave the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastclaim import InvalidTask, TaskPool, TaskPoolError, _transition_py, tokens
from fastclaim.document import MANAGED_FIELDS, SECTOR_BYTES, lay_out, parse, read_sector
from fastclaim.terms import Terms, terms_of

from .conftest import CORES

white_space = st.text(" \t\n\r", max_size=3)
keys = st.sampled_from(
    ["a", "b", "é", "status", "claimed_by", "claimed_at", "claim_token", "result", "task_id",
     "constraint_enforcement", "fastclaim", "completed_at", ""]
)  # fmt: skip
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**80), 10**80),
        st.floats(),
        st.text(max_size=20),
        st.just("available"),
        st.just("claimed"),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def escaped(draw: st.DrawFn, text: str) -> str:
    """A JSON string, some of its characters escaped that need not be."""
    quoted = json.dumps(text, ensure_ascii=draw(st.booleans()))
    if text and quoted[1:-1] == text and draw(st.booleans()):
        quoted = f'"\\u{ord(text[0]):04x}{text[1:]}"'
    return quoted


@st.composite
def foreign_objects(draw: st.DrawFn) -> bytes:
    """Objects as nobody's json.dumps would write them: odd white space, duplicate keys, escapes."""
    members = [
        draw(white_space)
        + draw(escaped(draw(keys)))
        + draw(white_space)
        + ":"
        + draw(white_space)
        + json.dumps(draw(values), indent=draw(st.sampled_from([None, 1])))
        + draw(white_space)
        for _ in range(draw(st.integers(0, 5)))
    ]
    text = draw(white_space) + "{" + (",".join(members) or draw(white_space)) + "}"
    return (text + draw(white_space)).encode("utf-8", "surrogatepass")


odd_documents = st.one_of(
    foreign_objects(),
    st.binary(max_size=40),
    values.map(lambda value: json.dumps(value).encode()),
)
ODDITIES = [
    b"",
    b"{}",
    b"null",
    b"[1]",
    b"\xef\xbb\xbf{}",
    '{"a": 1}'.encode("utf-16"),
    b'{"a": NaN, "b": -Infinity, "c": 1e400}',
    b'{"n": ' + b"8" * 80 + b"}",
    b'{"n": ' + b"8" * 5000 + b"}",
    b"[" * 1_000_000,
    b'{"a":' * 100_000,
    b'{"\\u0073tatus": "claimed"}',
    b'{"status": "claimed", "status": "available"}',
    b'{"constraint_enforcement": []}',
    b'{"constraint_enforcement": null}',
    b'{"constraint_enforcement": {}, "a": 1}',
    b'{"a": "' + b"x" * 5_000_000 + b'"}',
]


def transitions(core: object, raw: bytes) -> list[object]:
    """What a claim, a release, a claim and a completion make of a document, clock and ids fixed."""
    return without_times(transitions_of(core, raw))


def without_times(seen: list[object]) -> list[object]:
    # Where the core is, the time comes from C; all else is to be the same.
    return [(one[0], _without_times(one[1])) if isinstance(one, tuple) else one for one in seen]


def transitions_of(core: object, raw: bytes, mtime_ns: int | None = None) -> list[object]:
    """Errors, and each step's files with their names; the task's file has this mtime at first."""
    base = Path(tempfile.mkdtemp(prefix="fastclaim-test-"))
    numbers = tokens._numbers
    # Tokens and times of one length: a sector may be just full.
    tokens._numbers = itertools.count(1 << 20)
    clock = mock.patch("time.time_ns", return_value=MTIME_NS)
    clock.start()
    try:
        pool = TaskPool(base, durability="none", _core=core)  # type: ignore[arg-type]
        path = pool.available_dir / "x.json"
        path.write_bytes(raw)
        if mtime_ns is not None:
            os.utime(path, ns=(mtime_ns, mtime_ns))
        seen: list[object] = []
        steps = (
            lambda: pool.claim("x", "a"),
            lambda: pool.release("x", "a"),
            lambda: pool.claim("x", "b" * 30),
            lambda: pool.complete("x", "b" * 30, {"r": "s" * 60}),
        )
        for step in steps:
            try:
                step()
            except TaskPoolError as error:
                seen.append(type(error))
            for file in sorted(base.glob("tasks/[!o]*/*")):  # not owners/: names of processes
                seen.append((file.name, file.read_bytes()))
        return seen
    finally:
        clock.stop()
        tokens._numbers = numbers
        shutil.rmtree(base)


def _without_times(raw: bytes) -> bytes:
    return re.sub(rb'((_at"|_token"): ?)[^,}]*|("fastclaim":"1 \d+ )\d+', rb"\1\3", raw)


both_cores = pytest.mark.skipif(CORES[0].values[0] is None, reason="the extension was not built")


@both_cores
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(odd_documents)
def test_both_cores_leave_the_same_bytes_of_documents_that_neither_wrote(raw: bytes) -> None:
    python = transitions(_transition_py, raw)
    for _ in range(4):
        compiled = transitions(CORES[0].values[0], raw)
        # A time from C that ends in 0 is shorter once json has read it, and a sector just not full.
        if compiled == python:
            break
    assert compiled == python


@both_cores
@pytest.mark.parametrize("raw", ODDITIES, ids=lambda raw: repr(raw[:30]))
def test_both_cores_leave_the_same_bytes_of_oddities(raw: bytes) -> None:
    assert transitions(CORES[0].values[0], raw) == transitions(_transition_py, raw)


@pytest.mark.parametrize("raw", ODDITIES, ids=lambda raw: repr(raw[:30]))
def test_a_document_is_claimed_if_and_only_if_python_reads_it_as_an_object(
    pool: TaskPool, raw: bytes
) -> None:
    path = pool.available_dir / "x.json"
    path.write_bytes(raw)
    try:
        fields = json.loads(raw.decode("utf-8"))
        good = (
            isinstance(fields, dict)
            and fields.get("status") != "claimed"
            and isinstance(fields.get("constraint_enforcement", {}), dict)
        )
    except (ValueError, RecursionError):
        good = False
    assert bool(pool.claim_task("x", "a")) is good
    if not good:
        assert path.read_bytes() == raw
        assert [path.name for path in pool.tasks_dir.glob("[!o]*/*")] == ["x.json"]


@settings(max_examples=300, deadline=None)
@given(foreign_objects())
@example(b'{"status":1,"a":2}')
@example(b'{"a":2 , "status":1 }')
@example(b'{"a":2,"status":1,"a":3}')
def test_the_callers_part_of_a_document_is_kept_to_the_byte(raw: bytes) -> None:
    try:
        parsed = parse(raw)
    except ValueError:
        return
    theirs = {k: v for k, v in parsed.fields.items() if k not in MANAGED_FIELDS}
    assert repr(json.loads(b"{" + parsed.payload + b"}")) == repr(theirs)
    assert parsed.payload in raw or any(name in MANAGED_FIELDS for name in parsed.fields)


def test_what_contains_itself_is_refused_before_it_is_written_twice(pool: TaskPool) -> None:
    loop: list[object] = ["x" * 100_000]
    loop.append(loop)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidTask, match="Circular"):
            pool.publish("t", loop=loop)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    pool.publish("t", rest=loop[:1])
    pool.publish("u", rest=loop[:1])


# Edits of a document of ours --------------------------------------------------------------------

MTIME_NS = 1_700_000_000_123_456_789
positions = st.one_of(
    st.integers(0, 70),  # the mark
    st.integers(0, SECTOR_BYTES),
    st.integers(SECTOR_BYTES - 3, SECTOR_BYTES + 3),
    st.integers(SECTOR_BYTES, 1200),
    st.integers(-5, -1),
)
pieces = st.one_of(
    st.sampled_from([b'"', b"}", b"{", b",", b" ", b"\\", b"0", b"9", b"\x00", b"\xff", b"\n",
                     b',"status":"claimed"', b',"status":"available"', b'"exclusive": ["k"], ',
                     b',"claimed_by":"a"', b',"not_before":4e9', b'{"fastclaim":"1 ', b" 5 -3",
                     b" c ", b" =", b",rust"]),
    st.binary(max_size=3),
)  # fmt: skip
edits = st.lists(st.tuples(positions, pieces, st.sampled_from(["over", "in", "out"])), min_size=1,
                 max_size=4)  # fmt: skip


@st.composite
def documents_of_ours(draw: st.DrawFn) -> bytes:
    """A waiting task as `publish` writes it."""
    managed: dict[str, object] = {"status": "available"}
    if draw(st.booleans()):
        managed["constraint_enforcement"] = {"enabled": True, "created_at": 1.5}
    if draw(st.booleans()):
        managed["attempts"] = draw(st.integers(0, 9))
    theirs = draw(st.dictionaries(st.sampled_from(["a", "b", "é", "task_id"]), values, min_size=1))
    payload = json.dumps(theirs)[1:-1].encode()
    flags = draw(st.integers(0, 7)) << 1
    rank = draw(st.sampled_from([b"", b" 0 0", b" -1.5e+300 -9223372036854775807"]))
    requirements = draw(st.sampled_from([b"", b" =rust", b" =c,rust,=", b" =" + b"x" * 48]))
    return lay_out(managed, payload, MTIME_NS, Terms(flags, rank, requirements))


def edited(raw: bytes, changes: list[tuple[int, bytes, str]]) -> bytes:
    """Some bytes written over others, put in between, or taken out."""
    for position, piece, how in changes:
        at = min(position, len(raw)) if position >= 0 else max(len(raw) + position, 0)
        if how == "over":  # and no longer than it was
            piece = piece[: len(raw) - at]
        raw = raw[:at] + (b"" if how == "out" else piece) + raw[at + len(piece) * (how != "in") :]
    return raw


def theirs_in(raw: bytes) -> str | None:
    """The caller's members, as Python reads them; None if it does not."""
    try:
        document = parse(raw)
    except ValueError:
        return None
    return repr({k: v for k, v in document.fields.items() if k not in MANAGED_FIELDS})


def files_in(seen: list[object]) -> list[bytes]:
    return [one[1] for one in seen if isinstance(one, tuple) and one[0].endswith(".json")]


@both_cores
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents_of_ours(), edits)
def test_an_edit_of_a_document_of_ours_loses_nothing_and_neither_core_believes_it(
    raw: bytes, changes: list[tuple[int, bytes, str]]
) -> None:
    raw = edited(raw, changes)
    seen = transitions_of(CORES[0].values[0], raw)
    assert without_times(seen) == transitions(_transition_py, raw)
    theirs = theirs_in(raw)
    files = files_in(seen)
    assert len(files) == 4
    for file in files:
        assert theirs_in(file) == theirs
        assert theirs is not None or file == raw


@both_cores
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents_of_ours(), edits)
def test_an_edit_that_is_believed_keeps_the_callers_bytes_and_both_cores_do_the_same(
    raw: bytes, changes: list[tuple[int, bytes, str]]
) -> None:
    """Somebody has put the mtime back, too."""
    raw = edited(raw, changes)
    seen = transitions_of(CORES[0].values[0], raw, MTIME_NS)
    python = transitions_of(_transition_py, raw, MTIME_NS)
    assert without_times(seen) == without_times(python)
    sector = read_sector(raw)
    if sector is not None and (sector.size_bytes, sector.mtime_ns) == (len(raw), MTIME_NS):
        for file in files_in(seen):
            assert raw[SECTOR_BYTES:-2] in file


fields = st.fixed_dictionaries(
    {"status": st.just("claimed")},
    optional={
        "claimed_by": values,
        "claimed_at": st.floats(allow_nan=False),
        "result": values,
        "constraint_enforcement": st.dictionaries(keys, values, max_size=4),
    },
)


@settings(deadline=None)
@given(fields, st.dictionaries(st.sampled_from("abc"), values))
def test_a_laid_out_document_says_what_it_was_given_and_no_key_twice(
    managed: dict[str, object], theirs: dict[str, object]
) -> None:
    terms = terms_of(theirs, MTIME_NS)
    raw = lay_out(managed, json.dumps(theirs)[1:-1].encode(), MTIME_NS, terms)
    pairs = json.loads(raw, object_pairs_hook=list)
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names))
    read = json.loads(raw)
    mark = read.pop("fastclaim", None)
    assert json.dumps(read, sort_keys=True) == json.dumps(managed | theirs, sort_keys=True)
    sector = read_sector(raw)
    assert (sector is not None) == (mark is not None)
    if sector is not None:
        assert mark.split()[1:3] == [str(len(raw)), "1700000000123456789"]
        assert raw[SECTOR_BYTES - 2 : SECTOR_BYTES] == b",\n"


def test_a_limit_on_integers_that_changes_after_publication_is_respected(pool: TaskPool) -> None:
    pool.publish("x", n=10**4000)
    before = (pool.available_dir / "x.json").read_bytes()
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(700)
    try:
        assert pool.claim_task("x", "a") == {}
    finally:
        sys.set_int_max_str_digits(limit)
    assert (pool.available_dir / "x.json").read_bytes() == before
    assert pool.claim_task("x", "a")["n"] == 10**4000


LIKE_MEMBERS = {
    "n": 1,
    "status": "claimed",
    "claimed_by": "bob",
    "not_before": 9e9,
    "claim_token": 1,
}


@pytest.mark.parametrize("name", ["failures", "attempts", "constraint_enforcement"])
def test_what_looks_like_a_stamp_inside_a_value_is_none(pool: TaskPool, name: str) -> None:
    value = LIKE_MEMBERS if name == "constraint_enforcement" else [LIKE_MEMBERS]
    path = pool.available_dir / "x.json"
    path.write_text(json.dumps({"task_id": "x", name: value}))
    for end in ("release", "fail"):
        getattr(pool.claim("x", "a"), end)(*["it broke"] * (end == "fail"))
        task = json.loads(path.read_text())
        assert task["status"] == "available"
        if name == "constraint_enforcement":
            assert task[name]["status"] == "claimed"
        elif end == "release":
            assert task[name] == value
    claim = pool.claim("x", "b")
    result = claim.task
    claim.complete(result)
    completed = json.loads((pool.completed_dir / "x_complete.json").read_text())
    assert (completed["status"], completed["result"]) == ("completed", result)


def test_an_agent_that_looks_like_a_stamp_ends_its_claims(pool: TaskPool) -> None:
    pool.publish_task("x", "d", constraints={"deadline": 9e9})
    for _ in range(2):  # first in place, then with a failure's record
        assert pool.claim_task("x", LIKE_MEMBERS)["claimed_by"] == LIKE_MEMBERS
        pool.fail("x", LIKE_MEMBERS, "it broke")
        task = json.loads((pool.available_dir / "x.json").read_text())
        assert (task["status"], task["failures"][-1]["agent"]) == ("available", LIKE_MEMBERS)
    assert pool.claim_task("x", LIKE_MEMBERS)
    assert pool.complete_task("x", LIKE_MEMBERS, {"ok": True})
    assert json.loads((pool.completed_dir / "x_complete.json").read_text())["status"] == "completed"
