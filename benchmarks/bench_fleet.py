"""What many waiting agents cost a host, each a process of its own; prints Markdown.

    python benchmarks/bench_fleet.py [--agents 8,40,150,400] [--dir DIR] [--rounds 3]

All wait for the same tasks. "few listen" is fastclaim as it is; "all listen" is the same without
`turnstile.py`: every agent waits on inotify, or looks ten times a second when a user's instances
are taken. An agent that gets a task completes it at once and waits again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from machine import describe_load, describe_machine

from fastclaim import TaskPool, selection

IDLE_S = 3.0
TASKS = 20
TICKS_S = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Of one fleet."""

    idle_share: float  # of one processor
    claimed_ms: float  # from a publication to its claim, median
    slowest_ms: float
    processor_ms: float  # of all agents together, for each task


def main() -> None:
    """Run all and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", default="8,40,150,400", help="how many wait")
    parser.add_argument("--dir", default="/dev/shm", help="where the pools are")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(describe_machine())
    print("\n| agents | who listens | idle, of a processor | claimed after, ms", end=" ")
    print("| the slowest | processor for a task, ms |\n|--:|--|--:|--:|--:|--:|")
    for agents in map(int, arguments.agents.split(",")):
        costs: dict[str, list[Cost]] = {"few": [], "all": []}
        for _ in range(arguments.rounds):
            for who, measured in costs.items():
                measured.append(cost_of(agents, who, arguments.dir))
        for who, measured in costs.items():
            idle, claimed, slowest, processor = map(statistics.median, zip(*measured, strict=True))
            print(
                f"| {agents} | {who} | {idle:.1%} | {claimed:.1f} | {slowest:.1f}"
                f" | {processor:.1f} |",
                flush=True,
            )
    print(f"\n{describe_load()}")


def cost_of(agents: int, who: str, directory: str) -> Cost:
    """One fleet, at rest and at work."""
    with tempfile.TemporaryDirectory(dir=directory) as base:
        pool = TaskPool(base, durability="none")
        with fleet(base, agents, who) as members:
            before_s = processor_s(members)
            time.sleep(IDLE_S)
            idle_s = processor_s(members) - before_s
            before_s = processor_s(members)
            waits_ms = [claimed_after_ms(pool, f"t{number}") for number in range(TASKS)]
            busy_s = processor_s(members) - before_s
    return Cost(
        idle_s / IDLE_S,
        statistics.median(waits_ms),
        max(waits_ms),
        busy_s / TASKS * 1e3,
    )


@contextlib.contextmanager
def fleet(base: str, agents: int, who: str) -> Iterator[list[int]]:
    """Processes that wait."""
    members = []
    try:
        for number in range(agents):
            process_id = os.fork()
            if process_id == 0:
                work(base, f"a{number}", who)
            members.append(process_id)
        settle(members)
        yield members
    finally:
        for member in members:
            os.kill(member, signal.SIGKILL)
        for member in members:
            os.waitpid(member, 0)


def work(base: str, agent_id: str, who: str) -> None:
    """What an agent does, until it is killed."""
    if who == "all":
        selection.Selection._turnstile = lambda *_: None  # type: ignore[method-assign]
    pool = TaskPool(base, durability="none")
    while True:
        claim = pool.claim_next(agent_id, wait=None)
        if claim is not None:
            claim.complete({"claimed_at": time.monotonic()})


def settle(members: list[int]) -> None:
    """Until they have done what they do before they wait, or do not come to rest."""
    for _ in range(20):
        before_s = processor_s(members)
        time.sleep(0.5)
        if processor_s(members) - before_s < 0.01:
            return


def processor_s(members: list[int]) -> float:
    """What they have used so far."""
    used = 0
    for member in members:
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICKS_S


def claimed_after_ms(pool: TaskPool, task_id: str) -> float:
    """From just before a publication to its claim."""
    started_s = time.monotonic()
    pool.publish(task_id)
    completed = pool.completed_dir / f"{task_id}_complete.json"
    while not completed.exists():
        time.sleep(0.001)
    (task,) = (task for task in pool.tasks("completed") if task["task_id"] == task_id)
    claimed_at_s: float = task["result"]["claimed_at"]
    time.sleep(0.2)  # until everybody waits again
    return (claimed_at_s - started_s) * 1e3


if __name__ == "__main__":
    main()
