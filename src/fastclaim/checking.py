"""What a caller may say in the fields that claims go by; asked before anything is published.

A claim bears with whatever stands in a task, as other hands may have written it, and takes it for
nothing or for what can never be met. Whoever publishes by a verb is told instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from .arguments import check_is_name
from .errors import InvalidTask
from .matching import NUMBER, epoch_s, is_length_of_time, names_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, Final, TypeAlias

    _Check: TypeAlias = tuple[Callable[[Any], bool], str]

# Made once: that takes longer than to look.
_NAME: Final = str | int
_LIST: Final = list | tuple
_MOST_SHOWN: Final = 80


def check_task(task: Mapping[str, Any]) -> None:
    """Raise InvalidTask unless this can be a task, with fields that are what claims take them for.

    The message names the field, its value, and what is expected.
    """
    if type(task) is not dict and not isinstance(task, Mapping):
        raise InvalidTask(f"a task is a mapping, not {type(task).__name__}")
    if "task_id" not in task:
        raise InvalidTask("the task has no task_id")
    task_id = task["task_id"]
    if type(task_id) is not str and not _is_name(task_id):
        raise InvalidTask(f"task_id is {_shown(task_id)}; expected a string", task_id)
    check_is_name("task id", task_id)
    _check(task, _FIELDS, "", task_id)
    if task.get("constraints"):
        _check(task["constraints"], _CONSTRAINTS, "constraints.", task_id)
    if task.get("blocked_by") and f"{task_id}" in _blockers(task):
        raise InvalidTask(f"task {task_id!r} waits for itself: blocked_by names it", task_id)


def checked(tasks: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The tasks of a batch, each once it is checked; at the end, whether some wait in a circle."""
    if isinstance(tasks, str | Mapping):
        raise InvalidTask("many tasks are an iterable of mappings, not one task")
    waits_for: dict[str, list[str]] = {}
    for task in tasks:
        check_task(task)
        if task.get("blocked_by"):
            waits_for[f"{task['task_id']}"] = _blockers(task)
        yield task
    check_circles(waits_for)


def check_circles(waits_for: Mapping[str, Iterable[str]]) -> None:
    """Raise InvalidTask if tasks, each with those that it waits for, wait in a circle."""
    circle = circle_in(waits_for)
    if circle:
        raise in_a_circle(circle)


def circle_in(waits_for: Mapping[str, Iterable[str]]) -> list[str]:
    """Tasks of which each waits for the next, and the last for the first; empty without any."""
    if not waits_for:
        return []
    from graphlib import CycleError, TopologicalSorter  # few tasks wait

    try:
        TopologicalSorter(waits_for).prepare()
    except CycleError as error:
        return list(reversed(error.args[1][1:]))
    return []


def in_a_circle(circle: Sequence[str]) -> InvalidTask:
    """What is wrong with the first task of a circle."""
    named = " after ".join([*circle, circle[0]])
    return InvalidTask(f"task {circle[0]!r} waits for itself: {named}", circle[0])


def _blockers(task: Mapping[str, Any]) -> list[str]:
    return [f"{name}" for name in names_in(task, "blocked_by")]


def _check(
    fields: Mapping[str, Any], checks: Mapping[str, _Check], prefix: str, task_id: object
) -> None:
    for name in fields:
        if name in checks and not checks[name][0](fields[name]):
            expected = checks[name][1]
            raise InvalidTask(
                f"task {task_id!r}: {prefix}{name} is {_shown(fields[name])}; expected {expected}",
                task_id,
            )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _is_name(value: object) -> bool:
    """Whether it can be an id, a key or a capability: a number is one as it is written."""
    return isinstance(value, _NAME) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    if not isinstance(value, _LIST):
        return False
    for name in value:  # noqa: SIM110  all() takes twice as long
        if type(name) is not str and not _is_name(name):
            return False
    return True


def _is_list_or_none(value: object) -> bool:
    return value is None or _is_list(value)


def _is_list_or_one(value: object) -> bool:
    """What is empty names nothing, and nobody means that by a single name."""
    return value is None or _is_list(value) or (_is_name(value) and bool(value))


def _is_number(value: object) -> bool:
    if not isinstance(value, NUMBER):
        return value is None
    return value == value  # NaN is none


def _is_time(value: object) -> bool:
    return _is_number(value) or (isinstance(value, str) and epoch_s(value) is not None)


def _is_moment(value: object) -> bool:
    return _is_time(value) and not is_length_of_time(value)


def _is_count(value: object) -> bool:
    return value is None or (type(value) is int and value > 0)


def _is_dict_or_none(value: object) -> bool:
    return value is None or isinstance(value, dict)


_TIME: Final = "seconds since the epoch or an ISO 8601 text"
_MOMENT: Final = "an ISO 8601 text, such as 2030-01-31T12:00Z, or seconds since the epoch"
_CAPABILITIES: Final = 'a list of capabilities, such as ["python"]'

_FIELDS: Final[Mapping[str, _Check]] = {
    "requirements": (_is_list_or_none, _CAPABILITIES),
    "constraints": (_is_dict_or_none, "a dict"),
    "priority": (_is_number, "a number"),
    "created_at": (_is_time, _TIME),
    "not_before": (_is_moment, _MOMENT),
    "blocked_by": (_is_list_or_one, "a list of task ids"),
    "exclusive": (_is_list_or_one, "a list of keys"),
    "max_attempts": (_is_count, "a whole number from 1 on"),
}
_CONSTRAINTS: Final[Mapping[str, _Check]] = {
    "required_capabilities": (_is_list, _CAPABILITIES),
    "deadline": (_is_number, "seconds since the epoch"),
}
