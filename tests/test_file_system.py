"""Which file systems keep the order of what is written: a batch is flushed at once only there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import TaskPool, diagnosis, file_system, outcome
from fastclaim.descriptors import sync_directory

from .agents import agent
from .images import WITHOUT_JOURNAL, after_a_boot, copy_of, mounted_image

KINDS = [("ext4", True), ("xfs", True), (WITHOUT_JOURNAL, False)]


@pytest.mark.parametrize(("kind", "in_order"), KINDS)
def test_a_journal_keeps_the_order_and_the_doctor_says_where_there_is_none(
    tmp_path: Path, kind: str, in_order: bool
) -> None:
    with mounted_image(kind, tmp_path):
        device = os.stat(tmp_path / "mounted").st_dev
        assert file_system.stays_in_order(device) is in_order
        assert file_system.lacks_journal(device) is not in_order
        findings = {found.check: found for found in TaskPool(tmp_path / "mounted").doctor()}
        told = findings["file system"]
        assert told.level == (diagnosis.OK if in_order else diagnosis.WARNING)
        assert ("journal" in told.message) is not in_order


def test_what_cannot_be_told_is_not_taken_for_a_file_system_that_keeps_the_order() -> None:
    device = os.makedev(9999, 1)
    assert not file_system.stays_in_order(device)
    assert not file_system.lacks_journal(device)
    assert not file_system.stays_in_order(os.stat("/proc").st_dev)


def test_a_mount_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "mountinfo"
    listed.write_bytes(b"36 35 98:1 / /a\\040\xff\xc3\xa4 rw,noatime - ext4 /dev/x rw\n")
    monkeypatch.setattr(file_system, "open", lambda _, how: listed.open(how), raising=False)
    where = os.fsdecode(b"/a \xff\xc3\xa4")
    assert list(file_system.mounts()) == [file_system.Mount("98:1", where, "ext4")]


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
@pytest.mark.parametrize("durability", ["data", "full"])
def test_every_name_of_a_batch_that_is_on_disk_is_that_of_a_whole_task(
    tmp_path: Path, core: ModuleType, kind: str, durability: str
) -> None:
    tasks = {f"x{number}": "p" * 3000 for number in range(64)}

    def pool() -> TaskPool:
        return TaskPool(tmp_path / "mounted" / "pool", durability=durability, _core=core)

    def publish() -> object:
        os.sync()
        pool().publish_many({"task_id": each, "payload": tasks[each]} for each in tasks)
        return _put_names_on_disk(pool())

    def claim() -> object:
        assert len(pool().claim_many("a", len(tasks))) == len(tasks)
        return _put_names_on_disk(pool())

    with mounted_image(kind, tmp_path) as image:
        pool()
        for act, state in ((publish, "available"), (claim, "claimed")):
            with agent(act) as process, after_a_boot(copy_of(image)) as after:
                assert process.said == "on disk"
                found = {
                    task["task_id"]: (task["payload"], task["status"], path.parent.name)
                    for path in (after / "pool" / "tasks").glob("*/*.json")
                    for task in [json.loads(path.read_text())]
                }
                assert found == {each: (tasks[each], state, state) for each in tasks}


def _put_names_on_disk(pool: TaskPool) -> str:
    """As the kernel does some time later, and "full" at once."""
    if pool._directories.sync < outcome.SYNC_FULL:
        for directory in (pool.claimed_dir, pool.available_dir):
            sync_directory(os.fsencode(directory))
    return "on disk"
