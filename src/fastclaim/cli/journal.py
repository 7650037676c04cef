"""What each agent of a demo writes down: the evidence of what it claimed and completed.

A journal is `{pool}/demo/{agent_id}.jsonl`, one line an event, written at once and unbuffered, so
that what an agent did outlives it, even if it is killed:

    {"event": "ready", "pid": 4711, "core": "c"}
    {"event": "start", "at_ns": ...}                              the monotonic clock, one per host
    {"event": "claimed", "task_id": ..., "claim_token": "...", "claim_ns": ...}
                                                                  null: it had to wait for the task
    {"event": "completed", "task_id": ..., "claim_token": "..."}
    {"event": "end", "at_ns": ..., "waits": 3}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, Final, Self

DIRECTORY: Final = "demo"
SUFFIX: Final = ".jsonl"

READY: Final = "ready"
START: Final = "start"
CLAIMED: Final = "claimed"
COMPLETED: Final = "completed"
END: Final = "end"
BROKEN: Final = "broken"  # never written: what the reader makes of a line that is none of these

_COMPLETED_LINE: Final = b'{"event": "completed"'


def journal_file(base_dir: str | os.PathLike[str], agent_id: str) -> str:
    """Path of an agent's journal."""
    return os.path.join(base_dir, DIRECTORY, agent_id + SUFFIX)


class Journal:
    """An agent's own journal, new."""

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, event: str, **fields: object) -> None:
        """Append one event."""
        # No fsync: this has to outlive the process, not the host.
        os.write(self._descriptor, json.dumps({"event": event} | fields).encode() + b"\n")


def read_journal(path: str) -> list[dict[str, Any]]:
    """The events in a journal, in order; none if the agent never began one."""
    try:
        with open(path, "rb") as file:
            return [_parse(line) for line in file]
    except FileNotFoundError:
        return []


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and "event" in event and line.endswith(b"\n"):
        return event
    return {"event": BROKEN, "line": line.decode(errors="backslashreplace")}


class Tail:
    """Counts completions in journals that are still being written."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._read_bytes = dict.fromkeys(paths, 0)
        self.completed = 0

    def follow(self) -> int:
        """How many completions there are by now."""
        for path, read_bytes in self._read_bytes.items():
            try:
                with open(path, "rb") as file:
                    file.seek(read_bytes)
                    lines = file.read().rpartition(b"\n")[0]
            except FileNotFoundError:
                continue
            if lines:
                self._read_bytes[path] += len(lines) + 1
                self.completed += sum(
                    line.startswith(_COMPLETED_LINE) for line in lines.split(b"\n")
                )
        return self.completed
