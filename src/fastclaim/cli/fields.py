"""Fields of tasks, of which anybody may have written anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..matching import epoch_s, published_s
from ..stamps import positive_int


def moment(task: Mapping[str, Any], name: str) -> float | None:
    """A time in seconds since the epoch; None if the field is not one."""
    value = task.get(name)
    if isinstance(value, bool) or value != value:  # NaN
        return None
    moment_s = epoch_s(value)
    return moment_s if moment_s is not None and math.isfinite(moment_s) else None


def published(task: Mapping[str, Any]) -> float | None:
    """When it was published, in seconds since the epoch: what it says, or what its sector says."""
    created_s = moment(task, "created_at")
    return published_s(task) if created_s is None else created_s


def attempts(task: Mapping[str, Any]) -> int:
    """How many claims of the task failed."""
    return positive_int(task.get("attempts"))


def failures(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """How they failed, in order."""
    value = task.get("failures")
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def holder(task: Mapping[str, Any]) -> str | None:
    """The agent that has it, or had it."""
    return f"{task['claimed_by']}" if "claimed_by" in task else None
