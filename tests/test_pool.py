"""What is so of pools in directories; what is so of all kinds of pool stands in conformance/."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fastclaim
from fastclaim import (
    AlreadyClaimed,
    ClaimLost,
    InvalidName,
    InvalidTask,
    TaskExists,
    TaskPool,
    TaskPoolError,
)

from .conformance.test_publishing import (
    BAD_IDS,
    PLAIN_IDS,
    originals_methods_with,
    verbs_with,
)


def files(directory: Path) -> dict[str, bytes]:
    """What is in each file below it, but in the owners' files, which say who lives."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    found = {str(path.relative_to(directory)): path.read_bytes() for path in paths}
    return {name: held for name, held in found.items() if "/owners/" not in name}


# Publishing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["available", "claimed", "completed"])
def test_the_refusal_of_a_task_that_is_known_changes_no_file(
    pool: TaskPool, tmp_path: Path, state: str
) -> None:
    pool.publish("x", "first")
    if state != "available":
        claim = pool.claim("x", "a")
    if state == "completed":
        claim.complete()
    before = files(tmp_path)
    with pytest.raises(TaskExists, match="'x'"):
        pool.publish("x", "second")
    with pytest.raises(TaskExists, match="'x'"):
        pool.publish_many([{"task_id": "x"}, {"task_id": "new"}])
    assert pool.publish("x", "second", if_exists="ignore") is False
    assert files(tmp_path) == before


def test_a_pool_has_a_name() -> None:
    with pytest.raises(ValueError, match="is empty"):
        TaskPool("")


def test_a_name_that_only_looks_like_a_claim_of_the_task_does_not_count(pool: TaskPool) -> None:
    pool.publish("a_b")
    pool.claim("a_b", "c")
    assert pool.publish("a")
    assert pool.publish_many([{"task_id": "a_b_c"}]) == 1


@pytest.mark.parametrize(
    "task",
    [
        {"task_id": "x", "o": object},
        {"task_id": "x", "s": {1, 2}},
        {"task_id": "x", "constraint_enforcement": []},
        {"description": "no id"},
        ["task_id"],
        None,
    ],
    ids=repr,
)
def test_what_cannot_be_a_task_is_refused_before_any_file_is_made(
    pool: TaskPool, tmp_path: Path, task: dict[str, object]
) -> None:
    with pytest.raises(InvalidTask):
        pool.publish(task)
    with pytest.raises(InvalidTask):
        pool.publish_many([{"task_id": "good"}, task])
    assert files(tmp_path) == {}


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD_IDS, ids=ascii)
def test_no_verb_touches_a_file_for_an_id_that_cannot_be_a_file_name(
    pool: TaskPool, tmp_path: Path, bad: str
) -> None:
    pool.publish("x")
    before = files(tmp_path)
    for verb in verbs_with(pool, bad):
        with pytest.raises(InvalidName):
            verb()
    for call, _ in originals_methods_with(pool, bad):
        call()
    assert files(tmp_path) == before


@pytest.mark.parametrize("bad", BAD_IDS, ids=ascii)
@pytest.mark.parametrize("terms", [{}, {"lease_s": 60}, {"lease_s": 60, "bind": True}], ids=str)
def test_a_claim_makes_nothing_for_an_id_that_cannot_be_a_file_name(
    pool: TaskPool, bad: str, terms: dict[str, float]
) -> None:
    for task_id, agent_id in ((bad, "a"), ("x", bad), (bad, "a")):
        with pytest.raises(InvalidName):
            pool.claim(task_id, agent_id, **terms)
    assert list((pool.tasks_dir / "owners").iterdir()) == []


@pytest.mark.parametrize("plain", PLAIN_IDS, ids=ascii)
def test_every_other_id_names_files_of_the_pool_and_no_others(
    pool: TaskPool, tmp_path: Path, plain: str
) -> None:
    pool.publish(plain)
    assert files(tmp_path).keys() == {f"pool/tasks/available/{plain}.json"}
    claim = pool.claim(plain, "a")
    assert files(tmp_path).keys() == {f"pool/tasks/claimed/{plain}_a.json"}
    claim.complete()
    assert files(tmp_path).keys() == {f"pool/tasks/completed/{plain}_complete.json"}
    pool.publish("x")
    pool.claim("x", plain or "a")
    assert f"pool/tasks/claimed/x_{plain or 'a'}.json" in files(tmp_path)


def test_a_task_id_of_the_longest_name_is_claimed_by_a_drop_in(pool: TaskPool) -> None:
    task_id = "x" * (255 - len("_a.json"))
    assert pool.publish_task(task_id, "d")
    assert pool.claim_task(task_id, "a")


# Claims -------------------------------------------------------------------------------------------


def test_a_task_that_nobody_asked_for_is_not_known_after_its_claims_end(pool: TaskPool) -> None:
    pool.publish("x")
    claim = pool.claim("x", "a")
    claim.complete()
    with pytest.raises(ClaimLost):
        _ = claim.task


# The object ---------------------------------------------------------------------------------------


def test_a_pool_whose_directories_were_deleted_makes_them_again(pool: TaskPool) -> None:
    shutil.rmtree(pool.tasks_dir.parent)
    assert pool.claim_task("x", "a") == {}
    assert pool.get_available_tasks() == []
    assert pool.counts() == {"available": 0, "claimed": 0, "completed": 0, "failed": 0}
    pool.publish("x")
    shutil.rmtree(pool.claimed_dir)
    claim = pool.claim("x", "a")
    shutil.rmtree(pool.completed_dir)
    claim.complete()
    assert pool.counts()["completed"] == 1
    pool.publish("y")
    claim = pool.claim("y", "a")
    shutil.rmtree(pool.available_dir)
    claim.release()
    assert pool.counts()["available"] == 1


def test_a_pool_follows_its_path_when_directories_are_renamed(pool: TaskPool) -> None:
    pool.publish("x")
    base = pool.tasks_dir.parent
    base.rename(base.with_name("old"))
    assert pool.claim_task("x", "a") == {}
    pool.publish("y")
    assert pool.claim_task("y", "a")
    assert (base.with_name("old") / "tasks/available/x.json").exists()


def test_a_pool_stays_where_it_is_when_the_process_changes_directory(
    make_pool: Callable[..., TaskPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = make_pool(Path("relative"))
    monkeypatch.chdir("/")
    pool.publish("x")
    assert (tmp_path / "relative/tasks/available/x.json").exists()


def test_pools_and_claims_pickle_and_copy(pool: TaskPool) -> None:
    pool.publish("x")
    twin = copy.deepcopy(pickle.loads(pickle.dumps(pool)))
    assert twin._directories.core is pool._directories.core
    claim = pickle.loads(pickle.dumps(twin.claim("x", "a")))
    claim.complete()
    assert pool.counts()["completed"] == 1
    error = pickle.loads(pickle.dumps(AlreadyClaimed("taken", "x", "a")))
    assert (str(error), error.task_id, error.holder) == ("taken", "x", "a")


def test_a_pool_is_an_ordinary_object(pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(TaskPool):
        def claim_task(self, *args: object, **kwargs: object) -> dict[str, object]:
            return {"mine": True}

    mine = Mine(pool.base_dir)
    mine.colour = "red"  # type: ignore[attr-defined]
    assert mine.claim_task("x", "a") == {"mine": True}
    monkeypatch.setattr(pool, "publish_task", lambda *args: "patched")
    assert pool.publish_task("x", "d") == "patched"
    assert all(isinstance(path, Path) for path in (pool.tasks_dir, pool.available_dir))


def test_signatures_are_the_originals() -> None:
    original = pytest.importorskip("orchestration.a2a_integration").TaskPool
    for name in (
        "publish_task",
        "claim_task",
        "complete_task",
        "get_available_tasks",
        "validate_task_constraints",
    ):
        theirs = inspect.signature(getattr(original, name))
        ours = inspect.signature(getattr(TaskPool, name))
        assert [(p.name, p.default) for p in ours.parameters.values()] == [
            (p.name, p.default) for p in theirs.parameters.values()
        ]


def test_records_carry_ids_and_the_wait(pool: TaskPool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool.publish_task("x", "d")
    pool.claim_task("x", "a")
    pool.complete_task("x", "a", {})
    published, claimed, completed = caplog.records
    assert published.task_id == claimed.task_id == completed.task_id == "x"  # type: ignore[attr-defined]
    assert claimed.agent_id == "a"  # type: ignore[attr-defined]
    assert isinstance(claimed.wait_s, float)  # type: ignore[attr-defined]


@pytest.mark.parametrize("timeout", [0, -1, -1e300, 1e300, float("inf"), float("nan"), None, 3])
def test_every_timeout_is_legal(pool: TaskPool, timeout: float) -> None:
    pool.publish("x")
    assert pool.claim_task("x", "a", timeout=timeout)
    assert pool.claim_task("x", "a", timeout=timeout) == {}


def test_the_base_directory_is_read_from_the_environment_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A2A_BASE_DIR", os.fspath(tmp_path / "one"))
    one = TaskPool()
    monkeypatch.setenv("A2A_BASE_DIR", os.fspath(tmp_path / "two"))
    assert TaskPool().tasks_dir == tmp_path / "two/tasks"
    one.publish("x")
    assert (tmp_path / "one/tasks/available/x.json").exists()


def test_a_pool_path_that_is_a_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        TaskPool(tmp_path / "file")


def test_every_error_is_a_task_pool_error() -> None:
    errors = [getattr(fastclaim, name) for name in fastclaim.__all__ if name[0].isupper()]
    for error in errors:
        if isinstance(error, type) and issubclass(error, Exception):
            assert issubclass(error, TaskPoolError)


def test_a_path_that_is_too_long_fails_cleanly(
    make_pool: Callable[..., TaskPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path
    while len(os.fspath(deep)) < 3600:
        deep /= "d" * 200
    pool = make_pool(deep)
    assert pool.publish_task("x", "d")
    assert pool.claim_task("x", "a")
    assert pool.complete_task("x", "a", {"r": "s" * 600})
    long_id = "x" * 240
    while len(os.fspath(deep)) < 3840:
        deep /= "d" * 10
    pool = make_pool(deep)
    with pytest.raises(OSError, match="File name too long"):
        pool.publish(long_id)
    assert pool.claim_task(long_id, "a") == {}


def test_a_daemon_that_has_closed_the_standard_descriptors_claims_all_the_same(
    pool: TaskPool,
) -> None:
    pool.publish("x")
    program = (
        "import os, pickle, sys; pool = pickle.load(sys.stdin.buffer)\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "pool.claim('x', 'a').complete({'r': 's' * 1000})"
    )
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(pool), check=False)
    assert done.returncode == 0
    assert json.loads((pool.completed_dir / "x_complete.json").read_bytes())["result"]


@pytest.mark.parametrize(
    "url", ["file:///tmp/x", "postgresql:/x", "postgresql+psycopg://me:secret@host/x"]
)
def test_a_url_of_another_kind_makes_no_directory(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="a pool is a directory, or a postgresql:// URL"
    ) as refused:
        TaskPool(url)
    assert "secret" not in str(refused.value)
    assert os.listdir(tmp_path) == []


def test_a_pools_directory_may_be_bytes(tmp_path: Path) -> None:
    TaskPool(os.fsencode(tmp_path / "pool")).publish("x")
    assert TaskPool(tmp_path / "pool").counts()["available"] == 1


def test_a_process_that_may_open_no_more_files_is_told_of_which_in_text(pool: TaskPool) -> None:
    pool.publish("t")
    code = """
import os, resource, sys
sys.path[:] = PATH
from fastclaim import TaskPool
pool = TaskPool(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    pool.claim("t", "a")
except OSError as error:
    print(repr(error.filename))
"""
    result = subprocess.run(
        [sys.executable, "-c", f"PATH = {sys.path!r}\n{code}", str(pool.base_dir)],
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.stderr) == (f"{str(pool.tasks_dir)!r}\n", "")
