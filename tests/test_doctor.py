"""The doctor tries what a pool rests on, and says what to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastclaim import TaskPool, diagnosis

from .agents import agent
from .conftest import fill


def found(pool: TaskPool) -> dict[str, diagnosis.Finding]:
    return {finding.check: finding for finding in pool.doctor()}


def test_a_healthy_pool_is_called_healthy_and_left_as_it_was(pool: TaskPool) -> None:
    pool.publish("t")
    before = sorted(os.listdir(pool.tasks_dir))
    findings = found(pool)
    fine = "flock O_CLOEXEC inotify RENAME_NOREPLACE owners contents pause blocked"
    for check in fine.split():
        assert findings[check].level == "ok", findings[check]
    assert findings["core"].message == pool._directories.core.NAME
    assert sorted(os.listdir(pool.tasks_dir)) == before
    assert pool.counts()["available"] == 1


def test_whatever_is_not_well_comes_with_advice(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pool.available_dir / "broken.json").write_text("{")
    pool.available_dir.chmod(0o777)
    pool.publish("t")
    with agent(lambda: pool.claim("t", "a")) as holder:
        holder.kill()
    monkeypatch.setattr(diagnosis, "_type_of_file_system", lambda path: "nfs4")
    monkeypatch.setattr(diagnosis.owners.fcntl, "flock", lambda descriptor, operation: None)
    findings = found(pool)
    monkeypatch.undo()
    for check in ("file system", "flock", "writers", "contents"):
        assert findings[check].level != "ok"
        assert findings[check].advice
    assert "broken.json" in findings["contents"].message


def test_orphans_are_reported_and_not_touched(pool: TaskPool) -> None:
    pool.publish("t")
    with agent(lambda: pool.claim("t", "a")) as holder:
        holder.kill()
    assert found(pool)["left behind"].advice == "run recover()"
    assert pool.counts()["claimed"] == 1


def test_files_that_are_not_called_as_their_tasks_are_named(pool: TaskPool) -> None:
    for name in ("a_b", "c"):
        pool.publish(name)
        pool.claim(name, "x_y")
    assert "names" not in found(pool)
    (pool.available_dir / "copy.json").write_text('{"task_id": "t"}')
    assert found(pool)["names"].message == "available/copy.json has the task_id 't'"
    (pool.available_dir / "copy.json").write_text("{}")
    assert found(pool)["names"].message == "available/copy.json has no task_id"
    assert found(pool)["names"].level == "warning"


def test_a_pause_in_force_is_told_of(pool: TaskPool) -> None:
    pool.pause(reason="the limit of the API")
    assert found(pool)["pause"].level == "warning"
    assert "the limit of the API" in found(pool)["pause"].message


def test_a_disk_without_room_is_told_of(
    make_pool: Callable[..., TaskPool], small_disk: Path
) -> None:
    pool = make_pool(small_disk)
    space = found(pool)["space"]
    assert (space.level, space.message.startswith("0.1 MB and ")) == ("ok", True)
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        pool.publish("t", "d" * 5000)
    space = found(pool)["space"]
    assert (space.level, bool(space.advice)) == ("error", True)
    assert space.message.startswith("0.0 MB and ")


def test_a_disk_without_inodes_is_told_of(
    make_pool: Callable[..., TaskPool], small_disk: Path
) -> None:
    pool = make_pool(small_disk)
    subprocess.run(["mount", "-o", "remount,nr_inodes=12", small_disk], check=True)
    for number in range(os.statvfs(small_disk).f_ffree):
        (small_disk / f"{number}").touch()
    findings = found(pool)
    assert findings["space"].level == "error"
    assert findings["space"].message.endswith(" and 0 files free")
    assert findings["permissions"].advice == "make room"


@pytest.fixture
def overlay(make_pool: Callable[..., TaskPool], tmp_path: Path) -> Iterator[Path]:
    """Where an overlayfs is mounted, whose lower layer has a pool with a waiting task in it."""
    layers = tmp_path / "layers"
    layers.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", layers], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        for name in ("lower", "upper", "work", "merged"):
            (layers / name).mkdir()
        make_pool(layers / "lower").publish("t")
        options = ",".join(f"{name}dir={layers / name}" for name in ("lower", "upper", "work"))
        command = ["mount", "-t", "overlay", "overlay", "-o", options, layers / "merged"]
        mounted = subprocess.run(command, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"no overlayfs here: {mounted.stderr.strip()}")
        try:
            yield layers / "merged"
        finally:
            subprocess.run(["umount", "-l", layers / "merged"], check=True)
    finally:
        subprocess.run(["umount", "-l", layers], check=True)


def test_on_overlayfs_a_pool_works_and_is_called_healthy(
    make_pool: Callable[..., TaskPool], overlay: Path
) -> None:
    pool = make_pool(overlay)
    findings = found(pool)
    assert (findings["file system"].level, findings["file system"].message[:7]) == ("ok", "overlay")
    for check in ("flock", "inotify", "RENAME_NOREPLACE", "RENAME_EXCHANGE"):
        assert findings[check].level == "ok", findings[check]
    with agent(lambda: pool.claim("t", "a")) as holder:
        assert make_pool(overlay).claim_task("t", "b") == {}
        holder.kill()
    with pool.claim("t", "b") as claim:
        claim.result = "r" * 2000
    assert pool.counts() == {"available": 0, "claimed": 0, "completed": 1, "failed": 0}
