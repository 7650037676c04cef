"""The doctor tries what a pool rests on, and says what to do."""

from __future__ import annotations

import os

import pytest

from fastclaim import TaskPool, diagnosis

from .agents import agent


def found(pool: TaskPool) -> dict[str, diagnosis.Finding]:
    return {finding.check: finding for finding in pool.doctor()}


def test_a_healthy_pool_is_called_healthy_and_left_as_it_was(pool: TaskPool) -> None:
    pool.publish("t")
    before = sorted(os.listdir(pool.tasks_dir))
    findings = found(pool)
    for check in ("flock", "O_CLOEXEC", "inotify", "RENAME_NOREPLACE", "owners", "contents"):
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
