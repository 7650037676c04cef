"""A JSONL file of tasks: one JSON object a line, told apart by its `task_id`.

All or nothing, unless told otherwise: the first line that cannot be a task ends the reading, and is
named.
"""

from __future__ import annotations

import io
import json
import os
from typing import IO, Any, Final, NamedTuple

from ..document import json_name
from ..errors import TaskPoolError
from .exits import INVALID, BadInput, Refusal, status_of
from .fields import json_value
from .streams import standard_input

_BOM: Final = b"\xef\xbb\xbf"
_PATH_MISTAKES: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class TaskFile(NamedTuple):
    """What stands in a file of tasks."""

    path: str
    tasks: list[dict[str, Any]]
    lines: dict[str, int]  # where each task stands: by its id, as it becomes part of a file name
    problems: list[Refusal]  # lines that are no tasks; none unless they were to be passed over

    def refuse(self, error: TaskPoolError) -> Refusal:
        """What to raise when the pool does not take one of these tasks: it names the line."""
        line = self.lines.get(f"{error.task_id}")
        where = self.path if line is None else f"{self.path}:{line}"
        return Refusal(status_of(error), f"{where}: {error}")


def read_task_file(path: str | os.PathLike[str], keep_going: bool = False) -> TaskFile:
    """Read the tasks of a JSONL file; empty lines are passed over.

    Parameters
    ----------
    path : str or os.PathLike
        The file; "-" is the standard input.
    keep_going : bool
        Whether to pass over lines that are no tasks, and list them, instead of refusing the file.

    Raises
    ------
    Refusal
        There is no such file, or a line of it is not a task, or it has none.
    OSError
        It cannot be read.
    """
    if path == "-":
        found = _read(io.BytesIO(standard_input()), "standard input", keep_going)
    else:
        try:
            # As bytes: str.splitlines() would also end a line where a JSON string has U+2028.
            with open(path, "rb") as file:
                found = _read(file, os.fspath(path), keep_going)
        except _PATH_MISTAKES as error:
            raise BadInput(f"{os.fspath(path)}: {error.strerror}") from error
    if not found.tasks and not found.problems:
        raise BadInput(f"{found.path}: no tasks in it")
    return found


def _read(file: IO[bytes], name: str, keep_going: bool) -> TaskFile:
    found = TaskFile(name, [], {}, [])
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(_BOM)
        if not line.strip():
            continue
        try:
            _add(found, number, line)
        except Refusal as problem:
            if not keep_going:
                raise
            found.problems.append(problem)
    return found


def _add(found: TaskFile, number: int, line: bytes) -> None:
    try:
        task = _parse(line)
        name = f"{task['task_id']}"
        if name in found.lines:
            raise ValueError(f"task_id {name!r} stands on line {found.lines[name]} already")
    except ValueError as error:
        raise Refusal(INVALID, f"{found.path}:{number}: {error}") from error
    found.tasks.append(task)
    found.lines[name] = number


def _parse(line: bytes) -> dict[str, Any]:
    """The task on a line; raises ValueError with a message that says what it is instead."""
    try:
        # Without its end, at which json would count a column of the next line.
        task = json_value(line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1} of the line") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        # An integer of more digits than Python takes; nested deeper than Python goes; NaN.
        raise ValueError(f"not JSON that can be read: {error}") from error
    if not isinstance(task, dict):
        raise ValueError(f"not a JSON object but {json_name(task)}")
    if "task_id" not in task:
        raise ValueError("the task has no task_id")
    task_id = task["task_id"]
    if not isinstance(task_id, str | int) or isinstance(task_id, bool):
        raise ValueError(f"task_id is not a string but {json_name(task_id)}")
    return task
