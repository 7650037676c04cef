"""Fields of tasks, of which anybody may have written anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..document import MARK


def moment(task: Mapping[str, Any], name: str) -> float | None:
    """A time in seconds since the epoch; None if the field is not one."""
    value = task.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if abs(value) < float("inf") else None  # nor NaN


def published(task: Mapping[str, Any]) -> float | None:
    """When it was published, in seconds since the epoch: what it says, or what its sector says."""
    created_s = moment(task, "created_at")
    if created_s is not None:
        return created_s
    mark = task.get(MARK)
    numbers = mark.split() if isinstance(mark, str) else []
    return int(numbers[2]) / 1e9 if len(numbers) > 2 and numbers[2].isdecimal() else None


def attempts(task: Mapping[str, Any]) -> int:
    """How many claims of the task failed."""
    value = task.get("attempts")
    return value if isinstance(value, int) else 0


def failures(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """How they failed, in order."""
    value = task.get("failures")
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def holder(task: Mapping[str, Any]) -> str | None:
    """The agent that has it, or had it."""
    return f"{task['claimed_by']}" if "claimed_by" in task else None
