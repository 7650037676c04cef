"""Bare rename: the least that a file pool can do."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from .base import AGENT, Connect, Guarantees, Hold, Peer, Ref, Session, Task


class RenameSession(Session):
    """One rename a claim; the next task is the next name of a listing."""

    def __init__(self, directory: Path) -> None:
        self._available = os.fspath(directory / "available")
        self._claimed = os.fspath(directory / "claimed")
        self._completed = os.fspath(directory / "completed")
        self._listed: list[str] = []

    def publish(self, task: Task) -> Ref:
        ref: str = task["task_id"]
        temporary = f"{self._available}/.{ref}.tmp"
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(task, file)
        os.rename(temporary, f"{self._available}/{ref}.json")
        return ref

    def claim(self, ref: Ref) -> Hold | None:
        try:
            os.rename(f"{self._available}/{ref}.json", f"{self._claimed}/{ref}_{AGENT}.json")
        except FileNotFoundError:
            return None
        return ref

    def claim_next(self) -> Hold | None:
        while True:
            while self._listed:
                name = self._listed.pop()
                if name.endswith(".json") and self.claim(name[:-5]) is not None:
                    return name[:-5]
            self._listed = os.listdir(self._available)
            if not self._listed:
                return None

    def ref(self, hold: str) -> Ref:
        return hold

    def read(self, hold: str) -> Task:
        with open(f"{self._claimed}/{hold}_{AGENT}.json", encoding="utf-8") as file:
            task: Task = json.load(file)
        return task

    def complete(self, hold: str, result: Task) -> None:
        os.rename(f"{self._claimed}/{hold}_{AGENT}.json", f"{self._completed}/{hold}.json")


class Rename(Peer):
    """The floor of a pool of files in Python."""

    name = "bare rename"
    guarantees = Guarantees(
        "process death",
        "stays claimed until somebody moves the file",
        says_who=True,
    )
    largest_pool = 1_000_000
    note = "nothing synced, no time of the claim, no result: only the name says who has a task"

    def version(self) -> str:
        return f"os.rename of Python {platform.python_version()}"

    def new_store(self, directory: Path) -> Connect:
        for name in ("available", "claimed", "completed"):
            (directory / name).mkdir(parents=True)
        return lambda: RenameSession(directory)
