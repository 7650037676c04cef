"""Tasks as people want to see them: columns, and lengths of time instead of time stamps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..document import FAILURES
from ..layout import FAILED
from ..matching import published_s
from .answer import told
from .exits import one_line
from .fields import failures, moment
from .output import Row, screen

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"))
_MAX_TEXT: Final = 60

# What a table of tasks leaves out: to be seen with `fastclaim show`.
_COLUMNS: Final = ("task", "priority", "agent", "since", "attempts", "description")
_ERROR: Final = "last error"


def ago(moment_s: object, now_s: float | None = None) -> str:
    """How long ago something was, such as ``3m 20s``; "-" if nobody knows when it was."""
    if not isinstance(moment_s, int | float) or isinstance(moment_s, bool):
        return "-"
    return length((time.time() if now_s is None else now_s) - moment_s)


def length(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = max(0, int(seconds)) if seconds < float("inf") else 0
    for number, (size, unit) in enumerate(_UNITS):
        if left >= size:
            smaller_size, smaller = [*_UNITS, (1, "s")][number + 1]
            return f"{left // size}{unit} {left % size // smaller_size}{smaller}"
    return f"{left}s"


def when(moment_s: float) -> str:
    """A moment, given in seconds since the epoch, by the calendar and the clock of here."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_s))
    except (ValueError, OverflowError, OSError):
        return f"{moment_s:g} s after 1970"  # no calendar goes that far


def print_task(state: str, task: Mapping[str, Any]) -> None:
    """One task, field by field, under a heading that says its state."""
    out = screen()
    out.good(f"{state} {_text(task.get('task_id'))}")
    shown = ((name, value) for name, value in told(task).items() if name != "task_id")
    out.rows([row for name, value in shown for row in _field(name, value)])


def _field(name: str, value: Any) -> list[Row]:
    """A field in one row; `failures`, if they are of our making, in one each."""
    if name == FAILURES and value and failures({name: value}) == value:
        return [_failure(failure) for failure in value]
    return [Row(one_line(name), _moment_or_text(name, value))]


def _failure(failure: Mapping[str, Any]) -> Row:
    at_s, agent_id = moment(failure, "at"), failure.get("agent")
    known = [
        *([] if at_s is None else [when(at_s)]),
        *([] if agent_id is None else [_text(agent_id)]),
    ]
    return Row("failure", _text(failure.get("error")), ", ".join(known))


def _moment_or_text(name: str, value: object) -> str:
    return when(value) if name in _TIMES and isinstance(value, int | float) else _text(value)


def print_tasks(tasks: Iterable[Mapping[str, Any]], nothing: str) -> None:
    """Tasks, one a line, in columns; a sentence where there are none."""
    found = list(tasks)
    rows = [_row(task) for task in found]
    # Of who lists tasks that were given up: why they were comes first.
    if rows and all(task.get("status") == FAILED for task in found):
        errors = [_cut(_last_error(task)) for task in found]
        rows = [(*row[:-1], error, row[-1]) for row, error in zip(rows, errors, strict=True)]
        screen().table((*_COLUMNS[:-1], _ERROR, _COLUMNS[-1]), rows)
    elif rows:
        screen().table(_COLUMNS, rows)
    else:
        screen().say(nothing)


def _row(task: Mapping[str, Any]) -> tuple[str, ...]:
    since_s = next(
        (task[name] for name in _MOMENTS if isinstance(task.get(name), int | float)),
        published_s(task),
    )
    return (
        _text(task.get("task_id")),
        _text(task.get("priority", "")),
        _text(task.get("claimed_by", "")),
        ago(since_s),
        _text(task.get("attempts", "")),
        _cut(task.get("description", "")),
    )


def _last_error(task: Mapping[str, Any]) -> object:
    return next((failure.get("error", "") for failure in reversed(failures(task))), "")


def _cut(value: object) -> str:
    text = _text(first_line(value))
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


_TIMES: Final = (
    "created_at",
    "claimed_at",
    "completed_at",
    "failed_at",
    "lease_expires_at",
    "not_before",
)

# The latest first: each says since when the task is in its state.
_MOMENTS: Final = ("completed_at", "failed_at", "claimed_at", "created_at")


def first_line(value: object) -> object:
    """The first line of a text; what is no text stays as it is."""
    return value.strip().partition("\n")[0] if isinstance(value, str) else value


def _text(value: object) -> str:
    """A value of JSON in one line: an id or a text may hold what a terminal would obey."""
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
