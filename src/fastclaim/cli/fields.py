"""Fields of tasks, of which anybody may have written anything, and values that users give."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ..matching import epoch_s, published_s
from ..stamps import positive_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Never


def _constant(text: str) -> Never:
    raise ValueError(f"{text} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


# Python's json alone takes NaN and Infinity, and makes such of large numbers: no other program
# could read an answer with them.
_DECODER: Final = json.JSONDecoder(parse_constant=_constant, parse_float=_finite)


def json_value(text: str) -> Any:
    """What a JSON text says.

    Raises
    ------
    ValueError
        It is none, or Python cannot read it, or nobody else can.
    RecursionError
        It is nested deeper than Python goes.
    """
    return _DECODER.decode(text)


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
