"""The arguments of a pool's verbs: what they must be, asked before anything is done."""

from __future__ import annotations

import math

from . import layout, stamps
from .document import NOT_TO_BE_GIVEN
from .errors import InvalidName, InvalidTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def check_agent_id(agent_id: object) -> None:
    """Raise InvalidName or InvalidTask if no claim can be made for this id, of whatever task."""
    check_is_agent(agent_id)
    try:
        layout.encode_name(f"_{agent_id}{layout.TASK_SUFFIX}")
    except ValueError as error:
        raise InvalidName(f"agent id {agent_id!r}: {error}") from None
    stamps.claim_stamp(agent_id, stamps.UNTIL_ENDED)


def check_is_agent(agent_id: object) -> None:
    """Raise InvalidName unless it is a name; None is what an unset variable's `get` gives."""
    if agent_id is None:
        raise InvalidName("agent id None: a claim is somebody's")
    check_is_name("agent id", agent_id)


def check_is_name(kind: str, value: object) -> None:
    """Raise InvalidName unless it is text, or a whole number, and one and the same everywhere."""
    if type(value) is str:
        return
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InvalidName(f"{kind} {value!r} is neither text nor a whole number")
    if isinstance(value, str) and f"{value}" != str.__str__(value):
        # An Enum's member, say: files would be named by the one, and JSON hold the other.
        raise InvalidName(f"{kind} {value!r} is {str.__str__(value)!r}, but prints as '{value}'")


def check_place(base_dir: str) -> None:
    """Raise ValueError unless a pool can be there: in a directory, or on PostgreSQL."""
    if base_dir == "":
        raise ValueError("the name of the pool's directory is empty")
    scheme, separator, _ = base_dir.partition(":")
    is_meant_as_url = f"{scheme}://" in layout.URL_PREFIXES or "://" in base_dir
    if separator and is_meant_as_url and not layout.is_url(base_dir):
        # Not the whole of it: there may be a password inside.
        raise ValueError(f"a pool is a directory, or a postgresql:// URL, not one of {scheme!r}")


def check_text(name: str, value: object) -> None:
    """Raise TypeError unless it is text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} {value!r} is not text")


def check_max_attempts(number: object) -> None:
    """Raise ValueError unless it is a positive whole number (or None)."""
    if number is not None:
        check_whole("max_attempts", number)
        if number < 1:  # type: ignore[operator]
            raise ValueError(f"max_attempts {number!r} is not positive")


def check_whole(name: str, number: object, *, least: float = -math.inf) -> None:
    """Raise ValueError unless it is a whole number, and not below `least`."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{name} {number!r} is not a whole number")
    if number < least:
        raise ValueError(f"{name} {number!r} is less than {least}")


def check_seconds(
    name: str, seconds: object, *, optional: bool = True, least: float = -math.inf
) -> None:
    """Raise ValueError unless it is a number (or None), and not below `least`.

    NaN is refused: it would be neither past nor future.
    """
    if seconds is None and optional:
        return
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        try:
            if float(seconds) == seconds:
                if seconds < least:
                    raise ValueError(f"{name} {seconds!r} is less than {least}")
                return
        except OverflowError:
            pass  # more than a float can hold
    raise ValueError(f"{name} {seconds!r} is not a number of seconds")


def check_moment(name: str, at_s: object) -> None:
    """Raise ValueError unless it is a time in seconds since the epoch (or None)."""
    if at_s is None:
        return
    check_seconds(name, at_s)
    from .matching import is_length_of_time  # here: few give a time

    if is_length_of_time(at_s):
        raise ValueError(
            f"{name} {at_s!r} is a length of time;"
            f" expected seconds since the epoch, such as time.time() + {at_s!r}"
        )


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raise InvalidTask if one of a new task's fields is not the caller's to give."""
    for name in fields:
        if name in NOT_TO_BE_GIVEN:
            raise InvalidTask(f"the field {name!r} is the pool's own: give it another name")


def as_task(
    task: str | Mapping[str, Any], description: str | None, fields: dict[str, Any]
) -> Mapping[str, Any]:
    """The task that `publish` is given, in whichever way; InvalidTask if it is none."""
    from collections.abc import Mapping

    check_fields(fields)
    if isinstance(task, Mapping):
        whole = {**task, **fields}
    elif isinstance(task, str | int):
        if "task_id" in fields:
            raise InvalidTask(f"task {task!r} is given a second id, {fields['task_id']!r}", task)
        whole = {"task_id": task, **fields}
    else:
        raise InvalidTask(f"a task is a mapping or an id, not {type(task).__name__}")
    if description is not None:
        whole["description"] = description
    return whole
