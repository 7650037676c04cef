"""`fastclaim demo`: agents fight over tasks, and the files show that each was done exactly once."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .. import layout
from ..directories import DURABILITIES, Directories
from ..errors import InvalidName, InvalidTask
from ..matching import names_in
from ..pool import TaskPool
from . import exits, journal, options
from .agent_process import Orders
from .audit import Journals, audit
from .dependencies import check_dependencies
from .fleet import Fleet
from .output import Row, count, screen
from .task_file import TaskFile, read_task_file

if TYPE_CHECKING:
    from ..literals import Durability

SAMPLE: Final = Path(__file__).with_name("sample_tasks.jsonl")
DEFAULT_AGENTS: Final = 8
MAX_AGENTS: Final = 256
_PROBLEMS_SHOWN: Final = 10


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--tasks", metavar="FILE.jsonl", help="one task a line; default: a sample of a team's tasks"
    )
    parser.add_argument(
        "--agents",
        metavar="N",
        type=options.whole(1, MAX_AGENTS),
        help=f"how many agent processes; default: {DEFAULT_AGENTS}, but no more than tasks",
    )
    parser.add_argument(
        "--pool",
        metavar="DIR",
        help="use this empty or new pool, and keep it; default: a temporary one",
    )
    parser.add_argument(
        "--durability",
        choices=tuple(DURABILITIES),
        default="data",
        help="what each claim puts on disk before it returns; default: data",
    )
    parser.add_argument(
        "--no-lock-files",
        dest="lock_files",
        action="store_false",
        help="do without the lock files that agents of the original need",
    )


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    tasks = read_task_file(SAMPLE if arguments.tasks is None else arguments.tasks)
    agents = arguments.agents or min(DEFAULT_AGENTS, len(tasks.tasks))
    with _terminated_in_order():
        if arguments.pool is not None:
            _check_is_vacant(arguments.pool)
            return _Demo(arguments, tasks, agents, arguments.pool).run()
        base_dir = tempfile.mkdtemp(prefix="fastclaim-demo-")
        status = None
        try:
            status = _Demo(arguments, tasks, agents, base_dir).run()
        finally:
            # What went wrong must remain to be looked at.
            if status != exits.WRONG:
                shutil.rmtree(base_dir)
        return status


class _Demo:
    """One run: publish, let the agents at it, look at what they left."""

    def __init__(
        self, arguments: argparse.Namespace, tasks: TaskFile, agents: int, base_dir: str
    ) -> None:
        self._tasks = tasks
        self._agent_ids = [f"agent-{n}" for n in range(1, agents + 1)]
        # Absolute: agents are processes of their own.
        self._base_dir = os.path.abspath(base_dir)
        self._durability: Durability = arguments.durability
        self._lock_files: bool = arguments.lock_files
        self._debug: bool = arguments.debug
        self._journal_files = {
            agent_id: journal.journal_file(self._base_dir, agent_id) for agent_id in self._agent_ids
        }
        self._directories = Directories(self._base_dir, self._durability, self._lock_files)
        self._screen = screen()

    def run(self) -> int:
        """Returns the exit status."""
        self._publish()
        deaths = self._let_agents_work()
        journals = {
            agent_id: journal.read_journal(path) for agent_id, path in self._journal_files.items()
        }
        with self._screen.progress("Looking at what they left"):
            problems = deaths + audit(self._directories, self._tasks.tasks, journals)
        return self._verdict(problems, journals)

    def _publish(self) -> None:
        """All tasks, or none if one of them cannot be published, claimed and completed."""
        longest = max(self._agent_ids, key=len)
        try:
            check_dependencies(self._tasks.tasks)
            for task_id in self._tasks.lines:
                self._directories.completed_file(task_id)
                self._directories.claimed_file(task_id, longest)
            number = count(len(self._tasks.tasks), "task")
            with self._screen.progress(f"Publishing {number}"):
                pool = TaskPool(
                    self._base_dir, durability=self._durability, lock_files=self._lock_files
                )
                pool.publish_many(self._tasks.tasks)
        except (InvalidName, InvalidTask) as error:
            raise self._tasks.refuse(error) from error

    def _let_agents_work(self) -> list[str]:
        """Returns how agents ended that did not end well."""
        os.mkdir(os.path.join(self._base_dir, journal.DIRECTORY))
        tail = journal.Tail(self._journal_files.values())
        doing = f"{count(len(self._agent_ids), 'agent')} at work"
        with Fleet() as fleet:
            fleet.start(
                Orders(
                    self._base_dir,
                    self._durability,
                    self._lock_files,
                    agent_id,
                    self._debug,
                )
                for agent_id in self._agent_ids
            )
            with self._screen.progress(doing, len(self._tasks.tasks)) as report:
                fleet.run(lambda: report(tail.follow()))
            return fleet.failures()

    def _verdict(self, problems: list[str], journals: Journals) -> int:
        number = len(self._tasks.tasks)
        blocked = sum(bool(names_in(task, "blocked_by")) for task in self._tasks.tasks)
        figures = _Figures.of(journals)
        if not problems:
            self._screen.good(
                f"{count(number, 'task')}: each claimed exactly once and completed exactly once,"
                " and none before those that it waits for."
            )
        else:
            more = len(problems) - _PROBLEMS_SHOWN
            shown = problems[:_PROBLEMS_SHOWN]
            if more > 0:
                shown.append(f"and {more:,} more")
            self._screen.bad(f"{count(len(problems), 'thing')} went wrong:", shown)
        self._screen.rows(
            [
                Row("tasks", f"{number:,}", os.path.basename(self._tasks.path)),
                Row("agents", f"{len(self._agent_ids):,}", "processes, all after the same tasks"),
                Row("blocked", f"{blocked:,}", "tasks that waited for others to be completed"),
                *figures.rows(),
                Row("durability", self._durability, "" if self._lock_files else "no lock files"),
            ]
        )
        if problems:
            self._screen.say(f"The pool was kept: {self._base_dir}")
        return exits.WRONG if problems else exits.OK


class _Figures(NamedTuple):
    """What the journals say of speed."""

    claims: int
    claims_ns: list[int]  # of those that did not wait for a task, in ascending order
    elapsed_s: float | None  # None if no agent reached its end
    waits: int
    cores: set[str]

    @classmethod
    def of(cls, journals: Journals) -> _Figures:
        events = [event for own in journals.values() for event in own]
        kinds: dict[str, list[Mapping[str, Any]]] = {}
        for event in events:
            kinds.setdefault(event["event"], []).append(event)
        ends = kinds.get(journal.END, [])
        starts_ns = [event["at_ns"] for event in kinds.get(journal.START, [])]
        elapsed_ns = max(event["at_ns"] for event in ends) - min(starts_ns) if ends else None
        return cls(
            len(kinds.get(journal.CLAIMED, [])),
            sorted(
                event["claim_ns"]
                for event in kinds.get(journal.CLAIMED, [])
                if event["claim_ns"] is not None
            ),
            None if elapsed_ns is None else elapsed_ns / 1e9,
            sum(event["waits"] for event in ends),
            {event["core"] for event in kinds.get(journal.READY, [])},
        )

    def rows(self) -> list[Row]:
        return [
            Row("claims/s", self._claims_per_s(), "each with its completion"),
            Row("claim, median", self._at_most_us(0.5)),
            Row(
                "claim, p99",
                self._at_most_us(0.99),
                "with its waits for others and for a processor",
            ),
            Row("waits", f"{self.waits:,}", "for a task that could be claimed; not in the times"),
            Row("core", ", ".join(sorted(self.cores)) or "-"),
        ]

    def _claims_per_s(self) -> str:
        return f"{self.claims / self.elapsed_s:,.0f}" if self.elapsed_s else "-"

    def _at_most_us(self, share: float) -> str:
        """The time that this share of the claims did not exceed."""
        if not self.claims_ns:
            return "-"
        rank = max(1, math.ceil(share * len(self.claims_ns)))
        return f"{self.claims_ns[rank - 1] / 1000:,.0f} µs"


def _check_is_vacant(base_dir: str) -> None:
    """Raise BadInput unless nothing, an empty directory or an empty pool is there."""
    if "://" in base_dir:
        raise exits.BadInput(options.DIRECTORIES_ONLY)
    if not base_dir:
        # What `--pool "$POOL"` gives without that variable; nobody means the working directory.
        raise exits.BadInput("--pool: the name is empty")
    try:
        names = os.listdir(base_dir)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise exits.BadInput(f"--pool {base_dir}: not a directory") from error
    if names and "tasks" not in names:
        raise exits.BadInput(f"--pool {base_dir}: neither a pool nor empty")
    if journal.DIRECTORY in names:
        raise exits.BadInput(f"--pool {base_dir}: has the journals of an earlier demo in it")
    for state in layout.STATES:
        try:
            found = len(os.listdir(os.path.join(base_dir, "tasks", state)))
        except FileNotFoundError:
            continue
        if found:
            raise exits.BadInput(
                f"--pool {base_dir}: not an empty pool, there is something in {state}/"
            )


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Let the signals that would end the process at once raise `Terminated` instead."""

    def terminate(number: int, _: object) -> None:
        raise exits.Terminated(number)

    # Who ignores one of them, as nohup does, means it.
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
