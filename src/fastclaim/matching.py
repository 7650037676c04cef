"""Whether a task may be claimed, by what its own fields say; and which task comes first."""

from __future__ import annotations

import time

from .document import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Final, TypeAlias


ANY: Final = "any"
OLDEST: Final = "oldest"
PRIORITY: Final = "priority"
ORDERS: Final = (PRIORITY, OLDEST, ANY)

NUMBER: Final = int | float  # made once: that takes longer than to look
_EARLIEST_S: Final = 1e9  # 32 years, as a length of time

Task: TypeAlias = "dict[str, Any]"
Capabilities = tuple[object, ...]


def capabilities_in(given: Iterable[Any]) -> tuple[Any, ...]:
    """What a caller says that an agent can do; raises TypeError if that is no list of names."""
    try:
        named = tuple(given)
        hash(named)
    except TypeError:
        raise no_capabilities(given) from None
    if isinstance(given, str | bytes):  # of which the letters would be meant
        raise no_capabilities(given)
    return named


def check_order(order: object) -> None:
    """Raise ValueError if there is no such order."""
    if order not in ORDERS:
        raise ValueError(f"order {order!r} is none of {', '.join(ORDERS)}")


def no_capabilities(given: object) -> TypeError:
    """The error that `capabilities_in` raises."""
    return TypeError(f"capabilities is a list of names, not {given!r}")


def missing_capability(task: Task, capabilities: Sequence[object]) -> object:
    """A capability that the agent would need and has not; None if it has all.

    This is the original's matching, to the letter: any of ``requirements``, which an agent that
    names no capabilities need not meet; all of ``constraints.required_capabilities``, which every
    agent must meet.

    Raises
    ------
    TypeError
        The fields are not what can be matched; the original can do nothing with them either.
    """
    requirements = task.get("requirements")
    if requirements and capabilities:
        for requirement in requirements:
            if requirement in capabilities:
                break
        else:
            return " or ".join(f"{requirement}" for requirement in requirements)
    constraints = task.get("constraints")
    # Looked up only if it is "in" them: constraints need not be a dict.
    if constraints and "required_capabilities" in constraints:
        for capability in constraints["required_capabilities"]:
            if capability not in capabilities:
                return f"{capability}"
    return None


def deadline(task: Task) -> float | None:
    """``constraints.deadline`` in seconds since the epoch; None if it has none that counts."""
    constraints = task.get("constraints")
    if constraints and "deadline" in constraints:
        when = constraints["deadline"]
        if isinstance(when, NUMBER):
            return when
    return None


def names_in(task: Mapping[str, Any], field: str) -> list[object]:
    """The ids in ``blocked_by`` or the keys in ``exclusive``: a list, or one name.

    Raises
    ------
    TypeError
        It is neither.
    """
    value = task.get(field)
    if not value:
        return []
    if isinstance(value, list):
        return value
    if isinstance(value, tuple):  # of a caller who publishes
        return list(value)
    if isinstance(value, str | int):
        return [value]
    raise TypeError(f"{field} is not a list but {type(value).__name__}")


def not_before(task: Task) -> float:
    """When the task may be claimed at the earliest, seconds since the epoch.

    Raises
    ------
    ValueError
        It is no time.
    """
    value = task.get("not_before")
    if not value:
        return 0.0
    when = epoch_s(value)
    if when is None:
        raise ValueError(f"not_before {value!r} is no time")
    return when


def epoch_s(value: object) -> float | None:
    """A time as tasks hold it, a number or an ISO 8601 text, in seconds since the epoch."""
    if isinstance(value, NUMBER):
        return _finite(value)
    if isinstance(value, str):
        from datetime import datetime  # takes longer to import than the rest, and few need it

        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    return None


def is_length_of_time(value: object) -> bool:
    """Whether a number of seconds is surely none since the epoch: as a time, before September 2001.

    Nor is it a time that has long been over: by 0, or less, both would mean the same.
    """
    return isinstance(value, NUMBER) and 0 < value < _EARLIEST_S


def rank(task: Task, order: str) -> tuple[float, float]:
    """What tasks are sorted by, the first to be claimed first."""
    priority = task.get("priority") if order == PRIORITY else 0
    first = -_finite(priority) if isinstance(priority, NUMBER) else 0.0
    since_s = epoch_s(task.get("created_at"))
    if since_s is None:
        since_s = published_s(task)
    return first, time.time() if since_s is None else since_s


def published_s(task: Mapping[str, Any]) -> float | None:
    """When the pool took the task, seconds since the epoch: a document of ours has a mark of it."""
    taken_ns = published_ns(task)
    return None if taken_ns is None else taken_ns / 1e9


def published_ns(task: Mapping[str, Any]) -> int | None:
    """The same, as the mark has it, in nanoseconds."""
    try:
        return int(task[MARK].split()[2])
    except (KeyError, AttributeError, IndexError, ValueError):
        return None


def _finite(number: float) -> float:
    """As a float that compares with every other: NaN counts as 0, 10**400 as infinity."""
    try:
        value = float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")
    return 0.0 if value != value else value
