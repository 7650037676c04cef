"""Reading single files, by both cores."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import InvalidTask, TaskPool, listing
from fastclaim.tasks_directory import TasksDirectory


@pytest.fixture(autouse=True)
def both_cores(core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "core", core)


@pytest.mark.parametrize("size_bytes", [0, 1, 4095, 4096, 4097, 100_000])
def test_as_much_of_a_file_is_read_as_is_asked_for(
    core: ModuleType, tmp_path: Path, size_bytes: int
) -> None:
    content = os.urandom(size_bytes)
    path = tmp_path / "f"
    path.write_bytes(content)
    for at_most_bytes in (0, 1, 4096, 4097, 200_000):
        assert core.read(str(path), at_most_bytes) == content[:at_most_bytes]
    assert core.read(os.fsencode(path), 200_000) == content


@pytest.mark.parametrize("filler_bytes", [1, 3000, 4096, 10_000])
def test_a_task_of_any_size_is_read_whole(tmp_path: Path, filler_bytes: int) -> None:
    task = {"task_id": "x", "filler": "f" * filler_bytes}
    pool = TaskPool(tmp_path)
    pool.publish(task)
    assert listing.read_task(str(pool.available_dir / "x.json")).items() >= task.items()


def test_what_is_no_regular_file_is_not_read(core: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("link", "directory", "fifo", "socket"):
            assert core.read(str(tmp_path / name), 9) is None
            with pytest.raises(InvalidTask) as caught:
                listing.read_task(str(tmp_path / name))
            assert str(caught.value) == f"{tmp_path / name} is not a regular file"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "not a JSON object but an array"),
        (" null", "not a JSON object but null"),
        ("broken", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[1", "not JSON: Expecting ',' delimiter: line 1 column 3 (char 2)"),
        ('{"a": 1', "not JSON: Expecting ',' delimiter: line 1 column 8 (char 7)"),
        ("", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[" + "1," * 5000, "not a JSON object"),
    ],
)
def test_what_is_no_task_is_said_once(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InvalidTask) as caught:
        listing.read_task(str(path))
    assert str(caught.value) == f"{path} is {said}"


def test_an_error_of_the_system_names_the_file(core: ModuleType, tmp_path: Path) -> None:
    path = str(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError) as caught:
        core.read(path, 9)
    assert caught.value.filename == path
    with pytest.raises(ValueError, match="null"):
        core.read(str(tmp_path / "a\0b"), 9)


def test_no_descriptor_is_left_open(core: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    for name in ("file", "nothing", "."):
        try:
            core.read(str(tmp_path / name), 9)
        except FileNotFoundError:
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_found_though_the_descriptor_of_its_directory_is_an_old_one(
    core: ModuleType, make_pool: Callable[..., TaskPool]
) -> None:
    pool = make_pool()
    old = TasksDirectory(os.fsencode(pool.tasks_dir))
    pool.tasks_dir.rename(pool.tasks_dir.with_name("moved away"))
    pool.publish("x")
    path = pool.available_dir / "x.json"
    assert core.read(str(path), 4096, old) == path.read_bytes()


def test_a_link_that_leads_nowhere_is_there_and_a_name_that_has_gone_is_not(
    core: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert core.is_there(str(tmp_path / "link"))
    assert not core.is_there(str(tmp_path / "nothing"))
    assert core.is_there(str(tmp_path / ("n" * 300)))  # who claims it will be told


@pytest.mark.parametrize("base", ["/dev/shm", "."])
def test_a_look_at_once_doubts_only_what_has_gone_from_a_tmpfs(core: ModuleType, base: str) -> None:
    with tempfile.TemporaryDirectory(dir=base) as directory:
        tasks = TasksDirectory(os.fsencode(directory))
        gone = Path(directory, "gone")
        gone.touch()
        gone.unlink()
        os.symlink("nowhere", Path(directory, "link"))
        assert core.is_there(f"{directory}/link", tasks) is True
        doubts = core.__name__.endswith("_c") and is_tmpfs(directory)
        assert core.is_there(str(gone), tasks) is (None if doubts else False)


def is_tmpfs(directory: str) -> bool:
    how = ["stat", "--file-system", "--format=%T", directory]
    return subprocess.run(how, capture_output=True, text=True).stdout == "tmpfs\n"
