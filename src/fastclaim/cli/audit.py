"""Whether every task was claimed once, completed once, and not too early: what the files say.

Nothing here counts what anybody did. The pool's directories say where each task ended and what it
looks like now, the agents' journals say who claimed and who completed it, and the two must agree.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .. import layout
from ..directories import Directories
from ..document import ENFORCEMENT, ENFORCEMENT_CLAIM_FIELDS, MANAGED_FIELDS
from ..errors import InvalidTask
from ..listing import read_task
from ..matching import names_in
from ..why import why
from . import journal
from .exits import one_line

Journals = Mapping[str, Sequence[Mapping[str, Any]]]
"""The events in each agent's journal, by agent."""

_ABSENT: Final = object()


class _Deed(NamedTuple):
    """What one line of a journal bears witness to."""

    agent_id: str
    claim_token: object


class _Deeds:
    """All lines of all journals, by task."""

    def __init__(self, journals: Journals) -> None:
        self.claims: dict[str, list[_Deed]] = defaultdict(list)
        self.completions: dict[str, list[_Deed]] = defaultdict(list)
        self.problems: list[str] = []
        kinds = {journal.CLAIMED: self.claims, journal.COMPLETED: self.completions}
        for agent_id, events in journals.items():
            for event in events:
                if event["event"] == journal.BROKEN:
                    self.problems.append(
                        f"{agent_id}'s journal has a broken line: {event['line']!r}"
                    )
                elif event["event"] in kinds:
                    deed = _Deed(agent_id, event.get("claim_token"))
                    kinds[event["event"]][f"{event.get('task_id')}"].append(deed)


def audit(
    pool: Directories, published: Iterable[Mapping[str, Any]], journals: Journals
) -> list[str]:
    """What is wrong, a line each; nothing if each task was claimed and completed once, and in turn.

    Parameters
    ----------
    pool : Directories
        The pool, in which nobody works any more.
    published : iterable of Mapping
        Every task as it was published; no others may be in the pool.
    journals : Journals
        The agents' journals.

    Raises
    ------
    OSError
        A directory or a file cannot be read.
    """
    expected = {f"{task['task_id']}": task for task in published}
    completed = dict(_completed(pool))
    deeds = _Deeds(journals)
    left, problems = _left(pool, completed)
    for task_id, task in expected.items():
        if task_id not in completed:
            if task_id not in left:
                problems.append(f"task {task_id!r} is lost: it is in none of the directories")
            problems += _doubled(task_id, deeds)
        else:
            problems += _changes(task_id, task, completed[task_id])
            problems += _contradictions(task_id, completed[task_id], deeds)
            problems += _too_early(task_id, completed)
    known = completed.keys() | deeds.claims.keys() | deeds.completions.keys()
    for task_id in sorted(known - expected.keys()):
        problems.append(f"task {task_id!r} was never published, but claimed or completed")
    return problems + deeds.problems


def _completed(pool: Directories) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Each file in completed/, by the task's id: the task, or why it cannot be read as one."""
    for name in os.listdir(pool.completed):
        task_id = os.fsdecode(name).removesuffix(layout.COMPLETED_SUFFIX)
        try:
            yield task_id, read_task(os.path.join(pool.completed, name))
        except InvalidTask as error:
            yield task_id, str(error)


def _left(pool: Directories, completed: Iterable[str]) -> tuple[set[str], list[str]]:
    """The tasks that were left in available/ and claimed/, and a line for each file there."""
    left: set[str] = set()
    problems = []
    for state, directory in ((layout.AVAILABLE, pool.available), (layout.CLAIMED, pool.claimed)):
        for name in sorted(map(os.fsdecode, os.listdir(directory))):
            if not name.endswith(layout.TASK_SUFFIX):
                problems.append(f"a file was left in {state}/: {name!r}")
                continue
            task_id, by, why_so = name.removesuffix(layout.TASK_SUFFIX), "", ""
            if state == layout.CLAIMED:
                # The agents of a demo have no "_" in their ids.
                task_id, _, agent_id = task_id.rpartition("_")
                by = f" by {agent_id}"
            if task_id in completed:
                why_so = ", though it is completed too"
            elif state == layout.AVAILABLE:
                why_so = f": it {_why(pool, task_id)}"
            left.add(task_id)
            problems.append(f"task {task_id!r} was left in {state}/{by}{why_so}")
    return left, problems


def _why(pool: Directories, task_id: str) -> str:
    """What keeps agents from a task; after its name."""
    return one_line(why(pool, task_id, None).removeprefix(f"task {task_id!r} "))


def _changes(
    task_id: str, published: Mapping[str, Any], completed: Mapping[str, Any] | str
) -> Iterator[str]:
    """Whether the completed task is the one that was published, and completed."""
    if isinstance(completed, str):
        yield f"task {task_id!r} cannot be read any more: {completed}"
        return
    if completed.get("status") != "completed":
        yield f"task {task_id!r} is in completed/ with status {completed.get('status')!r}"
    before, after = _callers_fields(published), _callers_fields(completed)
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in after:
            yield f"task {task_id!r} has lost its {name!r}"
        elif name not in before:
            yield f"task {task_id!r} has got a field {name!r}"
        elif before[name] != after[name]:
            yield f"task {task_id!r} has another {name!r} than was published"


def _too_early(task_id: str, completed: Mapping[str, Mapping[str, Any] | str]) -> Iterator[str]:
    """Whether the task was claimed only after all that it is blocked by had been completed."""
    task = completed[task_id]
    if isinstance(task, str):
        return
    for dependency in names_in(dict(task), "blocked_by"):
        done = completed.get(f"{dependency}")
        if done is None or isinstance(done, str):
            yield f"task {task_id!r} was done, though {dependency!r}, which blocks it, was not"
        elif not done["completed_at"] <= task["claimed_at"]:
            yield f"task {task_id!r} was claimed before {dependency!r}, which blocks it, was done"


def _callers_fields(task: Mapping[str, Any]) -> dict[str, str]:
    """The fields that no transition may change, as JSON text: 1 is not true, but NaN is NaN."""
    fields = {name: value for name, value in task.items() if name not in MANAGED_FIELDS}
    enforcement = task.get(ENFORCEMENT)
    if isinstance(enforcement, dict):
        fields[ENFORCEMENT] = {
            name: value
            for name, value in enforcement.items()
            if name not in ENFORCEMENT_CLAIM_FIELDS
        }
    return {name: json.dumps(value) for name, value in fields.items()}


def _doubled(task_id: str, deeds: _Deeds) -> Iterator[str]:
    for done, by in (("claimed", deeds.claims), ("completed", deeds.completions)):
        agents = [deed.agent_id for deed in by.get(task_id, ())]
        if len(agents) > 1:
            yield f"task {task_id!r} was {done} {len(agents)} times: by {', '.join(agents)}"


def _contradictions(
    task_id: str, completed: Mapping[str, Any] | str, deeds: _Deeds
) -> Iterator[str]:
    """Whether journals and file tell the same story, in which each thing happens once."""
    yield from _doubled(task_id, deeds)
    if not deeds.claims.get(task_id):
        yield f"task {task_id!r} is completed, but no agent's journal says that it claimed it"
    if not deeds.completions.get(task_id):
        yield f"task {task_id!r} is completed, but no agent's journal says that it completed it"
    if isinstance(completed, str):
        return
    stands = _Deed(completed.get("claimed_by", _ABSENT), completed.get("claim_token", _ABSENT))
    for deed in {*deeds.claims.get(task_id, ()), *deeds.completions.get(task_id, ())}:
        if deed != stands:
            yield f"task {task_id!r} is completed under another claim than that of {deed.agent_id}"
