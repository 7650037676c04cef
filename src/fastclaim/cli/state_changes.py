"""State changes of tasks, and those that a pool's files still tell of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from .. import layout, listing
from ..errors import InvalidTask
from . import fields

PUBLISHED: Final = "published"
CLAIMED: Final = "claimed"
COMPLETED: Final = "completed"
RELEASED: Final = "released"  # given back by its agent
FAILED: Final = "failed"  # an attempt failed
RECOVERED: Final = "recovered"  # its agent died, or its lease was over
RETRIED: Final = "retried"  # from failed back to available
REMOVED: Final = "removed"  # its file is no more
LOST: Final = "lost"  # the kernel had more to tell than it keeps: changes are missing here


class Change(NamedTuple):
    """A change of one task's state."""

    at_s: float  # since the epoch
    event: str
    task_id: str | None = None
    agent_id: str | None = None
    state: str | None = None  # what the task is in now
    held_s: float | None = None  # how long the agent had it, if that was seen
    waited_s: float | None = None  # how long it had waited, if that was seen
    error: str | None = None

    def as_dict(self) -> dict[str, object]:
        """What becomes a JSON line: only what is known."""
        named = {
            "at": self.at_s,
            "event": self.event,
            "task_id": self.task_id,
            "agent": self.agent_id,
            "state": self.state,
            "held_s": self.held_s,
            "waited_s": self.waited_s,
            "error": self.error,
        }
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in named.items()
            if value is not None
        }


def history(tasks_dir: str | os.PathLike[str]) -> list[Change]:
    """What the files tell of the past, in order; who gave a task back is not written anywhere.

    Raises
    ------
    OSError
        A directory or a file cannot be read.
    """
    found: list[Change] = []
    for state in layout.STATES:
        directory = os.path.join(os.fsencode(tasks_dir), state.encode())
        for path in listing.task_files(directory):
            try:
                changed_s = os.stat(path).st_mtime
                task = listing.read_task(path)
            except (FileNotFoundError, InvalidTask):
                continue  # it has moved on, or is none: `fastclaim doctor` says which
            found += _told_by(task, state, changed_s)
    return sorted(found, key=lambda change: change.at_s)


def _told_by(task: Mapping[str, Any], state: str, changed_s: float) -> Iterator[Change]:
    """The changes of one task, none of them before an earlier one."""
    later = list(_after_publication(task, state))
    said_s = fields.published(task) or changed_s
    # Of a foreign task without a time we know when its file changed last: then all we can say is
    # that it was there before what follows.
    published_s = min([said_s, *(change.at_s for change in later)])
    yield Change(published_s, PUBLISHED, f"{task.get('task_id')}", state=layout.AVAILABLE)
    is_known = published_s == said_s
    told_s = published_s
    for change in later:
        if change.event == CLAIMED and is_known:
            change = change._replace(waited_s=change.at_s - published_s)
        told_s = max(told_s, change.at_s)  # clocks are set back at times
        yield change._replace(at_s=told_s)


def _after_publication(task: Mapping[str, Any], state: str) -> Iterator[Change]:
    task_id, agent = f"{task.get('task_id')}", fields.holder(task)
    for failure in fields.failures(task):
        if (at_s := fields.moment(failure, "at")) is not None:
            agent_id = f"{failure.get('agent')}"
            yield Change(at_s, FAILED, task_id, agent_id, error=f"{failure.get('error')}")
    claimed_s = fields.moment(task, "claimed_at")
    if claimed_s is not None:
        yield Change(claimed_s, CLAIMED, task_id, agent, layout.CLAIMED)
    completed_s = fields.moment(task, "completed_at")
    if state == layout.COMPLETED and completed_s is not None:
        held_s = None if claimed_s is None else max(0.0, completed_s - claimed_s)
        yield Change(completed_s, COMPLETED, task_id, agent, state, held_s)
