"""`fastclaim bench`: what a claim takes in a directory of yours, and what others take there."""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .. import core, layout
from . import exits, options
from .bench_contestants import Contestant, Entrant, entrants
from .output import Row, Screen, count, screen
from .stopping import EndOfWait

VERBS: Final = ("publish", "claim", "complete")
DEFAULT_TASKS: Final = 200
DEFAULT_ROUNDS: Final = 5
_MOST_TASKS: Final = 100_000  # each round of each entrant makes so many files

Medians = dict[str, float]


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="measure in a new directory in this one, removed afterwards; default: where the"
        " pool that would be used is, or is going to be",
    )
    parser.add_argument(
        "--tasks",
        metavar="N",
        type=options.whole(1, _MOST_TASKS),
        default=DEFAULT_TASKS,
        help=f"how many tasks a round; default: {DEFAULT_TASKS}",
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=options.whole(1, _MOST_TASKS),
        default=DEFAULT_ROUNDS,
        help=f"how many rounds, of which the median is shown; default: {DEFAULT_ROUNDS}",
    )


def run_bench(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    parent = _existing(arguments.dir)
    shown = screen()
    taking_part, left_out = entrants()
    doing = f"Measuring in {parent}"
    with (
        _directory_in(parent) as directory,
        shown.progress(doing, arguments.rounds * len(taking_part)) as report,
    ):
        medians = _measure(taking_part, directory, arguments.tasks, arguments.rounds, report)
    _show(shown, taking_part, medians)
    for reason in left_out:
        shown.say(reason)
    shown.say(
        f"Medians of {count(arguments.rounds, 'round')} of {count(arguments.tasks, 'task')} in one"
        f" process, in {parent}; {core} core."
    )
    return exits.OK


@contextmanager
def _directory_in(parent: str) -> Iterator[Path]:
    """A new directory, removed whatever ends the measuring; no signal cuts the removal short."""
    measuring = True
    with (
        EndOfWait(waits=lambda: measuring),
        tempfile.TemporaryDirectory(prefix="fastclaim-bench-", dir=parent) as directory,
    ):
        try:
            yield Path(directory)
        finally:
            measuring = False


def _existing(directory: str | None) -> str:
    """The directory that was asked for, or the nearest to the default pool that is there."""
    if directory is not None:
        if not os.path.isdir(directory):
            raise exits.BadInput(f"--dir {layout.shown(directory)}: not a directory")
        return directory
    # A benchmark must not be what makes the pool.
    pool = layout.default_base_dir()
    nearest = layout.DEFAULT_BASE_DIR if layout.is_url(pool) else os.path.abspath(pool)
    while not os.path.isdir(nearest):
        nearest = os.path.dirname(nearest)
    return nearest


def _measure(
    taking_part: Sequence[Entrant],
    directory: Path,
    tasks: int,
    rounds: int,
    report: Callable[[int], None],
) -> dict[str, Medians]:
    """Microseconds per operation, by entrant and verb."""
    figures: dict[str, dict[str, list[float]]] = {
        entrant.name: {verb: [] for verb in VERBS} for entrant in taking_part
    }
    done = 0
    for number in range(rounds):
        # Each time in another order: whatever else the machine does meets all alike.
        for entrant in random.Random(number).sample(taking_part, len(taking_part)):
            contestant = entrant.make(directory / f"{done}")
            try:
                for verb, figure in _round(contestant, tasks).items():
                    figures[entrant.name][verb].append(figure)
            finally:
                contestant.close()
            done += 1
            report(done)
    return {
        name: {verb: statistics.median(values) for verb, values in verbs.items()}
        for name, verbs in figures.items()
    }


def _round(contestant: Contestant, tasks: int) -> dict[str, float]:
    """All the tasks are published, then claimed, then completed."""
    ids = [f"{random.getrandbits(128):032x}" for _ in range(tasks)]
    figures = {}
    for verb in VERBS:
        do: Callable[[str], None] = getattr(contestant, verb)
        gc.collect()
        gc.disable()
        try:
            started_ns = time.perf_counter_ns()
            for task_id in ids:
                do(task_id)
            figures[verb] = (time.perf_counter_ns() - started_ns) / tasks / 1000
        finally:
            gc.enable()
    return figures


def _show(shown: Screen, taking_part: Sequence[Entrant], medians: dict[str, Medians]) -> None:
    rows = []
    for entrant in taking_part:
        of_it = medians[entrant.name]
        others = ", ".join(f"{verb} {of_it[verb]:,.0f}" for verb in VERBS if verb != "claim")
        note = f"{others}; {entrant.synced}"
        rows.append(Row(entrant.name, f"{of_it['claim']:,.0f} µs a claim", note))
    shown.rows(rows)
