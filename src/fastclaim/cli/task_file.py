"""A JSONL file of tasks: one JSON object a line, told apart by its `task_id`.

All or nothing: the first line that cannot be a task ends the reading, and is named.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final, NamedTuple

from ..errors import InvalidName, InvalidTask
from .exits import BadInput

_BOM: Final = b"\xef\xbb\xbf"
_PATH_MISTAKES: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class TaskFile(NamedTuple):
    """What stands in a file of tasks."""

    path: str
    tasks: list[dict[str, Any]]
    lines: dict[str, int]  # where each task stands: by its id, as it becomes part of a file name

    def refuse(self, error: InvalidName | InvalidTask) -> BadInput:
        """What to raise when the pool cannot take one of these tasks: it names the line."""
        line = self.lines.get(f"{error.task_id}")
        where = self.path if line is None else f"{self.path}:{line}"
        return BadInput(f"{where}: {error}")


def read_task_file(path: str | os.PathLike[str]) -> TaskFile:
    """Read the tasks of a JSONL file; empty lines are passed over.

    Raises
    ------
    BadInput
        There is no such file, or a line of it is not a task, or it has none.
    OSError
        It cannot be read.
    """
    found = TaskFile(os.fspath(path), [], {})
    try:
        # As bytes: str.splitlines() would also end a line where a JSON string has U+2028.
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                if line.strip():
                    _add(found, number, line)
    except _PATH_MISTAKES as error:
        raise BadInput(f"{found.path}: {error.strerror}") from error
    if not found.tasks:
        raise BadInput(f"{found.path}: no tasks in it")
    return found


def _add(found: TaskFile, number: int, line: bytes) -> None:
    try:
        task = _parse(line)
        name = f"{task['task_id']}"
        if name in found.lines:
            raise ValueError(f"task_id {name!r} stands on line {found.lines[name]} already")
    except ValueError as error:
        raise BadInput(f"{found.path}:{number}: {error}") from error
    found.tasks.append(task)
    found.lines[name] = number


def _parse(line: bytes) -> dict[str, Any]:
    """The task on a line; raises ValueError with a message that says what it is instead."""
    try:
        # Without its end, at which json would count a column of the next line.
        task = json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1} of the line") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        # An integer of more digits than Python takes; nested deeper than Python goes.
        raise ValueError(f"not JSON that Python can read: {error}") from error
    if not isinstance(task, dict):
        raise ValueError(f"not a JSON object but {_JSON_NAMES[type(task)]}")
    if "task_id" not in task:
        raise ValueError("the task has no task_id")
    task_id = task["task_id"]
    if not isinstance(task_id, str | int) or isinstance(task_id, bool):
        raise ValueError(f"task_id is not a string but {_JSON_NAMES[type(task_id)]}")
    return task


_JSON_NAMES: Final = {
    list: "an array",
    dict: "an object",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
