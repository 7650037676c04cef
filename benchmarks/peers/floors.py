"""Floors: what the machine takes for the one step that nobody can leave out. No rivals."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from .base import AGENT, Connect, Guarantees, Hold, Peer, Ref, Session, Task
from .rename import Rename, RenameSession

SECTOR = b" " * 512
STRIDE_BYTES = 4096


class FlushSession(Session):
    """A claim is one sector of a preallocated file, written and flushed."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self._published = 0

    def publish(self, task: Task) -> Ref:
        os.pwrite(self._fd, bytes(STRIDE_BYTES), self._published * STRIDE_BYTES)
        self._published += 1
        return self._published - 1

    def claim(self, ref: Ref) -> Hold | None:
        os.pwrite(self._fd, SECTOR, ref * STRIDE_BYTES)
        os.fdatasync(self._fd)
        return (ref,)

    def claim_next(self) -> Hold | None:
        raise NotImplementedError

    def ref(self, hold: Hold) -> Ref:
        return hold[0]

    def read(self, hold: Hold) -> Task:
        return {}

    def close(self) -> None:
        os.close(self._fd)


class Flush(Peer):
    """No durable claim can be faster, except together with others."""

    name = "floor: pwrite + fdatasync"
    note = "one preallocated file for all tasks"
    guarantees = Guarantees("power cut", "no claims: one sector is overwritten", says_who=False)
    has_next = completes = False
    floor_of = "one process"

    def version(self) -> str:
        return f"os.pwrite of Python {platform.python_version()}"

    def new_store(self, directory: Path) -> Connect:
        directory.mkdir()
        return lambda: FlushSession(directory / "sectors")


class RenamedFlushSession(RenameSession):
    """A claim is a rename, then one sector of the task's own file, written and flushed."""

    def publish(self, task: Task) -> Ref:
        ref: str = task["task_id"]
        with open(f"{self._available}/{ref}.json", "xb") as file:
            file.write(SECTOR + json.dumps(task).encode())
        return ref

    def claim(self, ref: Ref) -> Hold | None:
        path = f"{self._claimed}/{ref}_{AGENT}.json"
        os.rename(f"{self._available}/{ref}.json", path)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.pwrite(fd, SECTOR, 0)
        os.fdatasync(fd)
        os.close(fd)
        return ref


class RenamedFlush(Rename):
    """No claim that moves a task's file and is durable can be faster: a rename makes it dearer."""

    name = "floor: rename + pwrite + fdatasync"
    guarantees = Guarantees("power cut*", "no claims: nobody is asked", says_who=False)
    has_next = completes = False
    floor_of = "one process"
    note = "each task's own file"

    def new_store(self, directory: Path) -> Connect:
        super().new_store(directory)
        return lambda: RenamedFlushSession(directory)


class StatSession(Session):
    """Looks at a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def publish(self, task: Task) -> Ref:
        with open(self._path, "w", encoding="utf-8"):
            return self._path

    def claim_next(self) -> Hold | None:
        raise NotImplementedError

    def ref(self, hold: Hold) -> Ref:
        return hold

    def read(self, hold: Hold) -> Task:
        return {}

    def won(self, ref: Ref) -> bool:
        os.stat(self._path)
        return False


class Stat(Peer):
    """What so many processes take to wake up and make one system call each: the race's floor."""

    name = "floor: stat"
    guarantees = Guarantees("-", "no claims", says_who=False)
    has_ids = has_next = completes = False
    floor_of = "race"

    def version(self) -> str:
        return f"os.stat of Python {platform.python_version()}"

    def new_store(self, directory: Path) -> Connect:
        directory.mkdir()
        return lambda: StatSession(os.fspath(directory / "file"))
