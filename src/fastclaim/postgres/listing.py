"""What is in a pool: reading tasks and numbers, changing nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ..layout import AVAILABLE, CLAIMED, COMPLETED, FAILED, STATES
from .documents import COLUMNS, Row
from .publication import plain_text

if TYPE_CHECKING:
    from ..literals import State
    from .database import Database

_PAGE: Final = 500

# As the partial indexes have them: a pool keeps far more completed tasks than others.
_READY: Final = "state = 'available' AND NOT delayed AND NOT blocked"
_DELAYED: Final = "state = 'available' AND delayed AND NOT blocked"
_BLOCKED: Final = "state = 'available' AND blocked"
_WHERE: Final = {
    AVAILABLE: (_READY, _DELAYED, _BLOCKED),
    CLAIMED: ("state = 'claimed'",),
    FAILED: ("state = 'failed'",),
}
_IDS: Final = {
    state: " UNION ALL ".join(f"SELECT task_id FROM {{schema}}.tasks WHERE {w}" for w in wheres)
    for state, wheres in _WHERE.items()
}
_SOME: Final = f"""
SELECT {COLUMNS} FROM {{schema}}.tasks t
WHERE t.task_id = ANY(%(ids)s) AND t.state = %(state)s
"""
_COMPLETED: Final = f"""
SELECT t.task_id, {COLUMNS} FROM {{schema}}.tasks t
WHERE t.state = 'completed' AND (%(after)s::text IS NULL OR t.task_id > %(after)s)
ORDER BY t.task_id LIMIT {_PAGE}
"""
_NUMBERS: Final = ", ".join(
    " + ".join(f"(SELECT count(*) FROM {{schema}}.tasks WHERE {w})" for w in _WHERE[state])
    for state in (AVAILABLE, CLAIMED, FAILED)
)
_COUNTS: Final = f"SELECT {_NUMBERS}, (SELECT count(*) FROM {{schema}}.tasks)"
_MINE: Final = f"""
SELECT {COLUMNS} FROM {{schema}}.tasks t WHERE t.state = 'claimed' AND t.agent = %s
ORDER BY t.claimed_at
"""
_OLDEST: Final = """
SELECT task_id, created_at FROM {schema}.tasks WHERE state = 'available'
ORDER BY created_at LIMIT 1
"""
# What people want to see first.
_ORDERS: Final = {
    AVAILABLE: "t.created_at",
    CLAIMED: "t.claimed_at",
    COMPLETED: "t.ended_at DESC NULLS LAST",
    FAILED: "t.ended_at DESC NULLS LAST",
}
_FIRST: Final = {
    state: f"""
SELECT {COLUMNS} FROM {{schema}}.tasks t WHERE t.state = '{state}' ORDER BY {order} LIMIT %s
"""
    for state, order in _ORDERS.items()
}
_COMPLETED_LATELY: Final = """
SELECT count(*) FROM {schema}.tasks WHERE state = 'completed' AND ended_at >= {now} - %s::float8
"""
_ONE: Final = f"SELECT {COLUMNS} FROM {{schema}}.tasks t WHERE t.task_id = %s"


def rows(database: Database, state: str) -> Iterator[Row]:
    """The tasks in one state, in no particular order.

    Raises
    ------
    ValueError
        There is no such state.
    PoolUnavailable
        The server cannot be reached.
    """
    if state not in STATES:
        raise ValueError(f"state {state!r} is none of {', '.join(STATES)}")
    return _completed(database) if state == COMPLETED else _in_state(database, state)


def _in_state(database: Database, state: str) -> Iterator[Row]:
    ids = [row[0] for row in database.query(_IDS[state], {})]
    for start in range(0, len(ids), _PAGE):
        page = {"ids": ids[start : start + _PAGE], "state": state}
        for columns in database.query(_SOME, page):
            yield Row(*columns)


def _completed(database: Database) -> Iterator[Row]:
    after: str | None = None
    while page := database.query(_COMPLETED, {"after": after}):
        for after, *columns in page:  # noqa: B007
            yield Row(*columns)


def counts(database: Database) -> dict[State, int]:
    """How many tasks are in each state."""
    available, claimed, failed, total = database.query(_COUNTS, {})[0]
    completed = total - available - claimed - failed
    return dict(zip(STATES, (available, claimed, completed, failed), strict=True))


def mine(database: Database, agent_id: object) -> list[Row]:
    """The claims that an agent holds, the oldest first."""
    return [Row(*row) for row in database.query(_MINE, [plain_text(agent_id)])]


def oldest_waiting(database: Database) -> tuple[str, float] | None:
    """The waiting task that was published first, and when, in seconds since the epoch."""
    for task_id, created_at in database.query(_OLDEST, {}):
        return task_id, created_at
    return None


def first(database: Database, state: str, limit: int) -> list[Row]:
    """The tasks longest in a state that comes to an end; of the other two the latest."""
    return [Row(*row) for row in database.query(_FIRST[state], [limit])]


def completed_lately(database: Database, within_s: float) -> int:
    """How many tasks were completed in so many seconds."""
    number: int = database.query(_COMPLETED_LATELY, [within_s])[0][0]
    return number


def one(database: Database, task_id: object) -> Row | None:
    """A task, in whatever state; None if there is none."""
    for row in database.query(_ONE, [f"{task_id}"]):
        return Row(*row)
    return None
