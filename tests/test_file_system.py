"""Which file systems keep the order of what is written: a batch is flushed at once only there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fastclaim import TaskPool, diagnosis, file_system

from .test_power_cuts import WITHOUT_JOURNAL, _mount, _mounted_image, _repair, _unmount

KINDS = [("ext4", True), ("xfs", True), (WITHOUT_JOURNAL, False)]


@pytest.mark.parametrize(("kind", "in_order"), KINDS)
def test_a_journal_keeps_the_order_and_the_doctor_says_where_there_is_none(
    tmp_path: Path, kind: str, in_order: bool
) -> None:
    with _mounted_image(kind, tmp_path):
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


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_every_name_of_a_batch_that_is_on_disk_is_that_of_a_whole_task(
    tmp_path: Path, kind: str
) -> None:
    tasks = [{"task_id": f"x{number}", "payload": "p" * 3000} for number in range(64)]
    with _mounted_image(kind, tmp_path) as image:
        pool = TaskPool(tmp_path / "mounted" / "pool", durability="full")
        os.sync()
        assert pool.publish_many(tasks) == len(tasks)
        copy, after = image.with_name(f"copy{image.suffix}"), tmp_path / "after"
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        if kind == WITHOUT_JOURNAL:
            _repair(copy)
        _mount(copy, after)
        try:
            found = {task["task_id"]: task["payload"] for task in TaskPool(after / "pool").tasks()}
        finally:
            _unmount(after)
        assert found == {task["task_id"]: task["payload"] for task in tasks}
