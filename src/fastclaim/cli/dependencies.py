"""Whether tasks that wait for each other can all be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..checking import check_circles
from ..errors import InvalidTask
from ..matching import names_in


def check_dependencies(tasks: Iterable[Mapping[str, Any]]) -> None:
    """Raise InvalidTask if a task could never be claimed, as nobody completes what it waits for."""
    dependencies = {f"{task['task_id']}": _blocked_by(task) for task in tasks}
    for task_id, names in dependencies.items():
        for name in names:
            if name not in dependencies:
                raise InvalidTask(f"task {task_id!r} is blocked by {name!r}, no task here", task_id)
    check_circles(dependencies)


def _blocked_by(task: Mapping[str, Any]) -> list[str]:
    try:
        return [f"{name}" for name in names_in(dict(task), "blocked_by")]
    except TypeError as error:
        raise InvalidTask(f"task {task['task_id']!r}: {error}", task["task_id"]) from None
