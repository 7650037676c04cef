"""What `publish_many` and `claim_many` put on disk, when, and what their failures leave."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastclaim import TaskExists, TaskPool, _transition_py, batches, outcome, publishing

DURABILITIES = ["none", "data", "full"]


def tasks(number: int) -> list[dict[str, Any]]:
    return [{"task_id": f"x{n}", "payload": "p" * n * 1000} for n in range(number)]


def names_in(pool: TaskPool) -> list[str]:
    return sorted(os.listdir(pool.available_dir))


@pytest.fixture(autouse=True)
def on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests lie on."""
    monkeypatch.setattr(batches, "_is_on_one_disk", lambda _: True)


@pytest.fixture(params=[True, False], ids=["in place", "elsewhere"])
def in_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system is one where one flush does for all."""
    monkeypatch.setattr(batches, "stays_in_order", lambda _: request.param)
    return request.param


def test_a_batch_is_on_disk_before_a_task_has_its_name(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    calls: list[str] = []

    def recorded(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def record(*arguments: Any, **more: Any) -> None:
            assert not list(pool.available_dir.glob("*.json"))
            calls.append(name)
            call(*arguments, **more)

        return record

    monkeypatch.setattr(batches, "_write_out", recorded("write out", batches._write_out))
    monkeypatch.setattr(os, "utime", recorded("change", os.utime))
    monkeypatch.setattr(os, "fsync", recorded("flush", os.fsync))
    assert pool.publish_many(tasks(4)) == 4
    if in_place:
        # The change is what makes the flush that of a transaction after theirs.
        assert calls[-3:] == ["write out", "change", "flush"]
        assert calls.count("flush") == 1
    else:
        assert calls[-4:] == ["flush"] * 4


@pytest.mark.parametrize("in_place", [True], indirect=True)
@pytest.mark.usefixtures("in_place")
def test_the_flush_of_many_claims_is_that_of_a_transaction_after_theirs(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish_many(tasks(4))
    calls: list[object] = []
    monkeypatch.setattr(batches, "_write_out", lambda _: calls.append("write out"))
    change, flush = os.utime, os.fsync
    monkeypatch.setattr(
        os, "utime", lambda path, *how, **more: calls.append(path) or change(path, *how, **more)
    )
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("flush") or flush(file))
    assert len(pool.claim_many("a", 4)) == 4
    assert calls[-3:] == ["write out", str(pool.claimed_dir), "flush"]


@pytest.mark.parametrize("durability", DURABILITIES)
def test_many_claims_are_on_disk_before_they_are_returned(
    make_pool: Callable[..., TaskPool],
    monkeypatch: pytest.MonkeyPatch,
    durability: str,
    in_place: bool,
) -> None:
    pool = make_pool(durability=durability)
    pool.publish_many(tasks(4))
    flushed: list[int] = []
    written: list[object] = []
    monkeypatch.setattr(batches, "_write_out", written.extend)
    for flush in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, flush, flushed.append)
    assert len(pool.claim_many("a", 9)) == 4
    assert len(written) == (4 if in_place and durability != "none" else 0)
    files = 0 if in_place else 4
    directories = {"none": 0, "data": in_place, "full": 2}[durability]
    assert len(flushed) == (0 if durability == "none" else files + directories)


def test_where_there_is_no_one_disk_each_of_many_claims_is_flushed_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = TaskPool(tmp_path, _core=_transition_py)  # the compiled core's steps cannot be watched
    monkeypatch.setattr(batches, "_is_on_one_disk", lambda _: False)
    pool.publish_many(tasks(4))
    flushed: list[str] = []
    monkeypatch.setattr(
        os, "fdatasync", lambda file: flushed.append(os.readlink(f"/proc/self/fd/{file}"))
    )
    claims = pool.claim_many("a", 9)
    assert flushed == [f"{pool.claimed_dir}/{claim.task_id}_a.json" for claim in claims]


def test_many_claims_that_cannot_be_put_on_disk_are_given_back(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.publish_many(tasks(4))

    def fail(*_: object) -> None:
        raise OSError("the disk is broken")

    with monkeypatch.context() as broken:
        broken.setattr(batches, "put_on_disk", fail)
        with pytest.raises(OSError, match="broken"):
            pool.claim_many("a", 9)
    assert pool.counts()["available"] == 4
    assert len(pool.claim_many("a", 9)) == 4


def test_a_foreign_task_of_many_is_synced_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = TaskPool(tmp_path, _core=_transition_py)  # the compiled core's steps cannot be watched
    (pool.available_dir / "x.json").write_text('{"task_id": "x"}')
    levels: list[int] = []
    prepare = _transition_py.Held.prepare

    def listen(held: _transition_py.Held, *how: Any) -> None:
        levels.append(how[-1])
        prepare(held, *how)

    monkeypatch.setattr(_transition_py.Held, "prepare", listen)
    assert len(pool.claim_many("a", 1)) == 1
    assert levels == [outcome.SYNC_DATA]


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("if_exists", ["error", "replace"])
@pytest.mark.usefixtures("in_place")
def test_a_batch_publishes_what_single_publications_do(
    make_pool: Callable[..., TaskPool],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    durability: str,
    if_exists: str,
) -> None:
    monkeypatch.setattr(publishing, "MOST_TOGETHER", 3)
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    pool, other = make_pool(durability=durability), TaskPool(tmp_path / "other")
    pool.publish("x1", "older")
    pool.publish_many(tasks(8), if_exists="ignore" if if_exists == "error" else if_exists)
    for task in tasks(8):
        other.publish(task)
    assert names_in(pool) == names_in(other)
    for path in other.available_dir.iterdir():
        found = pool.available_dir / path.name
        if if_exists == "replace" or path.name != "x1.json":
            assert found.read_bytes() == path.read_bytes()
            assert found.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert len(pool.claim_many("a", 9)) == 8  # none is held any more


@pytest.mark.parametrize("in_place", [False], indirect=True)
@pytest.mark.usefixtures("in_place")
def test_where_each_file_is_flushed_the_writes_of_all_are_started_before(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(
        batches, "_sync_file_range", lambda: lambda *call: calls.append(f"start {call[-1]}")
    )
    for name in ("fsync", "fdatasync"):
        flush = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda file, flush=flush: calls.append("flush") or flush(file)
        )
    pool.publish_many(tasks(3))
    assert calls == ["start 2"] * 3 + ["flush"] * 3
    calls.clear()
    assert len(pool.claim_many("a", 3)) == 3
    assert calls == ["start 2"] * 3 + ["flush"] * 3


def test_an_error_of_a_flush_names_the_claim(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    def fail(*_: object) -> int:
        ctypes.set_errno(errno.EIO)
        if in_place:
            return -1
        raise OSError(errno.EIO, "the disk is broken")

    pool.publish_many(tasks(3))
    monkeypatch.setattr(os, "fdatasync", fail)
    if in_place:
        monkeypatch.setattr(batches, "_sync_file_range", lambda: fail)
    with pytest.raises(OSError, match="claimed/x") as caught:
        pool.claim_many("a", 3)
    assert caught.value.errno == errno.EIO
    assert Path(caught.value.filename).parent == pool.claimed_dir


@pytest.mark.usefixtures("in_place")
def test_a_batch_that_cannot_be_put_on_disk_is_not_there(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "MOST_TOGETHER", 2)
    flush = os.fsync

    def fail_from_the_second_batch_on(descriptor: int) -> None:
        if list(pool.available_dir.glob("*.json")):
            raise OSError(errno.EIO, "the disk is broken")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fail_from_the_second_batch_on)
    with pytest.raises(OSError, match="broken"):
        pool.publish_many(tasks(6))
    assert names_in(pool) == ["x0.json", "x1.json"]


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_task_that_somebody_else_publishes_meanwhile_ends_a_batch(
    make_pool: Callable[..., TaskPool], monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    pool = make_pool(durability=durability)
    pool.publish("x1", "theirs")
    monkeypatch.setattr(publishing, "known_ids", lambda _: set())
    with pytest.raises(TaskExists, match="x1"):
        pool.publish_many(tasks(4))
    assert names_in(pool) == ["x0.json", "x1.json"]
    assert pool.publish_many(tasks(4), if_exists="ignore") == 2
    assert pool.claim("x1", "a").task["description"] == "theirs"


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_directory_that_has_gone_is_made_anew(
    make_pool: Callable[..., TaskPool], durability: str
) -> None:
    pool = make_pool(durability=durability)
    shutil.rmtree(pool.tasks_dir)
    assert pool.publish_many(tasks(3)) == 3
    assert names_in(pool) == ["x0.json", "x1.json", "x2.json"]
