"""Who takes the time of a race for one task, and how much of it; prints Markdown.

    python benchmarks/bench_race.py [--racers 32] [--rounds 15]

From the signal to the last racer's end, on a tmpfs: each racer is a process that has waited for
the signal, its processor's caches full of the others'. Each round runs all, in an order that
changes, in a fresh directory; the first races of a round are practice. What is shown are medians,
and the quartiles of a round's ratio to the bare `stat` calls of the same round.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import team
from contestants import DESCRIPTION, REQUIREMENTS, floor_library, task_ids
from machine import MEMORY_DIRECTORY, describe_load, describe_machine

from fastclaim import TaskPool, outcome, stamps, tokens
from fastclaim.document import loads
from fastclaim.inotify import Inotify
from fastclaim.locked_inode import LockedInode

RACES = 11
PRACTICE = 2  # a pool object's first miss looks for claims of that task, the second asks for deaths

Try = Callable[[str], bool]
"""Tries to get the task of this id; returns whether it did."""


def stat(pool: TaskPool, agent: str) -> Try:
    """One system call, on the directory in which tasks wait."""
    directory = os.fspath(pool.available_dir)
    return lambda task_id: not os.stat(directory)


def rename(pool: TaskPool, agent: str) -> Try:
    """What decides, and nothing else: nobody is told who has the task."""

    waiting, claimed = os.fspath(pool.available_dir), os.fspath(pool.claimed_dir)

    def attempt(task_id: str) -> bool:
        try:
            os.rename(f"{waiting}/{task_id}.json", f"{claimed}/{task_id}_{agent}.json")
        except FileNotFoundError:
            return False
        return True

    return attempt


def floor(pool: TaskPool, agent: str) -> Try:
    """The system calls of a claim alone, in one call of C: see floor.c."""
    pool.claim_task("nothing", agent)  # makes the owner file
    files = pool._directories
    tasks = files.current()
    ready, inotify = LockedInode(tasks.path), Inotify()
    has_open = pool, ready, inotify  # for as long as there is an attempt, which knows but numbers
    at = tasks.descriptor, tasks.owner.descriptor, ctypes.c_size_t(tasks.prefix_bytes)
    floor_library().floor_from(*at, ready.name)
    race, calls = floor_library().floor_race, {}
    for task_id in task_ids(RACES):
        available, claimed = files.claim_files(task_id, agent)
        names = available, files.lock_file(available), claimed, files.tasks
        calls[task_id] = (*map(ctypes.c_char_p, names), ctypes.c_int(inotify.descriptor))

    def attempt(task_id: str) -> bool:
        came_to: int = race(*calls[task_id])
        if came_to < 0:
            raise RuntimeError(f"{has_open}: {os.strerror(ctypes.get_errno())}")
        return came_to == 1

    return attempt


def floor_with_dict(pool: TaskPool, agent: str) -> Try:
    """The same, and the winner makes the dict that `claim_task` returns."""
    attempt = floor(pool, agent)
    document = ctypes.byref(ctypes.c_char.in_dll(floor_library(), "floor_document"))
    return lambda task_id: attempt(task_id) and bool(loads(ctypes.string_at(document)))


def core(pool: TaskPool, agent: str) -> Try:
    """The core's one call, with all that it needs at hand."""
    for _ in range(PRACTICE):
        pool.claim_task("nothing", agent)  # makes the owner file
    directories = pool._directories
    tasks = directories.current()
    fixed = *stamps.claim_stamp(agent, stamps.own_hold), tokens.new_token(), True
    owner, claim = tasks.owner.descriptor, directories.core.claim
    return lambda task_id: (
        claim(directories, tasks, task_id, agent, *fixed, owner, True)[0] == outcome.DONE
    )


def verb(pool: TaskPool, agent: str) -> Try:
    """`claim_task`."""
    return lambda task_id: bool(pool.claim_task(task_id, agent))


class Contestant(NamedTuple):
    """Who races, and for what."""

    enter: Callable[[TaskPool, str], Try]  # what a racer with this pool and agent id tries by
    lock_files: bool = True
    published: bool = True


STAT = "`os.stat`"
CONTESTANTS = {
    STAT: Contestant(stat),
    "`os.rename`": Contestant(rename),
    "the system calls alone, no lock files": Contestant(floor, lock_files=False),
    "the system calls alone": Contestant(floor),
    "the system calls, and the winner's dict": Contestant(floor_with_dict),
    "the core's call, no lock files": Contestant(core, lock_files=False),
    "the core's call": Contestant(core),
    "`claim_task`, no lock files": Contestant(verb, lock_files=False),
    "`claim_task`": Contestant(verb),
    "`claim_task`, of tasks that are not there": Contestant(verb, published=False),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--racers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    floor_library()  # not in each racer
    found: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(arguments.rounds):
        for name in random.sample([*CONTESTANTS], len(CONTESTANTS)):
            found[name].append(_race_us(CONTESTANTS[name], arguments.racers))
    print(describe_machine())
    print(
        f"\n| {arguments.racers} racers | µs until the last is told | times `os.stat` | quartiles |"
    )
    print("|---|--:|--:|--:|")
    for name, medians in found.items():
        ratios = [one / other for one, other in zip(medians, found[STAT], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"| {name} | {statistics.median(medians):.0f} | {middle:.2f} | {low:.2f}, {high:.2f} |"
        )
    print(f"\n{describe_load()}")


def _race_us(contestant: Contestant, racers: int) -> float:
    """One round: the median of its races."""
    enter, lock_files, published = contestant
    with tempfile.TemporaryDirectory(dir=MEMORY_DIRECTORY, prefix="fastclaim-race-") as base:
        ids = list(task_ids(RACES))
        pool = TaskPool(base)
        for task_id in ids if published else ():
            pool.publish_task(task_id, DESCRIPTION, REQUIREMENTS)

        def prepare(number: int) -> team.Work:
            attempt = enter(TaskPool(Path(base), lock_files=lock_files), f"agent-{number}")
            left = iter(ids)
            return lambda: [1] if attempt(next(left)) else []

        outcomes = team.repeatedly(racers, prepare, RACES, lambda number: None)
    won = sum(len(got) for one in outcomes for got in one.got)
    if enter is not stat and won != (RACES if published else 0):
        raise RuntimeError(f"{won} of {RACES} tasks were claimed")
    return statistics.median(one.elapsed_s for one in outcomes[PRACTICE:]) * 1e6


if __name__ == "__main__":
    main()
