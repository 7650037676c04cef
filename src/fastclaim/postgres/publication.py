"""From a caller's dict to a row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .. import layout
from ..document import ENFORCEMENT, ENFORCEMENT_CLAIM_FIELDS, MANAGED_FIELDS, NOT_BEFORE
from ..errors import InvalidName, InvalidTask
from ..matching import epoch_s
from ..stamps import positive_int
from ..tokens import new_token
from .address import lock_number

# What is written when a task is published, and its types; triggers write the rest.
COLUMNS: Final = {
    "task_id": "text",
    "publication": "text",
    "payload": "text",
    "enforcement": "text",
    "lane": "int8",
    "requirements": "text[]",
    "required": "text[]",
    "priority": "float8",
    "created_at": "float8",
    "not_before": "float8",
    "blocked_by": "text[]",
    "deadline": "float8",
    "exclusive": "text[]",
    "max_attempts": "int4",
}
# What no agent can do: capabilities are compared as JSON texts, and this is none.
_UNREADABLE: Final = "not a list"
# Characters; an index takes 2,704 bytes, and no task's id is as long as that.
_LONGEST_NAME: Final = 512


def row(task: Mapping[str, Any], suffix: str = layout.COMPLETED_SUFFIX) -> tuple[Any, ...]:
    """The values of `COLUMNS` for a task: everything that could refuse it has been asked.

    Parameters
    ----------
    task : Mapping
        The task; `task_id` names it.
    suffix : str
        What its file's name would end in: that must not become too long.

    Raises
    ------
    InvalidTask
        Not JSON-serialisable.
    InvalidName
        The id could not be part of a file name: a pool can move to a directory at any time.
    """
    task_id = task["task_id"]
    key = task_key(task_id, suffix)
    enforcement = task.get(ENFORCEMENT)
    if not isinstance(task.get(ENFORCEMENT, {}), dict):
        raise InvalidTask(f"task {task_id!r}: {ENFORCEMENT} is not a dict", task_id)
    try:
        not_before_s = _not_before_s(task.get(NOT_BEFORE))
        # Also `not_before` as it was given: the column has but a number.
        payload = json.dumps(
            {name: task[name] for name in task if name not in MANAGED_FIELDS or name == NOT_BEFORE}
        )
        if enforcement is not None:
            enforcement = json.dumps(
                {n: v for n, v in enforcement.items() if n not in ENFORCEMENT_CLAIM_FIELDS}
            )
        constraints = task.get("constraints")
        if not isinstance(constraints, Mapping):
            constraints = {}
        requirements = capability_keys(task.get("requirements") or ())
        required = capability_keys(constraints.get("required_capabilities") or ())
        blocked_by, exclusive = (_texts(task.get(name)) for name in ("blocked_by", "exclusive"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(f"task {task_id!r} is not JSON-serialisable: {error}", task_id) from error
    return (
        key,
        new_token(),
        payload,
        enforcement,
        lane(requirements, required),
        requirements,
        required,
        _number(task.get("priority")) or 0.0,
        epoch_s(task.get("created_at")),
        not_before_s,
        blocked_by,
        _number(constraints.get("deadline")),
        exclusive,
        _most_attempts(task.get("max_attempts")),
    )


def lane(requirements: list[str], required: list[str]) -> int:
    """The number of the lane of tasks that ask for just these capabilities."""
    return lock_number(json.dumps([requirements, required]))


def capability_keys(capabilities: object) -> list[str]:
    """Capabilities as JSON texts, sorted: so 7 and "7" are different ones, as they are in Python.

    Raises
    ------
    TypeError, ValueError
        One of them is not JSON-serialisable.
    """
    if not isinstance(capabilities, Iterable):
        return [_UNREADABLE]
    return sorted({json.dumps(capability) for capability in capabilities})


def task_key(task_id: object, suffix: str = layout.COMPLETED_SUFFIX) -> str:
    """What a task is called in the table: as in its file's name; raises InvalidName."""
    return _name(f"{task_id}", suffix, f"task id {task_id!r}", task_id)


def agent_key(task_id: object, agent_id: object) -> str:
    """What an agent that claims the task is called in the table; raises InvalidName."""
    what = f"task id {task_id!r} with agent id {agent_id!r}"
    _name(f"{task_id}_{agent_id}", layout.TASK_SUFFIX, what, task_id)
    return f"{agent_id}"


def check_agent_key(agent_id: object) -> None:
    """Raise InvalidName if an agent can claim no task, of whatever id."""
    _name(f"_{agent_id}", layout.TASK_SUFFIX, f"agent id {agent_id!r}", None)


def agent_json(agent_id: object) -> str:
    """An agent's id as JSON; raises InvalidTask."""
    try:
        return json.dumps(agent_id)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(f"agent id {agent_id!r} is not JSON-serialisable: {error}") from error


def _name(name: str, suffix: str, what: str, task_id: object) -> str:
    try:
        layout.encode_name(name + suffix)
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidName(f"{what}: cannot be encoded as utf-8", task_id) from None
    except ValueError as error:
        raise InvalidName(f"{what}: {error}", task_id) from None
    return name


def _not_before_s(value: object) -> float | None:
    """What is no time is NaN, which PostgreSQL sorts after all times: it never comes."""
    if not value:
        return None
    when_s = epoch_s(value)
    return math.nan if when_s is None else when_s


def _number(value: object) -> float | None:
    """A number as PostgreSQL orders it, or None for what is none."""
    if not isinstance(value, int | float) or value != value:
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _most_attempts(value: object) -> int | None:
    return min(positive_int(value), 2**31 - 1) or None


def _texts(value: object) -> list[str] | None:
    """Ids or keys, formatted as in file names and sorted: two claims take them in one order."""
    names = value if isinstance(value, list | tuple) else [value]
    if not value or not all(isinstance(name, str | int | float) for name in names):
        return None
    return sorted({indexable(f"{name}") for name in names})


def plain_text(value: object) -> str:
    """A text as PostgreSQL can store it: without NUL and lone surrogates."""
    return f"{value}".replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def indexable(name: str) -> str:
    """A name as a text that an index can hold: of a long one its start, and a hash of all."""
    text = plain_text(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}...{lock_number(name):x}"
