"""The arguments of a pool's verbs: what they must be, asked before anything is done."""

from __future__ import annotations

from . import layout, stamps
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
    """Raise InvalidName for what ``os.environ.get`` gives of a variable that is not there."""
    if agent_id is None:
        raise InvalidName("agent id None: a claim is somebody's")


def check_max_attempts(number: object) -> None:
    """Raise ValueError unless it is a positive whole number (or None)."""
    if number is not None:
        check_whole("max_attempts", number)
        if number < 1:  # type: ignore[operator]
            raise ValueError(f"max_attempts {number!r} is not positive")


def check_whole(name: str, number: object) -> None:
    """Raise ValueError unless it is a whole number."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{name} {number!r} is not a whole number")


def check_seconds(name: str, seconds: object, *, optional: bool = True) -> None:
    """Raise ValueError unless it is a number (or None): NaN would be neither past nor future."""
    if seconds is None and optional:
        return
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        try:
            if float(seconds) == seconds:
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


def as_task(
    task: str | Mapping[str, Any], description: str | None, fields: dict[str, Any]
) -> Mapping[str, Any]:
    """The task that `publish` is given, in whichever way; InvalidTask if it is none."""
    from collections.abc import Mapping

    if isinstance(task, Mapping):
        whole = {**task, **fields}
    elif isinstance(task, str | int):
        whole = {"task_id": task, **fields}
    else:
        raise InvalidTask(f"a task is a mapping or an id, not {type(task).__name__}")
    if description is not None:
        whole["description"] = description
    return whole
