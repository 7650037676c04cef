"""What is in a pool: reading tasks and names, changing nothing."""

from __future__ import annotations

import json
import os

from . import layout
from .directories import Directories
from .document import START_BYTES, json_name, may_be_object, scan_value
from .errors import InvalidTask
from .tasks_directory import TasksDirectory
from .transition import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Set
    from typing import Any, Final

    from .literals import State

# A reader that meets a stamp in mid-write sees half of it; the write takes under a microsecond.
_READ_TRIES: Final = 3


def read_task(path: str | bytes, tasks: TasksDirectory | None = None) -> dict[str, Any]:
    """The task in a file, as Python's json reads it.

    Parameters
    ----------
    path : str or bytes
        Where; in the directory `tasks`, if that is given.

    Raises
    ------
    FileNotFoundError
        It is not there.
    InvalidTask
        What is there is no regular file, or no JSON object; the message says which.
    OSError
        The system refused.
    """
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    problem = ""
    for _ in range(_READ_TRIES):
        try:
            task = _parse(_read_regular_file(path, tasks).decode("utf-8"))
        except InvalidTask:
            raise  # says all there is to say
        except (ValueError, RecursionError) as error:
            problem = f"not JSON: {error}"
            continue
        if not isinstance(task, dict):
            raise InvalidTask(f"{path} is not a JSON object but {json_name(task)}")
        return task
    raise InvalidTask(f"{path} is {problem}")


def _parse(text: str) -> Any:
    """As `json.loads` does, which takes half as long again for a small task."""
    if text.startswith("{"):
        try:
            value, end = scan_value(text, 0)
        except StopIteration:
            pass  # `json.loads` knows better words for it
        else:
            if not text[end:].strip(" \t\n\r"):
                return value
    return json.loads(text)


def _read_regular_file(path: str, tasks: TasksDirectory | None) -> bytes:
    content = core.read(path, START_BYTES, tasks)
    if content is not None and len(content) == START_BYTES and may_be_object(content):
        content = core.read(path, os.lstat(path).st_size)
    if content is None:
        raise InvalidTask(f"{path} is not a regular file")
    if not may_be_object(content):
        raise InvalidTask(f"{path} is {_what_else(content)}")
    return content


def _what_else(start: bytes) -> str:
    """What a text is that is no object."""
    if len(start) == START_BYTES:
        return "not a JSON object"  # for more words it would have to be read to its end
    try:
        value = json.loads(start.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return f"not a JSON object but {json_name(value)}"


def task_files(directory: bytes) -> Iterator[str]:
    """Paths of the tasks in one state's directory, as the directory gives them."""
    try:
        entries = os.scandir(os.fsdecode(directory))
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if entry.name.endswith(layout.TASK_SUFFIX):
                yield entry.path


def states_of(pool: Directories, task_id: object) -> Iterator[tuple[State, dict[str, Any]]]:
    """Each state that a task is in, and the task as it is there.

    It can be in two: one that is claimed or completed may have been published again.

    Raises
    ------
    InvalidTask, InvalidName
        What is there cannot be read as a task, or the id cannot be part of a file name.
    OSError
        The system refused.
    """
    # In the order in which tasks move on, so that none slips past.
    for state in layout.STATES:
        if state == layout.CLAIMED:
            yield from ((state, task) for task in claims_of(pool, task_id))
            continue
        try:
            yield state, read_task(getattr(pool, f"{state}_file")(task_id))
        except FileNotFoundError:
            pass  # it is in another state, or in none


def claims_of(pool: Directories, task_id: object) -> Iterator[dict[str, Any]]:
    """The claims of one task that stand in claimed/ and can be read."""
    prefix = os.path.join(os.fsdecode(pool.claimed), f"{task_id}_")
    for path in task_files(pool.claimed):
        if path.startswith(prefix):
            try:
                task = read_task(path)
            except (FileNotFoundError, InvalidTask):
                continue
            # The name alone can belong to another task: "a" and "b_c", "a_b" and "c".
            if f"{task.get('task_id', task_id)}" == f"{task_id}":
                yield task


def claims_by(pool: Directories, agent_id: object) -> Iterator[dict[str, Any]]:
    """The claims of one agent that stand in claimed/ and can be read."""
    suffix = f"_{agent_id}{layout.TASK_SUFFIX}"
    for path in task_files(pool.claimed):
        if path.endswith(suffix):
            try:
                task = read_task(path)
            except (FileNotFoundError, InvalidTask):
                continue
            # The name alone can be another agent's: "b" and "a_b".
            if f"{task.get('claimed_by', agent_id)}" == f"{agent_id}":
                yield task


def is_seen_at_once(pool: Directories, task_id: object) -> bool:
    """Whether a task of this id waits or has ended; a claim of it would have to be looked for."""
    return (
        _is_there(pool.available_file(task_id))
        or _is_there(pool.completed_file(task_id))
        or _is_there(pool.failed_file(task_id))
    )


def known_among(pool: Directories, task_ids: Set[str]) -> set[str]:
    """Those of which a task is in the pool, in whatever state."""
    # In the order in which tasks move on, so that none slips past.
    known = {task_id for task_id in task_ids if _is_there(pool.available_file(task_id))}
    if known == task_ids:
        return known
    prefixes = tuple(f"{task_id}_" for task_id in task_ids)
    for path in task_files(pool.claimed):
        name = os.path.basename(path)
        if name.startswith(prefixes):
            known |= _claimed_id(path, name, task_ids)
    for task_id in task_ids - known:
        if _is_there(pool.completed_file(task_id)) or _is_there(pool.failed_file(task_id)):
            known.add(task_id)
    return known


def _claimed_id(path: str, name: str, task_ids: Set[str]) -> set[str]:
    try:
        task = read_task(path)
    except (FileNotFoundError, InvalidTask):
        return set()
    if "task_id" in task:
        return {f"{task['task_id']}"} & task_ids
    return {task_id for task_id in task_ids if name.startswith(f"{task_id}_")}


def _is_there(path: bytes) -> bool:
    try:
        os.lstat(os.fsdecode(path))
    except FileNotFoundError:
        return False
    return True


def known_ids(pool: Directories) -> set[str]:
    """The ids of all tasks in the pool, in whatever state."""
    # In the order in which tasks move on, so that none slips past.
    known = _stems(pool.available, layout.TASK_SUFFIX)
    for path in task_files(pool.claimed):
        try:
            task = read_task(path)
        except (FileNotFoundError, InvalidTask):
            continue
        known.add(f"{task.get('task_id')}")
    done = _stems(pool.completed, layout.COMPLETED_SUFFIX)
    return known | done | _stems(pool.failed, layout.FAILED_SUFFIX)


def _stems(directory: bytes, suffix: str) -> set[str]:
    names = (os.path.basename(path) for path in task_files(directory))
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
